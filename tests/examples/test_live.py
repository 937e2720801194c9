"""The client's state on a terminal, and the lines about requests."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from rich.console import Console

from cli.live import TunnelView, is_wanted, render, showing, status_after
from cli.served import LAST, Requests, request_line
from tunnelkit import TunnelClient
from tunnelkit.events import (
    ClientEvent,
    Closed,
    Connected,
    Lost,
    Moved,
    RequestFinished,
    Resumed,
    Retrying,
    Superseded,
)

from .test_programs import EXAMPLES, TOKEN, program

SGR_COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-7]|9[0-7]|38;|4[0-7])[\d;]*m")


def a_view() -> TunnelView:
    client = TunnelClient("ws://127.0.0.1:1", token=TOKEN, origin="http://127.0.0.1:2")
    return TunnelView(client, Requests())


def drawn(view: TunnelView, width: int = 100) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, color_system="standard")
    console.print(render([view]))
    return file.getvalue()


# -- lines about requests ------------------------------------------------------------------------


def finished(target: str = "/a", status: int | None = 200, outcome: str = "answered") -> RequestFinished:
    return RequestFinished(
        number=1,
        method="GET",
        target=target,
        status=status,
        outcome=outcome,
        received=0,
        sent=0,
        at=0.0,
        seconds=0.0123,
    )


@pytest.mark.parametrize(
    ("request_", "line"),
    [
        (finished(), "GET /a 200 12 ms"),
        (finished(status=None, outcome="caller_gone"), "GET /a - 12 ms caller_gone"),
        (finished("/\x1b[2J\u202e"), "GET /\\x1b[2J\\u202e 200 12 ms"),
    ],
)
def test_a_request_is_one_line_and_moves_no_cursor(request_: RequestFinished, line: str) -> None:
    assert request_line(request_) == line


def test_failures_are_counted_and_the_last_kept(capsys: pytest.CaptureFixture[str]) -> None:
    requests = Requests(lines=True)
    for status in (200, 404, 502, None):
        requests.heard(finished(status=status))
    requests.heard(finished(outcome="partly_answered"))
    assert requests.failed == 3
    assert len(capsys.readouterr().out.splitlines()) == 5
    for _ in range(20):
        requests.heard(finished())
    assert len(requests.last) == LAST


# -- the view ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "status"),
    [
        (Connected(transport="websocket"), "connected"),
        (Resumed(transport="websocket", away=1.0), "connected"),
        (Moved(transport="websocket", reason="x"), "connected"),
        (Lost(reason="cut\x1b"), "reconnecting: cut\\x1b"),
        (Retrying(reason="refused", delay=2.4), "next try in 2 s: refused"),
        (Superseded(code="superseded"), "superseded by another client"),
        (Closed(reason="closed"), "over: closed"),
        (ClientEvent(), "connecting"),
    ],
)
def test_the_status_after_each_event(event: ClientEvent, status: str) -> None:
    assert status_after(event) == status


def test_all_facts_are_drawn_and_the_token_is_not() -> None:
    view = a_view()
    view.requests.heard(finished("/some/path"))
    text = drawn(view)
    for part in (
        "status",
        "connecting",
        "url",
        "127.0.0.1:1/_token/",
        "transport",
        "round trip",
        "GET /some/path 200",
    ):
        assert part in text
    assert "0 served, 0 failed" in text
    assert TOKEN not in text


def test_requests_are_a_line_each_on_a_narrow_terminal_too() -> None:
    view = a_view()
    for number in range(LAST):
        view.requests.heard(finished("/a/long/path/of/something?and=a&query" * 9, status=200 + number))
    lines = drawn(view, width=40).splitlines()
    requests = [line for line in lines if "GET /a/long" in line]
    assert [line.split()[-3] for line in requests] == [str(200 + number) for number in range(LAST)]


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert SGR_COLOUR.search(drawn(a_view()))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not SGR_COLOUR.search(drawn(a_view()))


@pytest.mark.anyio
async def test_the_view_is_left_as_it_was_at_the_end() -> None:
    view, file = a_view(), io.StringIO()
    async with showing([view], Console(file=file, force_terminal=True, width=100)):
        view.status = "something else"
    assert "something else" in file.getvalue()


def test_there_is_none_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert not is_wanted(plain=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert is_wanted(plain=False)
    assert not is_wanted(plain=True)
    monkeypatch.setenv("TERM", "dumb")
    assert not is_wanted(plain=False)


# -- at a terminal -------------------------------------------------------------------------------


@contextmanager
def on_a_terminal(*arguments: str, errors: IO[bytes] | None = None, **environment: str) -> Iterator[int]:
    """The client with a terminal for its standard output, and error unless ``errors``; what it is read from."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLES / "tunnel_client.py"), *arguments],
        stdout=theirs,
        stderr=theirs if errors is None else errors,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", **environment},
    )
    os.close(theirs)
    try:
        yield ours
    finally:
        process.terminate()
        os.set_blocking(ours, False)
        process.wait(45)
        os.close(ours)


def read_until(terminal: int, text: str, seconds: float = 45) -> str:
    seen, end = "", time.monotonic() + seconds
    while text not in seen:
        assert time.monotonic() < end, seen
        if select.select([terminal], [], [], 0.5)[0]:
            seen += os.read(terminal, 65536).decode(errors="replace")
    return seen


@pytest.mark.parametrize(("arguments", "live"), [([], True), (["--plain"], False)])
def test_the_client_at_a_terminal(arguments: list[str], live: bool) -> None:
    with program("tunnel_server.py", "--listen", "127.0.0.1:0") as server:
        url = server.said("listening on ").replace("http", "ws")
        flags = ["--tunnel", url, "--port", "1", "--token", TOKEN, *arguments]
        with on_a_terminal(*flags, NO_COLOR="1") as terminal:
            seen = read_until(terminal, "ready http")
            if live:
                seen += read_until(terminal, "websocket")
                assert "round trip" in seen
            else:
                assert "round trip" not in seen
            assert not SGR_COLOUR.search(seen)
            assert TOKEN not in seen


def test_log_lines_go_where_standard_error_goes(tmp_path: Path) -> None:
    path = tmp_path / "log"
    flags = ["--tunnel", "ws://127.0.0.1:1", "--port", "1", "--token", TOKEN]
    with path.open("wb") as errors, on_a_terminal(*flags, errors=errors) as terminal:
        seen = read_until(terminal, "next try in")
    assert "not connected" in path.read_text()
    assert "not connected" not in seen


def test_log_lines_pass_by_above_the_view() -> None:
    flags = ["--tunnel", "ws://127.0.0.1:1", "--port", "1", "--token", TOKEN]
    with on_a_terminal(*flags, NO_COLOR="1") as terminal:
        seen = read_until(terminal, "next try in")
    line = next(line for line in seen.splitlines() if "not connected" in line)
    assert "round trip" not in line
