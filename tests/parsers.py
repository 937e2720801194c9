"""The parsers of heads that tests run on: each that is installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tunnelkit.errors import ConfigError
from tunnelkit.http.codec import HeadParser
from tunnelkit.http.parsers import DEFAULT_PARSER, PARSERS, find_parser

__all__ = ["NAMES", "each_parser", "used"]

# The parser of the tests that do not choose: ``each_parser`` exchanges it.
used: HeadParser = DEFAULT_PARSER


def _is_missing(name: str) -> bool:
    try:
        find_parser(name)
    except ConfigError:
        return True
    return False


# Of each parser, for ``parametrize`` and ``params``; a skip tells that one is missing.
NAMES = [
    pytest.param(name, marks=pytest.mark.skipif(_is_missing(name), reason=f"{name} is not installed"))
    for name in PARSERS
    if name != "auto"
]


@pytest.fixture(scope="module", params=NAMES)
def each_parser(request: pytest.FixtureRequest) -> Iterator[HeadParser]:
    """``used`` is each parser in turn. Of the module, because hypothesis takes no fixtures of single examples."""
    global used
    before, used = used, find_parser(request.param)
    yield used
    used = before
