"""A log file that may be rotated, and whose disk may be full for a while."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import TypeAlias

from tunnelkit.logs import TextFormatter

from .console import warn
from .shortly import Shortly

__all__ = ["LogFile"]

# Seconds between two complaints: a disk that is full stays so for many lines.
INTERVAL = 60.0
# Seconds between two looks at what has the file's name. What is written between stands at the end of the old file.
LOOK = 1.0
# Lines that are written together at most: some 64 KiB of a request's.
TOGETHER = 400
# Seconds after which a line is not left to whoever was to write the one before: the loop has stopped.
OVERDUE = 1.0
CLOSED = -1

# What waits to be written: a record, its line, or a request's line as ``take_line`` took it, and whose form it has.
_Waiting: TypeAlias = logging.LogRecord | str | tuple[TextFormatter, float, int, str]


class LogFile(logging.Handler):
    """Appends to a file, which is its owner's alone, and opens it again when something rotated it.

    Lines that cannot be written are lost, never kept: memory stays as it is. That is told on standard error, once a
    minute, and the file says how many they were as soon as it can be written again. The standard library's handlers
    print a traceback for every such line, and let an error of opening again out at whoever logs.

    Inside an event loop lines are formatted and written together, some milliseconds later: there are four a request,
    and to write each costs more than to make it. A warning, or what is worse, is written at once, with those before
    it.

    Raises OSError when the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._file = self._open()
        self._looked_at = monotonic()
        self._torn = False  # the file ends inside a line
        self._lost = 0
        self._reason = ""
        self._told_at: float | None = None
        self._waiting: list[_Waiting] = []
        self._is_left = False  # what waits is left to a flush that is to come
        self._overdue = 0.0  # when those that wait have waited too long, in the records' time
        self._unwritten = 0  # lines of those that are being written
        self._shortly = Shortly(self.flush)
        self._text: TextFormatter | None = None

    @property
    def takes_lines(self) -> bool:
        """Whether ``take_line`` may be called: it is text that the file holds."""
        return self._text is not None

    def setFormatter(self, fmt: logging.Formatter | None) -> None:
        super().setFormatter(fmt)
        self._text = fmt if type(fmt) is TextFormatter else None

    def _open(self) -> int:
        return os.open(self._path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)

    def handle(self, record: logging.LogRecord) -> bool:
        """As logging's own does, in fewer calls and without the lock, which costs as much as the rest: it comes for
        every line of every request. To append to a list needs none; who writes holds it."""
        if self.filters:
            return bool(super().handle(record))
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        waiting = self._waiting
        # What a record refers to may have changed by then; of a text alone nothing does.
        if record.args or record.exc_info or record.msg.__class__ is not str:
            waiting.extend(self._formatted([record]))
        else:
            waiting.append(record)
        self._see_to(record.created, may_wait=record.levelno < logging.WARNING)

    def take_line(self, created: float, level: int, text: str) -> None:
        """A request's line, of which no record is made (``AccessLog.lines``)."""
        assert self._text is not None
        waiting = self._waiting
        waiting.append((self._text, created, level, text))
        if not self._is_left or created >= self._overdue or len(waiting) >= TOGETHER or level >= logging.WARNING:
            self._see_to(created, may_wait=level < logging.WARNING)

    def _see_to(self, created: float, *, may_wait: bool) -> None:
        """That what waits is written: soon, or now."""
        may_wait = may_wait and len(self._waiting) < TOGETHER
        if not self._is_left:
            # From here on others may leave theirs to us: there is no lock. So we ask, or write.
            self._is_left = True
            self._overdue = created + OVERDUE
            may_wait = self._shortly.ask() and may_wait
        elif created >= self._overdue:
            may_wait = False
        if not may_wait:
            self.flush()

    def flush(self) -> None:
        """Write what there is."""
        assert self.lock is not None
        with self.lock:
            self._is_left = False  # first: what is not among these is not left to us
            waiting = self._waiting[:]
            del self._waiting[: len(waiting)]
            lines = self._formatted(waiting)
            self._unwritten = len(lines)
            try:
                if lines and self._file != CLOSED:
                    self._follow()
                    self._tell_gap()
                    self._write(lines)
            except OSError as error:
                self._lose(error)

    def _formatted(self, waiting: Iterable[_Waiting]) -> list[str]:
        format_record = self.format if self.formatter is None else self.formatter.format
        lines: list[str] = []
        for line in waiting:
            try:
                if isinstance(line, tuple):
                    lines.append(line[0].format_line(*line[1:]))
                else:
                    lines.append(line if isinstance(line, str) else format_record(line))
            except Exception:  # arguments that do not fit their text, a time that is none
                self.handleError(
                    line if isinstance(line, logging.LogRecord) else logging.makeLogRecord({"msg": line})
                )
        return lines

    def _follow(self) -> None:
        """To the file that has the name now."""
        now = monotonic()
        if not self._lost and now < self._looked_at + LOOK:
            return
        self._looked_at = now
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(self._path), os.fstat(self._file)):
                return
        self._file, old = self._open(), self._file
        self._torn = False
        os.close(old)

    def _write(self, lines: list[str]) -> None:
        data = self._encoded(lines)
        while data:
            data = self._put(data)
            self._unwritten = data.count(b"\n")

    def _encoded(self, lines: list[str]) -> bytes:
        return (b"\n" if self._torn else b"") + "\n".join([*lines, ""]).encode("utf-8", "backslashreplace")

    def _put(self, data: bytes) -> bytes:
        """Write as much as the file takes, and give the rest."""
        count = os.write(self._file, data)
        self._torn = data[count - 1 : count] != b"\n"
        return data[count:]

    # -- what is lost --------------------------------------------------------------------------

    def _lose(self, error: OSError) -> None:
        self._lost += self._unwritten
        self._reason = error.strerror or type(error).__name__
        now = monotonic()
        if self._told_at is None or now >= self._told_at + INTERVAL:
            self._told_at = now
            warn(f"--logfile: cannot write {self._path}: {self._reason}; log lines are lost until it can be written")

    def _tell_gap(self) -> None:
        if not self._lost:
            return
        text, counts = "%d log lines were lost here: %s", (self._lost, self._reason)
        record = logging.LogRecord("tunnelkit", logging.WARNING, __file__, 0, text, counts, None)
        data = self._encoded([self.format(record)])
        while data:
            data = self._put(data)
        warn(f"--logfile: {self._path} is written again; {self._lost} log lines were lost")
        self._lost = 0

    def close(self) -> None:
        """What is logged afterwards is lost. To close it again does nothing: the number may be another's by then."""
        assert self.lock is not None
        with self.lock:  # nobody is in the middle of a line then
            self.flush()
            file, self._file = self._file, CLOSED
            if file != CLOSED:
                with suppress(OSError):
                    os.close(file)
        super().close()
