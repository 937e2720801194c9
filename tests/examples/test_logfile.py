"""The log file: rotated, on a full disk, in a directory that is gone. Whoever logs never notices."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.logfile import INTERVAL, LOOK, LogFile

needs_dev_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.Logger("test")
    yield logger
    for handler in logger.handlers:
        handler.close()


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_lines_are_appended_to_a_file_of_the_owner_alone(path: Path, logger: logging.Logger) -> None:
    for number in range(2):
        logger.addHandler(handler := LogFile(path))
        logger.warning("line %d", number)
        logger.removeHandler(handler)
        handler.close()
    assert lines(path) == ["line 0", "line 1"]
    assert path.stat().st_mode & 0o777 == 0o600


class Clock:
    now = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("cli.logfile.monotonic", lambda: clock.now)
    return clock


def test_it_follows_a_rotation_within_a_second(path: Path, logger: logging.Logger, clock: Clock) -> None:
    logger.addHandler(LogFile(path))
    logger.warning("before")
    path.rename(path.with_suffix(".1"))
    clock.now += LOOK / 2
    logger.warning("not looked yet")
    clock.now += LOOK / 2
    logger.warning("after")
    assert lines(path.with_suffix(".1")) == ["before", "not looked yet"]
    assert lines(path) == ["after"]


@needs_dev_full
def test_a_full_disk_is_told_once_and_leaves_a_gap_that_is_counted(
    path: Path, logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    path.symlink_to("/dev/full")
    logger.addHandler(LogFile(path))
    for _ in range(3):
        logger.warning("lost")
    (told,) = capsys.readouterr().err.splitlines()
    assert f"warning: --logfile: cannot write {path}: No space left on device; " in told
    path.unlink()
    logger.warning("there is room")
    logger.warning("and more")
    assert lines(path) == ["3 log lines were lost here: No space left on device", "there is room", "and more"]
    (told,) = capsys.readouterr().err.splitlines()
    assert f"warning: --logfile: {path} is written again; 3 log lines were lost" in told


@needs_dev_full
def test_a_full_disk_is_told_again_after_a_while(
    path: Path, logger: logging.Logger, capsys: pytest.CaptureFixture[str], clock: Clock
) -> None:
    path.symlink_to("/dev/full")
    logger.addHandler(LogFile(path))
    for now in (0.0, INTERVAL - 1, INTERVAL):
        clock.now = now
        logger.warning("lost")
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_line_that_was_torn_is_ended_before_the_next(
    path: Path, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = 7
    write = os.write

    def into_little_room(file: int, data: bytes) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = write(file, data[:room])
        room -= count
        return count

    monkeypatch.setattr("cli.logfile.os.write", into_little_room)
    logger.addHandler(LogFile(path))
    logger.warning("a line that is too long")
    room = 1000
    logger.warning("the next")
    assert lines(path) == ["a line ", "1 log lines were lost here: No space left on device", "the next"]


def test_a_directory_that_is_gone(
    path: Path, logger: logging.Logger, capsys: pytest.CaptureFixture[str], clock: Clock
) -> None:
    folder = path.parent / "folder"
    folder.mkdir()
    logger.addHandler(LogFile(folder / "log"))
    folder.rename(path.parent / "elsewhere")
    clock.now += LOOK
    logger.warning("lost")
    assert "No such file or directory" in capsys.readouterr().err
    folder.mkdir()
    logger.warning("here again")
    assert lines(folder / "log")[1:] == ["here again"]


def test_a_record_that_cannot_be_formatted_is_shown(
    path: Path, logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logger.addHandler(LogFile(path))
    logger.warning("%d", "no number")
    logger.warning("\udce9")
    assert "--- Logging error ---" in capsys.readouterr().err
    assert lines(path) == ["\\udce9"]


@needs_dev_full
def test_a_standard_error_that_is_full_ends_nothing(
    path: Path, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.symlink_to("/dev/full")
    logger.addHandler(LogFile(path))
    with open("/dev/full", "w", buffering=1) as full, open(os.devnull, "wb") as null:
        monkeypatch.setattr(sys, "stderr", full)
        logger.warning("lost, and nobody can be told")
        monkeypatch.undo()
        os.dup2(null.fileno(), full.fileno())  # so that it can be closed
