"""The tool that makes hashes of passwords: what it prints is what the server takes, and it shows nothing else."""

from __future__ import annotations

import getpass
import io
import sys
from collections.abc import Iterator

import pytest

import hash_password
from tunnelkit.core.credentials import Credentials, NeedsHash, parse_password_lines, password_table, verify_hash

TOKEN = "a-token-for-the-tests"
WORD = "pässword: with, all $ that"


class Stdin(io.TextIOWrapper):
    def __init__(self, data: bytes, *, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def give(monkeypatch: pytest.MonkeyPatch, data: bytes = b"", *, terminal: bool = False) -> None:
    monkeypatch.setattr(sys, "argv", ["hash_password.py"])
    monkeypatch.setattr(sys, "stdin", Stdin(data, terminal=terminal))


def type_in(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    give(monkeypatch, terminal=True)
    typed: Iterator[str] = iter(words)

    def ask(prompt: str) -> str:
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(getpass, "getpass", ask)


def is_hash_of(printed: str, password: str) -> bool:
    (line,) = printed.splitlines()
    credentials = Credentials(password_table(parse_password_lines(f"{TOKEN}:{line}\n")), key=b"k" * 32)
    plan = credentials.check_plan(TOKEN, password)
    return isinstance(plan, NeedsHash) and verify_hash(plan)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\nanother line\n"])
def test_from_standard_input(end: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    give(monkeypatch, WORD.encode() + end)
    assert hash_password.main() == 0
    printed = capsys.readouterr()
    assert is_hash_of(printed.out, WORD)
    assert printed.err == ""


def test_from_the_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    type_in(monkeypatch, WORD, WORD)
    assert hash_password.main() == 0
    assert is_hash_of(capsys.readouterr().out, WORD)


def test_no_two_are_the_same(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        give(monkeypatch, b"word")
        hash_password.main()
    assert len(set(capsys.readouterr().out.splitlines())) == 2


@pytest.mark.parametrize(
    ("data", "problem"),
    [(b"", "empty"), (b"\n", "empty"), (b"x" * 1025, "longer than 1024 bytes"), (b"\xff", "UTF-8")],
)
def test_what_is_no_password(
    data: bytes, problem: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give(monkeypatch, data)
    assert hash_password.main() == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert problem in printed.err


@pytest.mark.parametrize(("words", "problem"), [(("one", "two"), "the same twice"), ((), "no password was given")])
def test_what_is_typed_wrong(
    words: tuple[str, ...], problem: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in(monkeypatch, *words)
    assert hash_password.main() == 2
    assert problem in capsys.readouterr().err


def test_an_argument_is_neither_taken_nor_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["hash_password.py", "s3cret"])
    assert hash_password.main() == 2
    printed = capsys.readouterr()
    assert "s3cret" not in printed.out + printed.err
    assert "takes no arguments" in printed.err
