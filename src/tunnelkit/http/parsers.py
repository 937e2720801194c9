"""Which parser reads heads: httptools where it is installed (extra ``speed``), else h11. Decided here alone.

Whichever it is, the same heads pass, and the same are refused with the same status and code.
"""

from __future__ import annotations

from typing import Final

from ..errors import ConfigError
from .codec import HeadParser
from .h11_codec import H11_PARSER

__all__ = ["DEFAULT_PARSER", "PARSERS", "find_parser"]

PARSERS: Final = ("auto", "httptools", "h11")


def find_parser(name: str = "auto") -> HeadParser:
    """The parser called ``name``, one of ``PARSERS``. Raises ``ConfigError`` for another name, and for one that is
    not installed."""
    if name not in PARSERS:
        raise ConfigError("parser", f"{name!r} is unknown", "give " + ", ".join(PARSERS[:-1]) + f" or {PARSERS[-1]}")
    if name != "h11":
        try:
            from .httptools_codec import HTTPTOOLS_PARSER
        except ImportError:
            if name == "httptools":
                fix = "pip install 'tunnelkit[speed]', or leave it out"
                raise ConfigError("parser", "httptools is not installed", fix) from None
        else:
            return HTTPTOOLS_PARSER
    return H11_PARSER


DEFAULT_PARSER: Final = find_parser()
