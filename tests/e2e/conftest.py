"""Over which ways the end-to-end tests run.

Without more words a client of these tests (``Ends.join``, ``open_processes``) takes the way of the running test. A
test that is for one transport passes ``transport``, or says ``@pytest.mark.ways(...)``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from ..conftest import HALF
from .ways import Way, chosen

# Modules that choose their transports themselves, or are about one: they run once, as they are.
LEFT_OUT = {
    "test_bad_longpoll": "speaks long-poll by hand",
    "test_bad_peers": "speaks websocket frames by hand; tests/transports/test_longpoll_server.py is long-poll's",
    "test_hostile_client": "its bad client is written for a websocket, and what it says belongs to no transport",
    "test_longpoll_ways": "long-poll by every kind of proxy",
    "test_mount": "names its transports",
    "test_mount_clients": "names its transports",
    "test_moves": "sessions that move between transports",
    "test_peers_files": "the programs and files as they are deployed",
    "test_peers_forward": "names its transports",
    "test_peers_reverse": "names its transports",
    "test_ways": "the websocket's counterpart of test_longpoll_ways: its schemes, its errors, its proxies",
}

# Modules where the way can make a difference: bodies, many at once, cuts, outcomes, ends. The others are about what
# lies above or before the link, and run as a client does by default.
CARRIED = {
    "test_authorisation",
    "test_caller_credentials",
    "test_curl",
    "test_cuts",
    "test_delivery",
    "test_drain",
    "test_eager_tasks",
    "test_kills",
    "test_metrics",
    "test_names",
    "test_origin_conveniences",
    "test_policies",
    "test_requests",
    "test_session_page",
    "test_wsp",
}
BOTH = (Way.WEBSOCKET, Way.LONGPOLL)

# For all tests but those left out and those with ways of their own.
ASKED_FOR = [Way(name) for name in os.environ.get("TUNNELKIT_TEST_WAYS", "").split(",") if name]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    ways = _ways_of(metafunc)
    if len(ways) == 1:
        metafunc.parametrize("way", ways, indirect=True, scope="module", ids=str)
    elif ways:
        pairs = [pytest.param(way, id=way, marks=pytest.mark.pair(way is Way.LONGPOLL)) for way in ways]
        metafunc.parametrize("way", pairs, indirect=True, scope="module")


def _ways_of(metafunc: pytest.Metafunc) -> list[Way]:
    module = metafunc.module.__name__.rpartition(".")[2]
    if module in LEFT_OUT:
        return []
    own = metafunc.definition.get_closest_marker("ways")
    if own is not None:
        return [Way(name) for name in own.args]
    if ASKED_FOR:
        return ASKED_FOR
    if module in CARRIED:
        return [*BOTH, Way.STREAMED] if HALF == "second" else list(BOTH)
    if HALF != "second":
        return []
    return [Way.AUTO, Way.LONGPOLL, Way.STREAMED]


@pytest.fixture(scope="module", autouse=True)
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    """The way that the test's clients take."""
    way = getattr(request, "param", Way.AUTO)
    with chosen(way):
        yield way
