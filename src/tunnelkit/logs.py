"""The log lines: their loggers, their form, and the four lines that follow a request through the tunnel.

``docs/logs.md`` explains every line. A record carries its fields twice: in its message as ``key=value`` text, and
structured as ``record.event`` and ``record.fields``. What peers sent is escaped and cut before it is written, so that
nobody forges lines or moves the terminal's cursor.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from time import time
from typing import Any, Final, Protocol, TypeAlias, TypeVar

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

Value: TypeAlias = str | bytes | int | float | bool | None
Fields: TypeAlias = Mapping[str, Value]
K = TypeVar("K")
V = TypeVar("V")

SERVER: Final = logging.getLogger("tunnelkit.server")  # what happens at a server, sessions above all
CLIENT: Final = logging.getLogger("tunnelkit.client")  # at a client
ACCESS: Final = logging.getLogger("tunnelkit.access")  # a line for each request, at either end
logging.getLogger("tunnelkit").addHandler(logging.NullHandler())

_Kind: TypeAlias = tuple[str, tuple[str, ...]]  # of a request's line: its event, and its fields' names
_RECEIVED: Final[_Kind] = "HTTP RCV", ("pkg", "token", "id", "verb", "url", "addr", "x-host", "try")
_SENT: Final[_Kind] = "WS   SND", ("pkg", "token", "id", "info", "ws", "try")
_ANSWER: Final[_Kind] = "WS   RCV", ("pkg", "token", "id", "ws", "len")
_RETURNED: Final[_Kind] = "HTTP RET", ("pkg", "token", "id", "status", "bytes", "ms", "outcome")

MAX_VALUE = 1024  # characters of one value
MAX_LINE = 16 * 1024  # characters of a message that did not come from here
MAX_LINES = 200  # of a traceback

_BARE = re.compile(r"[^\s\"=\\]*\Z")
_PLAIN_ASCII = re.compile(r"[!#-<>-\[\]-~]{0,1024}\Z").match  # bare, printable and short: most values are
_PLAIN_WORDS = re.compile(r"[ !#-\[\]-~]{0,1024}\Z").match  # the same with spaces: wants quotes, and no escapes
_QUOTED = {"\\": "\\\\", '"': '\\"'}
# The first path segment after /_token/ is a secret, whoever sent it and whether or not it is known; so it is
# where pages put a path into a query (?next=%2F_token%2F...).
_TOKEN_PATH = re.compile(r"((?:/|%2[Ff])(?:_|%5[Ff])token(?:/|%2[Ff]))([^/?#\s]*)")
_EVENT_WIDTH = 13  # of WStunnel's lines: "HTTP RCV     "
_TEXTS_KEPT = 256  # of tokens, and of other words: most requests have the same few
_TARGETS_KEPT, _TARGET_KEPT = 256, 256  # requests whose text is, and the size of the longest


# -- text that peers sent ---------------------------------------------------------------------


def printable(value: Value, limit: int = MAX_VALUE) -> str:
    """``value`` as one line of printable text of at most about ``limit`` characters; the rest is counted.

    Control characters, ANSI escapes, line separators, and what reorders or hides text (bidirectional and zero-width
    characters) are written as escapes.
    """
    text, rest = _cut(value, limit)
    if not text.isprintable():
        text = "".join(char if char.isprintable() else _escape(char) for char in text)
    return text + rest


def quoted(value: Value) -> str:
    """``printable``, in quotes and with escapes where it could be taken for something else on its line."""
    text = value if type(value) is str else _text(value)
    if _PLAIN_ASCII(text):
        return text
    if _PLAIN_WORDS(text):
        return f'"{text}"'
    text, rest = _cut(text, MAX_VALUE)
    if _BARE.match(text) and text.isprintable():
        return text + rest
    escaped = (_QUOTED.get(char) or (char if char.isprintable() else _escape(char)) for char in text)
    return f'"{"".join(escaped)}{rest}"'


def _cut(value: Value, limit: int) -> tuple[str, str]:
    """The text of a value, at most ``limit`` characters of it, and how many were left out."""
    text = _text(value)
    cut = len(text) - limit
    return (text[:limit], f"[+{cut}]") if cut > 0 else (text, "")


def _text(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, float):
        return f"{value:.1f}"
    return str(value)


def _escape(char: str) -> str:
    number = ord(char)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def mask_target(target: str | bytes) -> str:
    """A request target with the token in its path masked: its first 8 characters, never more than half of it.

    >>> mask_target("/_token/a-secret-of-16-letters/page?x=1")
    '/_token/a-secret.../page?x=1'
    """
    text = target.decode("latin-1") if isinstance(target, bytes) else target
    if "token" not in text:
        return text
    return _TOKEN_PATH.sub(lambda match: f"{match[1]}{match[2][: min(8, len(match[2]) // 2)]}...", text)


def mask_userinfo(url: str | bytes) -> str | bytes:
    """A URL, or what somebody gave for one, without what stands before "@": there may be a password in it.

    >>> mask_userinfo("http://user:password@proxy.example:3128")
    'http://...@proxy.example:3128'
    """
    text = url.decode("latin-1") if isinstance(url, bytes) else url
    before, at, rest = text.rpartition("@")
    if not at:
        return url
    scheme = re.match("[A-Za-z]{1,8}://", before)
    return f"{scheme[0] if scheme else ''}...@{rest}"


# -- events with fields -----------------------------------------------------------------------


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
            if value.__class__ is not int and not (value.__class__ is str and _PLAIN_ASCII(value)):
                value = quoted(value)  # what most are not in need of
            parts.append(f"{key}={value}")
        return " ".join(parts)


def log_event(logger: logging.Logger, level: int, event: str, /, **fields: Value) -> None:
    """Log ``event`` with ``fields``, which stand in the message and, structured, in the record."""
    if logger.isEnabledFor(level):
        logger.log(level, "%s", _Line(event, fields), extra={"event": event, "fields": fields}, stacklevel=2)


class _Later:
    """An attribute of a record that is there when its ``__dict__`` is."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, record: logging.LogRecord, of: object = None) -> Any:
        try:
            return record.__dict__[self._name]
        except KeyError:  # it was deleted since
            raise AttributeError(self._name) from None


class _AccessRecord(logging.LogRecord):
    """One of the four lines of a request.

    They are written for every request, and logging's own way to a record (a walk up the stack for the caller's line,
    a dozen look-ups of what never changes) cost more than the request's way through both ends. So it begins with what
    handlers and formatters look at most. Whoever asks for anything else, or for its ``__dict__``, finds the whole
    record, which is made at that moment. ``always`` is what all of one logger and level have in common.
    """

    __slots__ = ("_always", "_kind", "_values", "printable")

    def __init__(self, always: dict[str, Any], kind: _Kind, values: tuple[Value, ...], text: str) -> None:
        self.created = time()
        self.levelno = always["levelno"]
        self.levelname = always["levelname"]
        self.msg = self.printable = text  # it is known to be so, as long as it is the message
        self.args = ()
        self.exc_info = None
        self._always: dict[str, Any] | None = always
        self._kind = kind
        self._values = values

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        own: dict[str, Any] = _own_dict(self)
        if self._always is not None:
            own.update(self._whole(self._always) | own)
            self._always = None
        return own

    def _whole(self, always: dict[str, Any]) -> dict[str, Any]:
        now, (event, names) = self.created, self._kind
        return always | {
            "msecs": int(now % 1 * 1000) + 0.0,
            "relativeCreated": always["relativeCreated"] + (now - always["created"]) * 1000,
            "event": event,
            "fields": dict(zip(names, self._values, strict=True)),
        }

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied and pickled as a usual record."""
        return logging.makeLogRecord, (self.__dict__,)

    def getMessage(self) -> str:
        return super().getMessage() if self.args else str(self.msg)


_own_dict = vars(logging.LogRecord)["__dict__"].__get__  # past the property
_AT_ONCE = {"created", "levelno", "levelname", "msg", "args", "exc_info"}
for _name in {*vars(logging.makeLogRecord({})), "event", "fields"} - _AT_ONCE:
    setattr(_AccessRecord, _name, _Later(_name))


class _Kept(dict[K, V]):
    """What ``make`` made of a key, in the fewest steps to it. When there are too many, all are forgotten."""

    def __init__(self, make: Callable[[K], V]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: K) -> V:
        if len(self) >= _TEXTS_KEPT:
            self.clear()
        self[key] = value = self._make(key)
        return value


class Lines(Protocol):
    """Takes a request's lines as text: the record that logging makes of each costs more than the line."""

    def take_line(self, created: float, level: int, text: str) -> None:
        """``created`` in seconds since 1970. ``text``, one line of printable characters, is what a record's message
        would be."""


class AccessLog:
    """The lines HTTP RCV, WS SND, WS RCV and HTTP RET of one end. Tokens are given masked.

    The outer two are INFO, the inner two DEBUG; a program that wants them at another level sets ``inner_level``, of
    the class or of one log. Each costs one check when its level is off. To be made in the thread that writes them,
    whose name stands in the records. Each line's text is put together here, as ``_Line`` would: its fields are known,
    and of most of them it is known that nothing in them wants quotes.
    """

    inner_level: int = logging.DEBUG  # of WS SND and WS RCV
    # Who gets them in place of the logger's handlers, unless it has filters; to be set as ``inner_level`` is.
    lines: Lines | None = None

    def __init__(self, pkg: str = "tunnelkit.server", logger: logging.Logger = ACCESS) -> None:
        self._pkg = pkg
        self._logger = logger
        self._always = _Kept[int, dict[str, Any]](lambda level: _always(logger.name, level))
        self._whose = _Kept[str, str](lambda token: f" pkg={quoted(pkg)} token={quoted(token)} id=")
        self._shown = _Kept[str, str](quoted)

    def received(
        self,
        *,
        id: int,
        token: str,
        verb: str | bytes,
        url: str | bytes,
        addr: str,
        x_host: str | bytes = "",
        attempt: int | None = None,
    ) -> None:
        """HTTP RCV: a request came and has its place. ``attempt`` is given from the second on."""
        if self._logger.isEnabledFor(logging.INFO):
            asked = _asked_once if len(url) + len(x_host) > _TARGET_KEPT else _asked
            url, x_host, shown = asked(verb, url, addr, x_host)
            text = f"HTTP RCV     {self._whose[token]}{id} {shown} try={'' if attempt is None else attempt}"
            values = (self._pkg, token, id, verb, url, addr, x_host, attempt)
            self._write(logging.INFO, _RECEIVED, values, text)

    def sent(self, *, id: int, token: str, info: str | bytes, ws: str = "", attempt: int | None = None) -> None:
        """WS SND: the request goes to the session ``ws``. ``info`` is its method and target."""
        if self._logger.isEnabledFor(level := self.inner_level):
            info, shown = (_info_once if len(info) > _TARGET_KEPT else _info)(info)
            again = "" if attempt is None else attempt
            text = f"WS   SND     {self._whose[token]}{id} info={shown} ws={self._shown[ws]} try={again}"
            self._write(level, _SENT, (self._pkg, token, id, info, ws, attempt), text)

    def answer(self, *, id: int, token: str, ws: str = "", length: int | None = None) -> None:
        """WS RCV: the answer's head came back through the session; ``length`` is what it says of its body."""
        if self._logger.isEnabledFor(level := self.inner_level):
            shown = "" if length is None else length
            text = f"WS   RCV     {self._whose[token]}{id} ws={self._shown[ws]} len={shown}"
            self._write(level, _ANSWER, (self._pkg, token, id, ws, length), text)

    def returned(self, *, id: int, token: str, status: int, sent: int, seconds: float, outcome: str) -> None:
        """HTTP RET: the exchange is over. ``sent`` counts the answer's body bytes that the caller was given."""
        if self._logger.isEnabledFor(logging.INFO):
            ms = round(seconds * 1000)
            how = self._shown[outcome]
            text = f"HTTP RET     {self._whose[token]}{id} status={status} bytes={sent} ms={ms} outcome={how}"
            values = (self._pkg, token, id, status, sent, ms, outcome)
            self._write(logging.INFO, _RETURNED, values, text)

    def _write(self, level: int, kind: _Kind, values: tuple[Value, ...], text: str) -> None:
        lines, logger = self.lines, self._logger
        if lines is not None and not logger.filters:
            lines.take_line(time(), level, text)
            return
        record = _AccessRecord(self._always[level], kind, values, text)
        if logger.filters:
            logger.handle(record)
        else:  # what is left of it: it is known that the logger is not disabled
            logger.callHandlers(record)


# Callers ask the same again and again: what is shown of it is made once, where it is short.


def _asked_once(verb: str | bytes, url: str | bytes, addr: str, x_host: str | bytes) -> tuple[str, str | bytes, str]:
    """The target and X-Host without their secrets, and all of it as it stands on the line."""
    url, x_host = mask_target(url), mask_userinfo(x_host)
    return url, x_host, f"verb={quoted(verb)} url={quoted(url)} addr={quoted(addr)} x-host={quoted(x_host)}"


def _info_once(info: str | bytes) -> tuple[str, str]:
    """Method and target without secrets, and as they stand on the line."""
    masked = mask_target(info)
    return masked, quoted(masked)


_asked = lru_cache(maxsize=_TARGETS_KEPT)(_asked_once)
_info = lru_cache(maxsize=_TARGETS_KEPT)(_info_once)


def _always(name: str, level: int) -> dict[str, Any]:
    """What all records of one logger and level have in common; as the place that they come from, this module."""
    always = logging.LogRecord(name, level, __file__, 0, "", (), None).__dict__
    return always | dict.fromkeys({"taskName"} & always.keys())  # Python 3.12's: a request's lines come from several


# -- formatters for programs that have none of their own ------------------------------------------


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
        if type(record) is _AccessRecord and record.msg is record.printable and not record.args:
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
