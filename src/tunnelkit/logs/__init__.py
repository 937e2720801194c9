"""The log lines: their loggers, their form, and the four lines that follow a request through the tunnel.

``docs/logs.md`` explains every line. A record carries its fields twice: in its message as ``key=value`` text, and
structured as ``record.event`` and ``record.fields``. What peers sent is escaped and cut before it is written, so that
nobody forges lines or moves the terminal's cursor.
"""

from __future__ import annotations

from .access import AccessLog
from .events import log_event
from .formatters import JsonFormatter, TextFormatter
from .loggers import ACCESS, CLIENT, SERVER
from .records import Lines
from .text import mask_target, mask_userinfo, printable, quoted

__all__ = [
    "ACCESS",
    "CLIENT",
    "SERVER",
    "AccessLog",
    "JsonFormatter",
    "Lines",
    "TextFormatter",
    "log_event",
    "mask_target",
    "mask_userinfo",
    "printable",
    "quoted",
]
