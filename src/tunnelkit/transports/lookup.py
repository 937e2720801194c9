"""Transports by name: the built-in ones, and those that other packages announce as entry points."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from ..config import DEFAULT_LIMITS, Limits
from ..errors import ConfigError
from .base import API_VERSION, Transport
from .longpoll import LongPollTransport
from .websocket import WebSocketTransport

__all__ = ["ENTRY_POINT_GROUP", "find_transport", "find_transports", "own_paths", "transport_names"]

ENTRY_POINT_GROUP: Final = "tunnelkit.transports"

_BUILT_IN: Final[dict[str, Callable[[Limits], Transport]]] = {
    WebSocketTransport.name: lambda limits: WebSocketTransport(),
    LongPollTransport.name: lambda limits: LongPollTransport(limits=limits),
}
# They have a whole end of a tunnel inside and stand above all floors: found by name, as another package's are.
_OF_OTHER_MAKES: Final = {
    "wstunnel": "tunnelkit.legacy.wstunnel:WStunnelTransport",
    "wsp": "tunnelkit.legacy.wsp:WspTransport",
}


def _announced() -> dict[str, EntryPoint]:
    own = {*_BUILT_IN, *_OF_OTHER_MAKES}
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP) if point.name not in own}


def transport_names() -> list[str]:
    """What ``find_transport`` finds by name."""
    return sorted({*_BUILT_IN, *_OF_OTHER_MAKES, *_announced()})


def find_transport(
    wanted: str | Transport, *, limits: Limits = DEFAULT_LIMITS, field: str = "transport"
) -> Transport:
    """The transport of that name, or ``wanted`` itself if it is one. A built-in one keeps to ``limits``.

    Raises ``ConfigError`` naming ``field`` when there is none, or when it speaks another version of the API.
    """
    if isinstance(wanted, str):
        return _check(_by_name(wanted, limits, field), field)
    return _check(wanted, field)


def find_transports(
    wanted: str | Transport | Sequence[str | Transport], *, limits: Limits = DEFAULT_LIMITS, field: str = "transport"
) -> dict[str, Transport]:
    """One or several, by name, in order. Raises ``ConfigError`` as ``find_transport``, and for none or doubles."""
    several = wanted if isinstance(wanted, Sequence) and not isinstance(wanted, str) else [wanted]
    found = [find_transport(one, limits=limits, field=field) for one in several]
    by_name = {transport.name: transport for transport in found}
    if not found or len(by_name) < len(found):
        raise ConfigError(field, "names no transport, or one of them twice")
    return by_name


def own_paths(transports: Mapping[str, Transport]) -> dict[str, str]:
    """The paths beside /_tunnel, with the mount paths of the transports whose they are. Raises ``ConfigError`` for
    one that two of them want."""
    found: dict[str, str] = {}
    for transport in transports.values():
        path = transport.own_path()
        if path in found:
            raise ConfigError("transports", f"{path} is wanted by two of them")
        if path is not None:
            found[path] = transport.mount_path() or ""
    return found


def _by_name(name: str, limits: Limits, field: str) -> object:
    if name in _BUILT_IN:
        return _BUILT_IN[name](limits)
    if name in _OF_OTHER_MAKES:
        return EntryPoint(name, _OF_OTHER_MAKES[name], ENTRY_POINT_GROUP).load()(limits=limits)
    point = _announced().get(name)
    if point is None:
        fix = f"known are {', '.join(transport_names())}"
        if name == "memory":
            fix = "pass the same MemoryTransport object to both ends"
        raise ConfigError(field, f"there is no transport named {name!r}", fix)
    return _load(point, field)


def _load(point: EntryPoint, field: str) -> object:
    """An entry point names a ``Transport`` object, or what makes one: its class, say."""
    try:
        found = point.load()
        return found if isinstance(found, Transport) else found()
    except Exception as exc:
        raise ConfigError(field, f"the transport {point.name!r} ({point.value}) cannot be loaded: {exc}") from exc


def _check(found: object, field: str) -> Transport:
    if not isinstance(found, Transport):
        raise ConfigError(field, f"{found!r} is not a tunnelkit.transports.base.Transport")
    if found.api_version != API_VERSION:
        raise ConfigError(
            field,
            f"the transport {found.name!r} is written for version {found.api_version} of the API, not {API_VERSION}",
            f"install a version of it for API {API_VERSION}",
        )
    return found
