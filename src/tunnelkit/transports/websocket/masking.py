"""Masking of RFC 6455 (5.3): websockets' C code where it is installed (extra ``speed``), else wsproto's.

64 KiB cost 1.4 us with the one and 76 us with the other, and every message that a tunnel client sends is masked.
"""

from __future__ import annotations

from typing import Final, Protocol

from wsproto.frame_protocol import XorMaskerSimple

from ...net.stream import Buffer

__all__ = ["DEFAULT_MASK", "Mask", "PieceMasker", "find_mask", "mask_by_wsproto", "name_of"]


class Mask(Protocol):
    """The bytes of ``data`` masked with the four bytes of ``key``, from the first of them on."""

    def __call__(self, data: Buffer, key: bytes, /) -> bytes: ...


def mask_by_wsproto(data: Buffer, key: bytes, /) -> bytes:
    return bytes(XorMaskerSimple(key).process(bytearray(data)))


def find_mask() -> Mask:
    """The fastest that is installed."""
    try:
        from websockets.speedups import apply_mask
    except ImportError:
        return mask_by_wsproto
    return apply_mask


DEFAULT_MASK: Final = find_mask()


def name_of(mask: Mask) -> str:
    """The package that it comes from, for logs."""
    return "wsproto" if mask is mask_by_wsproto else "websockets"


class PieceMasker(XorMaskerSimple):
    """What wsproto's decoder calls for each piece of a payload, by way of ``mask``, which keeps no position: the key
    is turned instead."""

    def __init__(self, mask: Mask, key: bytes) -> None:
        self._mask = mask
        self._key = key

    def process(self, data: bytearray) -> bytearray:
        turn = len(data) % 4
        masked = bytearray(self._mask(data, self._key))
        self._key = self._key[turn:] + self._key[:turn]
        return masked
