"""wsproto's decoder of frames, bounded; and what is wrong with a frame."""

from __future__ import annotations

from wsproto.frame_protocol import CloseReason, FrameDecoder, Header, Opcode, ParseFailed, XorMaskerSimple

from ...errors import RemoteProtocolError
from .masking import DEFAULT_MASK, PieceMasker

__all__ = ["BoundedDecoder", "FrameError"]


class FrameError(RemoteProtocolError):
    """The peer broke RFC 6455 or a limit. ``close_code`` is what it is to be told."""

    def __init__(self, message: str, close_code: int) -> None:
        self.close_code = close_code
        super().__init__(message, code="websocket_frame")


class BoundedDecoder(FrameDecoder):
    """wsproto's decoder that judges a frame by its header, before any of its payload is held."""

    def __init__(self, *, client: bool, max_message: int) -> None:
        super().__init__(client)
        self._max_message = max_message
        self._room = max_message  # what the message under way may still bring

    def parse_header(self) -> bool:
        if not super().parse_header():
            return False
        assert self.header is not None
        if not self.header.opcode.iscontrol():
            self._judge(self.header)
        if isinstance(self.masker, XorMaskerSimple):
            # Masking zeros gives the key, which wsproto keeps to itself.
            self.masker = PieceMasker(DEFAULT_MASK, bytes(self.masker.process(bytearray(4))))
        return True

    def _judge(self, header: Header) -> None:
        if header.opcode is Opcode.TEXT:
            raise ParseFailed("a text message where only binary ones are spoken", CloseReason.UNSUPPORTED_DATA)
        if header.payload_len > self._room:
            raise ParseFailed(f"a message above {self._max_message} bytes", CloseReason.MESSAGE_TOO_BIG)
        self._room = self._max_message if header.fin else self._room - header.payload_len
