"""What makes tunnelkit faster and was found here: what the extra ``speed`` brings, and whether its own modules are
compiled. None of it is needed, and none changes what passes."""

from __future__ import annotations

from dataclasses import dataclass

from .core import session
from .http.h11_codec import H11_PARSER
from .http.parsers import find_parser
from .transports.websocket.masking import DEFAULT_MASK, name_of

__all__ = ["Accelerators", "find_accelerators"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Accelerators:
    """The packages in use: ``parser`` of HTTP heads ("httptools" or "h11"), ``masker`` of websocket frames
    ("websockets" or "wsproto"). ``compiled``: the modules that requests pass through are (``TUNNELKIT_COMPILE=1``
    when tunnelkit was installed). uvloop is the business of whoever starts the event loop."""

    parser: str
    masker: str
    compiled: bool = False


def find_accelerators(parser: str = "auto") -> Accelerators:
    """``parser`` is what ``TunnelServer`` and ``TunnelClient`` are given. Raises ConfigError like them."""
    found = "h11" if find_parser(parser) is H11_PARSER else "httptools"
    compiled = not session.__file__.endswith(".py")
    return Accelerators(parser=found, masker=name_of(DEFAULT_MASK), compiled=compiled)
