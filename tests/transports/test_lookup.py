"""Transports by name."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.errors import ConfigError
from tunnelkit.legacy.wstunnel import WStunnelTransport
from tunnelkit.transports import lookup
from tunnelkit.transports.base import Transport
from tunnelkit.transports.lookup import ENTRY_POINT_GROUP, find_transport, find_transports, own_paths, transport_names
from tunnelkit.transports.memory import MemoryTransport
from tunnelkit.transports.websocket import WebSocketTransport


class Carrier(Transport):
    name = "carrier"


class Future(Transport):
    name = "future"
    api_version = 2


class Broken(Transport):
    name = "broken"

    def __init__(self) -> None:
        raise RuntimeError("no pigeons today")


CARRIER = Carrier()
NO_TRANSPORT = object


@pytest.fixture(autouse=True)
def _announced(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if another package had been installed."""
    names = {
        "carrier": "Carrier",
        "object": "CARRIER",
        "future": "Future",
        "broken": "Broken",
        "nothing": "NO_TRANSPORT",
        "missing": "Missing",
        "websocket": "Carrier",
    }
    points = EntryPoints(EntryPoint(name, f"{__name__}:{value}", ENTRY_POINT_GROUP) for name, value in names.items())
    monkeypatch.setattr(lookup, "entry_points", lambda *, group: points.select(group=group))


def test_the_built_in_one_is_found_by_name_and_not_replaced() -> None:
    assert isinstance(find_transport("websocket"), WebSocketTransport)


def test_one_of_another_package_is_found() -> None:
    assert isinstance(find_transport("carrier"), Carrier)
    assert find_transport("object") is CARRIER
    assert transport_names() == [
        "broken",
        "carrier",
        "future",
        "longpoll",
        "missing",
        "nothing",
        "object",
        "websocket",
        "wsp",
        "wstunnel",
    ]


def test_the_wire_of_another_make_is_found_without_an_entry_point_and_keeps_to_the_limits() -> None:
    found = find_transport("wstunnel", limits=replace(DEFAULT_LIMITS, head_limit=4096))
    assert isinstance(found, WStunnelTransport)
    assert found.limits.head_limit == 4096


def test_an_object_is_itself() -> None:
    transport = MemoryTransport()
    assert find_transport(transport) is transport


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ("carrierpigeon", r"carrierpigeon.*known are broken, carrier"),
        ("memory", r"MemoryTransport object to both ends"),
        ("future", r"version 2"),
        ("broken", r"no pigeons today"),
        ("nothing", r"is not a"),
        ("missing", r"cannot be loaded"),
        (Future(), r"version 2"),
        (7, r"7 is not a"),
    ],
)
def test_what_cannot_be_used_is_told_with_the_field(wanted: str | Transport, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        find_transport(wanted, field="transports")
    assert caught.value.field == "transports"


def test_one_or_several_are_found_in_order() -> None:
    mine = Carrier()
    assert find_transports(mine) == {"carrier": mine}
    assert list(find_transports("longpoll")) == ["longpoll"]  # and not one for each letter
    assert list(find_transports([mine, "websocket"])) == ["carrier", "websocket"]


@pytest.mark.parametrize("wanted", [[], ["longpoll", "longpoll"], 7, [7]])
def test_none_or_one_twice_is_told_with_the_field(wanted: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_transports(wanted, field="transports")
    assert caught.value.field == "transports"


class Elsewhere(MemoryTransport):
    """It has a path of its own."""

    def __init__(self, path: str | None, mount: str | None) -> None:
        super().__init__()
        self._path = path
        self._mount = mount

    def own_path(self) -> str | None:
        return self._path

    def mount_path(self) -> str | None:
        return self._mount


def test_paths_beside_the_common_one() -> None:
    there = {"a": Elsewhere("/a", "/mount"), "b": Elsewhere(None, "/b"), "c": Elsewhere("/c", None)}
    assert own_paths(there) == {"/a": "/mount", "/c": ""}


def test_two_cannot_have_one_path() -> None:
    with pytest.raises(ConfigError, match="transports: /a is wanted by two"):
        own_paths({"a": Elsewhere("/a", "/a"), "b": Elsewhere("/a", "/b")})
