"""Which parser is taken: what is installed decides, and a name may insist."""

from __future__ import annotations

import sys

import pytest

from tunnelkit import TunnelClient, TunnelServer
from tunnelkit.errors import ConfigError
from tunnelkit.http.h11_codec import H11_PARSER
from tunnelkit.http.parsers import find_parser


@pytest.fixture
def without_httptools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httptools", None)
    monkeypatch.delitem(sys.modules, "tunnelkit.http.httptools_codec", raising=False)


def test_httptools_is_taken_where_it_is_installed() -> None:
    codec = pytest.importorskip("tunnelkit.http.httptools_codec", reason="httptools is not installed")
    assert find_parser() is find_parser("auto") is find_parser("httptools") is codec.HTTPTOOLS_PARSER


@pytest.mark.usefixtures("without_httptools")
def test_h11_is_always_there() -> None:
    assert find_parser() is find_parser("auto") is find_parser("h11") is H11_PARSER


def test_h11_can_be_asked_for() -> None:
    assert find_parser("h11") is H11_PARSER


@pytest.mark.usefixtures("without_httptools")
def test_what_is_not_installed_cannot_be_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"^parser: httptools is not installed; pip install 'tunnelkit\[speed\]'"):
        find_parser("httptools")


def test_an_unknown_name_is_refused_by_both_ends() -> None:
    refused = pytest.raises(ConfigError, match=r"^parser: 'llhttp' is unknown; give auto, httptools or h11$")
    with refused:
        TunnelServer(parser="llhttp")
    with refused:
        TunnelClient("ws://127.0.0.1:1", token="a-token-of-some-length", origin="http://127.0.0.1:1", parser="llhttp")
