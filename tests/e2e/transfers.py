"""Long bodies through a tunnel, downwards and upwards, whose progress a test can watch."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tunnelkit.net.stream import ByteStream

from .origin import BLOCK, pattern_digest
from .tunnel import Ends, read_head

__all__ = ["Download", "Transfer", "Upload", "is_inside_a_body"]


@dataclass(eq=False)
class Transfer(ABC):
    tunnel: Ends
    size: int
    done: int = 0  # bytes of the body that the caller received or sent

    @property
    def is_inside(self) -> bool:
        """Part of the body was moved, and part of it was not."""
        return 0 < self.done < self.size

    @abstractmethod
    async def run(self) -> None:
        """Raises AssertionError unless every byte arrives, in order."""


def is_inside_a_body(transfers: Iterable[Transfer]) -> bool:
    return any(transfer.is_inside for transfer in transfers)


class Download(Transfer):
    async def run(self) -> None:
        digest = hashlib.sha256()
        async with self.tunnel.caller() as stream:
            await stream.send(_head(self, f"GET {self.tunnel.path(f'/bytes/{self.size}')}"))
            status, _, data = await read_head(stream)
            assert status == 200
            while True:
                digest.update(data)
                self.done += len(data)
                if self.done >= self.size:
                    break
                data = await stream.receive()
                assert data, f"{self.done} of {self.size} bytes, then the end"
        assert self.done == self.size
        assert digest.hexdigest() == pattern_digest(self.size)


class Upload(Transfer):
    async def run(self) -> None:
        async with self.tunnel.caller() as stream:
            await stream.send(_head(self, f"PUT {self.tunnel.path('/sink')}", f"Content-Length: {self.size}\r\n"))
            for piece in _pieces(self.size):
                await stream.send(piece)
                self.done += len(piece)
            assert await _answer(stream) == {"size": self.size, "sha256": pattern_digest(self.size)}


def _head(transfer: Transfer, line: str, more: str = "") -> bytes:
    return f"{line} HTTP/1.1\r\nHost: tunnel.test\r\n{more}\r\n".encode()


def _pieces(size: int) -> Iterator[bytes]:
    for start in range(0, size, len(BLOCK)):
        yield BLOCK[: size - start]


async def _answer(stream: ByteStream) -> object:
    status, fields, body = await read_head(stream)
    assert status == 200
    length = next(int(value) for name, value in fields if name.lower() == "content-length")
    while len(body) < length:
        piece = await stream.receive()
        assert piece, "the connection ended inside the answer"
        body += piece
    return json.loads(body)
