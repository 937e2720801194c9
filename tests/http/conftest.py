from __future__ import annotations

from ..parsers import each_parser

__all__ = ["each_parser"]
