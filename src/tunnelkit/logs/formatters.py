"""Formatters for programs that have none of their own."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

from .events import Fields
from .records import AccessRecord
from .text import MAX_VALUE, Value, printable

__all__ = ["JsonFormatter", "TextFormatter"]

MAX_LINE = 16 * 1024  # characters of a message that did not come from here
MAX_LINES = 200  # of a traceback


class TextFormatter(logging.Formatter):
    """One line a record: time, level, message. A traceback follows indented, so that no line of it looks like one."""

    def __init__(self) -> None:
        super().__init__()
        # The last second, and how its lines begin, by the names of their levels, or their numbers. All at once, as
        # several threads may log.
        self._starts: tuple[int, dict[str | int, str]] = (0, {})

    def format_line(self, created: float, level: int, text: str) -> str:
        """A line that never was a record (``Lines``)."""
        second, starts = self._starts
        start = starts.get(level) if 0 <= created - second < 1 else None
        if start is None:
            values = {"created": created, "levelno": level, "levelname": logging.getLevelName(level)}
            start = self._make_start(logging.makeLogRecord(values), level)
        return start + text

    def format(self, record: logging.LogRecord) -> str:
        second, starts = self._starts
        start = starts.get(record.levelname) if 0 <= record.created - second < 1 else None
        if start is None:
            start = self._make_start(record, record.levelname)
        if type(record) is AccessRecord and record.msg is record.printable and not record.args:
            message = record.printable
            is_printable = True
        else:
            message = record.getMessage()
            is_printable = message.isprintable()
        if not is_printable or len(message) > MAX_LINE:
            message = printable(message, MAX_LINE)
        line = start + message
        if not record.exc_info:
            return line
        # logging's own format() keeps a traceback's text in the record, as another handler's formatter made it.
        traceback = _printable_lines(self.formatException(record.exc_info))
        return "\n".join([line, *[f"    {line}" for line in traceback]])

    def _make_start(self, record: logging.LogRecord, level: str | int) -> str:
        second, starts = self._starts
        if not 0 <= record.created - second < 1:
            self._starts = _, starts = int(record.created), {}
        start = starts[level] = f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S%z')} {record.levelname:<7} "
        return start


class JsonFormatter(logging.Formatter):
    """One JSON object a record: time, level, logger, message, and the event's fields beside them."""

    _start = (-1, "")  # the last second, and how its times begin

    def format(self, record: logging.LogRecord) -> str:
        document: dict[str, object] = {
            "time": self._time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        fields: Fields | None = getattr(record, "fields", None)
        if fields is None:
            document["message"] = printable(record.getMessage(), MAX_LINE)
        else:
            document["message"] = getattr(record, "event", "")
            for key, value in fields.items():
                if key not in document:
                    document[key] = _json_value(value)
        if record.exc_info:
            document["exception"] = "\n".join(_printable_lines(self.formatException(record.exc_info)))
        return json.dumps(document, ensure_ascii=True)

    def _time(self, created: float) -> str:
        """As ``datetime`` writes it, in milliseconds, but its date and clock are made once a second."""
        micros = round(created % 1 * 1_000_000)
        second = int(created) + micros // 1_000_000
        last, start = self._start
        if second != last:
            start = datetime.fromtimestamp(second, UTC).isoformat().removesuffix("+00:00")
            self._start = second, start
        return f"{start}.{micros // 1000 % 1000:03}+00:00"


def _printable_lines(text: str) -> list[str]:
    """A traceback's lines; of too many the last, where the error stands."""
    lines = text.splitlines()
    return [printable(line) for line in lines[-MAX_LINES:]]


def _json_value(value: Value) -> object:
    if value.__class__ is str and value.isprintable() and len(value) <= MAX_VALUE:
        return value  # as most are
    return printable(value) if isinstance(value, (str, bytes)) else value
