"""Logging as the flags say it."""

from __future__ import annotations

import logging
import logging.handlers
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from tunnelkit.logs import ACCESS, AccessLog, JsonFormatter, TextFormatter

from .logfile import LogFile
from .parsing import Settings, UsageError

__all__ = ["logging_to", "syslog_handler"]

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "warn": logging.WARNING}


class _StandardError(logging.StreamHandler[TextIO]):
    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr  # as it is now: a live view puts its own there, that lines pass by above it
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Where standard error cannot be written (it may be a file on a full disk) there is nowhere to complain."""
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


@contextmanager
def logging_to(settings: Settings) -> Iterator[None]:
    """Send tunnelkit's log lines where the flags say, as long as the block runs."""
    logger = logging.getLogger("tunnelkit")
    handler = _handler(settings)
    handler.setFormatter(JsonFormatter() if settings["log_format"] == "json" else TextFormatter())
    logger.addHandler(handler)
    logger.setLevel(LEVELS.get(settings["log_level"], logging.ERROR))
    # Four lines a request: they need not look further up for other handlers, of which there are none.
    ACCESS.addHandler(handler)
    ACCESS.propagate = False
    AccessLog.lines = handler if isinstance(handler, LogFile) and handler.takes_lines else None
    AccessLog.inner_level = logging.INFO  # as in WStunnel, whoever sees HTTP RCV sees WS SND and WS RCV too
    try:
        yield
    finally:
        AccessLog.inner_level = logging.DEBUG
        AccessLog.lines = None
        ACCESS.propagate = True
        ACCESS.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
        logger.removeHandler(handler)
        handler.close()


def _handler(settings: Settings) -> logging.Handler:
    if settings["log_pretty"] and settings["log_format"] == "json":
        raise UsageError("--log-pretty: contradicts --log-format json; leave one of them out")
    if settings["logfile"] is not None and settings["syslog"] is not None:
        raise UsageError("--syslog: contradicts --logfile; leave one of them out")
    if settings["logfile"] is not None:
        return _file(settings["logfile"])
    if settings["syslog"] is not None:
        return syslog_handler(settings["syslog"])
    return _StandardError()


def _file(path: Path) -> logging.Handler:
    try:
        return LogFile(path)
    except OSError as error:
        raise UsageError(f"--logfile: cannot write {path}: {error.strerror}") from None


def syslog_handler(facility: str, path: Path = Path("/dev/log")) -> logging.Handler:
    """Lines that begin ``program[pid]:``, as those of WStunnel's samples do."""
    if not _is_listening(path):
        raise UsageError(f"--syslog: there is no syslog at {path}; use --logfile, or leave both out")
    handler = logging.handlers.SysLogHandler(str(path), logging.handlers.SysLogHandler.facility_names[facility])
    handler.ident = f"{Path(sys.argv[0]).stem}[{os.getpid()}]: "
    return handler


def _is_listening(path: Path) -> bool:
    """Tried here, because SysLogHandler passes over a failure and then shows a traceback for every line."""
    if not hasattr(socket, "AF_UNIX"):
        return False
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(socket.AF_UNIX, kind) as probe, suppress(OSError):
            probe.connect(str(path))
            return True
    return False
