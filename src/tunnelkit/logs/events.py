"""Events with fields, in a record's message and in the record."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TypeAlias

from .text import PLAIN_ASCII, Value, quoted

__all__ = ["Fields", "log_event"]

Fields: TypeAlias = Mapping[str, Value]

_EVENT_WIDTH = 13  # of WStunnel's lines: "HTTP RCV     "


class _Line:
    """An event and its fields; rendered only when a handler writes it."""

    __slots__ = ("event", "fields")

    def __init__(self, event: str, fields: Fields) -> None:
        self.event = event
        self.fields = fields

    def __str__(self) -> str:
        if not self.fields:
            return self.event
        parts = [self.event.ljust(_EVENT_WIDTH)]
        for key, value in self.fields.items():
            if value.__class__ is not int and not (value.__class__ is str and PLAIN_ASCII(value)):
                value = quoted(value)  # what most are not in need of
            parts.append(f"{key}={value}")
        return " ".join(parts)


def log_event(logger: logging.Logger, level: int, event: str, /, **fields: Value) -> None:
    """Log ``event`` with ``fields``, which stand in the message and, structured, in the record."""
    if logger.isEnabledFor(level):
        logger.log(level, "%s", _Line(event, fields), extra={"event": event, "fields": fields}, stacklevel=2)
