"""Logging as the flags say it, in the program's own process."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from cli.logfile import LogFile
from cli.logs import logging_to
from cli.parsing import Settings
from tunnelkit.logs import ACCESS, SERVER, AccessLog


def settings(path: Path, level: str, form: str = "text") -> Settings:
    values = {"log_level": level, "log_format": form, "log_pretty": False, "logfile": path, "syslog": None}
    return Settings(values, given=set(), from_file=set())


def log_all() -> None:
    access = AccessLog()
    access.received(id=1, token="t", verb=b"GET", url=b"/", addr="127.0.0.1")
    access.sent(id=1, token="t", info=b"GET /", ws="s")
    SERVER.debug("a detail")
    access.answer(id=1, token="t", ws="s", length=3)
    access.returned(id=1, token="t", status=200, sent=3, seconds=0.25, outcome="answered")
    SERVER.warning("a warning")


def test_the_four_lines_are_info_and_stand_once_and_in_order(tmp_path: Path) -> None:
    with logging_to(settings(tmp_path / "log", "info")):
        log_all()
    assert [line.split(maxsplit=1)[1] for line in (tmp_path / "log").read_text().splitlines()] == [
        "INFO    HTTP RCV      pkg=tunnelkit.server token=t id=1 verb=GET url=/ addr=127.0.0.1 x-host= try=",
        'INFO    WS   SND      pkg=tunnelkit.server token=t id=1 info="GET /" ws=s try=',
        "INFO    WS   RCV      pkg=tunnelkit.server token=t id=1 ws=s len=3",
        "INFO    HTTP RET      pkg=tunnelkit.server token=t id=1 status=200 bytes=3 ms=250 outcome=answered",
        "WARNING a warning",
    ]


def test_a_file_of_text_needs_no_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with logging_to(settings(tmp_path / "text", "info")):
        taker: object = AccessLog.lines
        assert isinstance(taker, LogFile)
        monkeypatch.setattr("tunnelkit.logs.access.AccessRecord", None)
        log_all()
    monkeypatch.undo()
    with logging_to(settings(tmp_path / "json", "info", "json")):
        assert AccessLog.lines is None
        log_all()
    assert AccessLog.lines is None
    assert len((tmp_path / "text").read_text().splitlines()) == 5
    assert len((tmp_path / "json").read_text().splitlines()) == 5


@pytest.mark.parametrize(
    ("level", "levels"),
    [
        ("debug", ["info", "info", "debug", "info", "info", "warning"]),
        ("info", ["info", "info", "info", "info", "warning"]),
        ("warning", ["warning"]),
    ],
)
def test_the_level_counts(tmp_path: Path, level: str, levels: list[str]) -> None:
    with logging_to(settings(tmp_path / "log", level, "json")):
        log_all()
    assert [json.loads(line)["level"] for line in (tmp_path / "log").read_text().splitlines()] == levels


def test_afterwards_all_is_as_it_was(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    handlers = [*ACCESS.handlers, *logging.getLogger("tunnelkit").handlers]
    with logging_to(settings(tmp_path / "log", "info")):
        pass
    caplog.set_level(logging.DEBUG)
    log_all()
    assert [*ACCESS.handlers, *logging.getLogger("tunnelkit").handlers] == handlers
    assert [record.levelname for record in caplog.records] == ["INFO", "DEBUG", "DEBUG", "DEBUG", "INFO", "WARNING"]
