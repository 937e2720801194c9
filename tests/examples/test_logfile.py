"""The log file: rotated, on a full disk, in a directory that is gone. Whoever logs never notices."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from cli.logfile import INTERVAL, LOOK, OVERDUE, TOGETHER, LogFile
from tunnelkit.logs import JsonFormatter, TextFormatter

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


def test_to_close_it_twice_closes_nothing_of_others(
    path: Path, logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logger.addHandler(handler := LogFile(path))
    handler.close()
    with open(path.with_name("other"), "w") as other:  # it has the number now
        handler.close()
        logger.warning("too late")
        other.write("whole")
    assert lines(path.with_name("other")) == ["whole"]
    assert lines(path) == []
    assert capsys.readouterr().err == ""


def test_to_close_it_leaves_nobody_with_a_number_that_is_free(
    path: Path, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger.addHandler(handler := LogFile(path))
    thread = threading.Thread(target=logger.warning, args=("of the log",))
    is_writing, is_closed = threading.Event(), threading.Event()
    write, flush = os.write, handler.flush

    def late(file: int, data: bytes) -> int:
        is_writing.set()
        is_closed.wait(10)
        return write(file, data)

    def before_another() -> None:
        flush()
        if threading.current_thread() is threading.main_thread() and not thread.ident:
            thread.start()
            is_writing.wait(0.1)

    monkeypatch.setattr("cli.logfile.os.write", late)
    monkeypatch.setattr(handler, "flush", before_another)
    handler.close()
    with open(path.with_name("other"), "w"):  # it has the number now
        is_closed.set()
        thread.join()
    assert lines(path.with_name("other")) == []


def test_its_filters_and_its_formatter_count(path: Path, logger: logging.Logger) -> None:
    logger.addHandler(handler := LogFile(path))
    handler.addFilter(lambda record: record.msg != "no")
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    for text in ("yes", "no", "and yes"):
        logger.warning(text)
    assert lines(path) == ["WARNING yes", "WARNING and yes"]


def test_it_takes_lines_among_records(path: Path, logger: logging.Logger) -> None:
    logger.addHandler(handler := LogFile(path))
    handler.setFormatter(formatter := TextFormatter())
    logger.warning("first")
    handler.take_line(1000.0, logging.INFO, "second")
    logger.warning("third")
    assert [line.split()[-1] for line in lines(path)] == ["first", "second", "third"]
    assert lines(path)[1] == formatter.format_line(1000.0, logging.INFO, "second")


@pytest.mark.anyio
async def test_another_formatter_is_for_the_lines_after_it(path: Path, logger: logging.Logger) -> None:
    logger.addHandler(handler := LogFile(path))
    handler.setFormatter(formatter := TextFormatter())
    handler.take_line(1000.0, logging.INFO, "one")
    handler.setFormatter(JsonFormatter())
    assert lines(path) == []
    logger.warning("two")
    assert lines(path)[0] == formatter.format_line(1000.0, logging.INFO, "one")
    assert json.loads(lines(path)[1])["message"] == "two"


@pytest.mark.anyio
async def test_a_line_that_cannot_be_formatted_takes_no_other_along(
    path: Path, logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logger.addHandler(handler := LogFile(path))
    handler.setFormatter(TextFormatter())
    for created, text in ((1000.0, "one"), (1e20, "at no time"), (1000.0, "three")):
        handler.take_line(created, logging.INFO, text)
    logger.warning("four")
    assert [line.split()[-1] for line in lines(path)] == ["one", "three", "four"]
    assert "at no time" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("formatter", "takes"), [(TextFormatter(), True), (JsonFormatter(), False), (logging.Formatter(), False)]
)
def test_lines_are_for_a_file_of_text(path: Path, formatter: logging.Formatter, takes: bool) -> None:
    handler = LogFile(path)
    assert not handler.takes_lines
    handler.setFormatter(formatter)
    assert handler.takes_lines is takes
    handler.close()


@pytest.mark.anyio
async def test_in_a_loop_lines_wait_like_records(path: Path, logger: logging.Logger) -> None:
    now = time.time()
    logger.setLevel(logging.INFO)
    logger.addHandler(handler := LogFile(path))
    handler.setFormatter(TextFormatter())
    handler.take_line(now, logging.INFO, "line")
    logger.info("record")
    assert lines(path) == []
    handler.take_line(now, logging.ERROR, "which cannot wait")
    assert [line.split()[-1] for line in lines(path)] == ["line", "record", "wait"]
    for number in range(TOGETHER):
        assert len(lines(path)) == 3
        handler.take_line(now, logging.INFO, f"{number}")
    assert len(lines(path)) == 3 + TOGETHER
    handler.take_line(now, logging.INFO, "left")
    handler.take_line(now + OVERDUE, logging.INFO, "overdue")
    assert [line.split()[-1] for line in lines(path)[-2:]] == ["left", "overdue"]


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


# -- inside an event loop -------------------------------------------------------------------------


@pytest.mark.anyio
async def test_lines_of_one_moment_are_written_together_a_moment_later(
    path: Path, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bytes] = []

    def write(file: int, data: bytes) -> int:
        written.append(data)
        return len(data)

    monkeypatch.setattr("cli.logfile.os.write", write)
    logger.addHandler(LogFile(path))
    for turn in range(3):
        for _ in range(2):
            logger.info("time %d", turn)
        assert len(written) == turn
        with anyio.fail_after(10):
            while len(written) == turn:  # noqa: ASYNC110 - a file rings no bell
                await anyio.sleep(0.001)
        assert written[turn:] == [b"time %d\ntime %d\n" % (turn, turn)]


@pytest.mark.anyio
async def test_a_line_says_what_was_so_when_it_was_logged(path: Path, logger: logging.Logger) -> None:
    logger.addHandler(LogFile(path))
    names = ["before"]
    logger.info("%s", names)
    logger.info(names)
    names[0] = "after"
    try:
        raise OSError("an error")
    except OSError as error:
        logger.info("failed", exc_info=True)
        error.args = ("another",)
    logger.info("{as it stands: %s}")
    logger.handlers[0].close()
    first, second, *middle, last = lines(path)
    assert (first, second, last) == ("['before']", "['before']", "{as it stands: %s}")
    assert middle[-1] == "OSError: an error"


@pytest.mark.anyio
async def test_what_cannot_wait_takes_along_what_waits(path: Path, logger: logging.Logger) -> None:
    logger.addHandler(LogFile(path))
    logger.info("one")
    assert lines(path) == []
    logger.warning("two")
    assert lines(path) == ["one", "two"]
    logger.info("three")
    await anyio.to_thread.run_sync(logger.info, "from a thread, where no loop runs")
    with anyio.fail_after(10):
        while len(lines(path)) < 4:  # noqa: ASYNC110
            await anyio.sleep(0.001)
    assert lines(path)[2:] == ["three", "from a thread, where no loop runs"]
    for number in range(TOGETHER):
        logger.info("%d", number)
    assert len(lines(path)) == 4 + TOGETHER
    logger.info("the last")
    logger.handlers[0].close()
    assert lines(path)[-1] == "the last"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_one_file_outlives_its_loops(
    path: Path, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setattr("cli.logfile.OVERDUE", 0.0)
    logger.addHandler(LogFile(path))

    async def log() -> None:
        logger.info("in a loop")

    for count in (1, 3):
        anyio.run(log, backend=backend)
        logger.info("in none")
        assert len(lines(path)) == count + 1


def test_a_loop_that_stopped_leaves_nothing_behind(
    path: Path, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.logfile.OVERDUE", 0.0)
    logger.addHandler(LogFile(path))
    loop = asyncio.new_event_loop()
    loop.call_soon(logger.info, "in the loop")
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert lines(path) == []
    logger.info("in none")
    assert lines(path) == ["in the loop", "in none"]
    loop.close()


@pytest.mark.anyio
async def test_lines_of_many_threads_are_all_written_once(path: Path, logger: logging.Logger) -> None:
    logger.addHandler(LogFile(path))

    def log(name: int) -> None:
        for number in range(500):
            logger.log(logging.WARNING if number % 100 == 0 else logging.INFO, "%d %d", name, number)

    async with anyio.create_task_group() as threads:
        for name in range(4):
            threads.start_soon(anyio.to_thread.run_sync, log, name)
        for number in range(500):
            logger.info("4 %d", number)
            await anyio.lowlevel.checkpoint()
    logger.handlers[0].close()
    written = lines(path)
    for name in range(5):
        assert [line for line in written if line.startswith(f"{name} ")] == [f"{name} {n}" for n in range(500)]


class Crowded(list[Any]):
    """Another thread logs a line whenever one is put in, before whoever put it in can look."""

    logger: logging.Logger

    def append(self, line: object) -> None:
        super().append(line)
        if threading.current_thread() is threading.main_thread():
            thread = threading.Thread(target=self.logger.info, args=("from a thread",))
            thread.start()
            thread.join()


@pytest.mark.anyio
async def test_lines_that_come_at_the_same_time_do_not_leave_it_to_each_other(
    path: Path, logger: logging.Logger
) -> None:
    logger.addHandler(handler := LogFile(path))
    handler._overdue = inf  # as after a line of this moment
    handler._waiting = crowded = Crowded()
    crowded.logger = logger
    for count in (2, 4):
        logger.info("from the loop")
        with anyio.fail_after(10):
            while len(lines(path)) < count:  # noqa: ASYNC110
                await anyio.sleep(0.001)
    assert sorted(lines(path)) == [*["from a thread"] * 2, *["from the loop"] * 2]


@needs_dev_full
@pytest.mark.anyio
async def test_lines_that_were_lost_together_are_all_counted(path: Path, logger: logging.Logger) -> None:
    await anyio.Path(path).symlink_to("/dev/full")
    logger.addHandler(LogFile(path))
    logger.info("lost")
    logger.info("lost")
    logger.warning("lost")
    await anyio.Path(path).unlink()
    logger.info("there is room")
    logger.warning("and more")
    assert lines(path) == ["3 log lines were lost here: No space left on device", "there is room", "and more"]
