"""What the extra ``speed`` brings and was found here. None of it is needed, and none changes what passes."""

from __future__ import annotations

from dataclasses import dataclass

from .http.h11_codec import H11_PARSER
from .http.parsers import find_parser
from .transports.websocket.masking import DEFAULT_MASK, name_of

__all__ = ["Accelerators", "find_accelerators"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Accelerators:
    """The packages in use: ``parser`` of HTTP heads ("httptools" or "h11"), ``masker`` of websocket frames
    ("websockets" or "wsproto"). uvloop is the business of whoever starts the event loop."""

    parser: str
    masker: str


def find_accelerators(parser: str = "auto") -> Accelerators:
    """``parser`` is what ``TunnelServer`` and ``TunnelClient`` are given. Raises ConfigError like them."""
    found = "h11" if find_parser(parser) is H11_PARSER else "httptools"
    return Accelerators(parser=found, masker=name_of(DEFAULT_MASK))
