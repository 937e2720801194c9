"""Tunnels that somebody else wrote: where their programs run, and what is told of one that does not start."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from benchmarks.origin import Origin, Origins, Site
from benchmarks.peers import Peer
from benchmarks.programs import BenchmarkError
from benchmarks.ways import Way


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def opened(stack: ExitStack, folder: Path, *, server: str, client: str) -> Way:
    origins = cast(Origins, SimpleNamespace(site=Site("127.0.0.1", "127.0.0.2", ("env", "WHERE=far"))))
    origin = cast(Origin, SimpleNamespace(url="http://127.0.0.2:80", port=80))
    return Peer("other", server, client).open(stack, origins, origin, folder)


def test_its_client_is_where_the_origin_is(stack: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.peers._wait_until_ready", lambda way: None)
    tell = f"echo {{host}} $WHERE > {tmp_path}/%s; exec cat"
    way = opened(stack, tmp_path, server=tell % "server", client=tell % "client")
    assert way.address.host == "127.0.0.1"
    assert said(tmp_path / "server") == "127.0.0.1"
    assert said(tmp_path / "client") == "127.0.0.1 far"


def said(file: Path) -> str:
    deadline = time.monotonic() + 20
    while not (file.exists() and file.read_text().endswith("\n")):
        assert time.monotonic() < deadline
        time.sleep(0.01)  # another program tells by a file
    return file.read_text().strip()


def test_one_that_does_not_start_is_told_with_its_own_words(stack: ExitStack, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"its server ended: .*nonesuch.*not found"):
        opened(stack, tmp_path, server="exec nonesuch", client="exec cat")
