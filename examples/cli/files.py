"""The files that a command line reads and writes: secrets, pid, status."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .parsing import UsageError

__all__ = ["check_status_file", "open_to_others", "pidfile", "read_secret", "write_status"]


def read_secret(path: Path, flag: str, kind: Callable[[str], Any]) -> Any:
    """The converted contents of a file, without the line end. Raises UsageError, which shows none of them."""
    try:
        return kind(path.read_text(encoding="utf-8").rstrip("\r\n"))
    except OSError as error:
        raise UsageError(f"{flag}: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{flag}: {path} is not UTF-8 text") from None
    except ValueError as error:
        raise UsageError(f"{flag}: {path}: {error}") from None


def open_to_others(path: Path) -> str | None:
    """A warning for a file with secrets that its group or everybody can read, or None."""
    if os.name != "posix" or not path.exists() or _is_credential(path):
        return None
    mode = path.stat().st_mode
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        return f"{path} holds secrets and others can read it (mode {mode & 0o777:o}): chmod 600 {path}"
    return None


def _is_credential(path: Path) -> bool:
    """One of systemd's LoadCredential=: nobody else enters their directory, and the access list by which the service
    may read them looks like the group's right."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    return directory is not None and path.absolute().parent == Path(directory)


@contextmanager
def pidfile(path: Path | None) -> Iterator[None]:
    """The process id in a file as long as the block runs."""
    if path is None:
        yield
        return
    mine = f"{os.getpid()}\n"
    try:
        path.write_text(mine)
    except OSError as error:
        _remove_empty(path)
        raise UsageError(f"--pidfile: cannot write {path}: {error.strerror}") from None
    try:
        yield
    finally:
        # Another process may have taken the file over since.
        if path.exists() and path.read_text() == mine:
            path.unlink()


def _remove_empty(path: Path) -> None:
    """What a full disk makes of a file: whoever reads it next would find no process id where one must be."""
    with suppress(OSError):
        if path.is_file() and not path.stat().st_size:
            path.unlink()


def check_status_file(path: Path) -> None:
    """Raises UsageError when it cannot be written: better now than when the tunnel is up."""
    if path.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise UsageError(f"--statusfile: cannot write {path}; give a file in a directory that may be written")


def write_status(path: Path) -> None:
    """The time, in WStunnel's form. Replaced whole, so that nobody reads half of it."""
    now = time.time()
    text = f"Unix: {int(now)}\nTime: {datetime.fromtimestamp(now, UTC).isoformat(timespec='seconds')}\n"
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_text(text)
    temporary.replace(path)
