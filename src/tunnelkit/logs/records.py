"""The records of a request's lines, cheap until somebody looks at them; and who takes the lines without records."""

from __future__ import annotations

import logging
from time import time
from typing import Any, Protocol, TypeAlias

from .text import Value

__all__ = ["AccessRecord", "Kind", "Lines", "always_of"]

Kind: TypeAlias = tuple[str, tuple[str, ...]]  # of a request's line: its event, and its fields' names


class Lines(Protocol):
    """Takes a request's lines as text: the record that logging makes of each costs more than the line."""

    def take_line(self, created: float, level: int, text: str) -> None:
        """``created`` in seconds since 1970. ``text``, one line of printable characters, is what a record's message
        would be."""


class _Later:
    """An attribute of a record that is there when its ``__dict__`` is."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, record: logging.LogRecord, of: object = None) -> Any:
        try:
            return record.__dict__[self._name]
        except KeyError:  # it was deleted since
            raise AttributeError(self._name) from None


class AccessRecord(logging.LogRecord):
    """One of the four lines of a request.

    They are written for every request, and logging's own way to a record (a walk up the stack for the caller's line,
    a dozen look-ups of what never changes) cost more than the request's way through both ends. So it begins with what
    handlers and formatters look at most. Whoever asks for anything else, or for its ``__dict__``, finds the whole
    record, which is made at that moment. ``always`` is what all of one logger and level have in common.
    """

    __slots__ = ("_always", "_kind", "_values", "printable")

    def __init__(self, always: dict[str, Any], kind: Kind, values: tuple[Value, ...], text: str) -> None:
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
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]  # an attribute of every object
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
    setattr(AccessRecord, _name, _Later(_name))


def always_of(name: str, level: int) -> dict[str, Any]:
    """What all records of one logger and level have in common; as the place that they come from, this module."""
    always = logging.LogRecord(name, level, __file__, 0, "", (), None).__dict__
    return always | dict.fromkeys({"taskName"} & always.keys())  # Python 3.12's: a request's lines come from several
