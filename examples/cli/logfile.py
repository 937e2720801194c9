"""A log file that may be rotated, and whose disk may be full for a while."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path
from time import monotonic

from .console import warn

__all__ = ["LogFile"]

# Seconds between two complaints: a disk that is full stays so for many lines.
INTERVAL = 60.0
# Seconds between two looks at what has the file's name. What is written between stands at the end of the old file.
LOOK = 1.0


class LogFile(logging.Handler):
    """Appends to a file, which is its owner's alone, and opens it again when something rotated it.

    Lines that cannot be written are lost, never kept: memory stays as it is. That is told on standard error, once a
    minute, and the file says how many they were as soon as it can be written again. The standard library's handlers
    print a traceback for every such line, and let an error of opening again out at whoever logs.

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

    def _open(self) -> int:
        return os.open(self._path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:  # arguments that do not fit their text
            self.handleError(record)
            return
        try:
            self._follow()
            if self._lost:
                self._tell_gap()
            self._write(line)
        except OSError as error:
            self._lose(error)

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

    def _write(self, line: str) -> None:
        data = (b"\n" if self._torn else b"") + line.encode("utf-8", "backslashreplace") + b"\n"
        while data:
            count = os.write(self._file, data)
            data = data[count:]
            self._torn = bool(data)

    # -- what is lost --------------------------------------------------------------------------

    def _lose(self, error: OSError) -> None:
        self._lost += 1
        self._reason = error.strerror or type(error).__name__
        now = monotonic()
        if self._told_at is None or now >= self._told_at + INTERVAL:
            self._told_at = now
            warn(f"--logfile: cannot write {self._path}: {self._reason}; log lines are lost until it can be written")

    def _tell_gap(self) -> None:
        text, counts = "%d log lines were lost here: %s", (self._lost, self._reason)
        self._write(self.format(logging.LogRecord("tunnelkit", logging.WARNING, __file__, 0, text, counts, None)))
        warn(f"--logfile: {self._path} is written again; {self._lost} log lines were lost")
        self._lost = 0

    def close(self) -> None:
        with suppress(OSError):
            os.close(self._file)
        super().close()
