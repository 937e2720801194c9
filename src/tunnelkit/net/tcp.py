"""Connect a socket: addresses tried one after another with a head start each (RFC 8305), and unix sockets."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, zip_longest
from typing import Any, TypeAlias

import anyio

from ..errors import DialError, StreamBroken
from .adopt import adopt
from .failures import reason_of
from .stream import ByteStream

__all__ = ["connect_tcp", "connect_unix"]

Address: TypeAlias = tuple[int, Any]  # family and what socket.connect takes

_HEAD_START = 0.25  # RFC 8305 5: Connection Attempt Delay
_BUSY_UNIX_PAUSE = 0.01

# A local port, or the pair of it and the server's, is in use; or the port is not ours to use.
_PORT_TAKEN = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES})

_HINTS = {
    errno.ECONNREFUSED: "is the server running, and is the port right?",
    errno.ETIMEDOUT: "a firewall may drop the packets",
    errno.EHOSTUNREACH: "is this machine online?",
    errno.ENETUNREACH: "is this machine online?",
}


async def connect_tcp(
    host: str,
    port: int,
    *,
    timeout: float | None = None,
    local_ports: Sequence[int] = (),
    permits: Callable[[str], bool] | None = None,
) -> ByteStream:
    """A connection to ``host``, from the first free one of ``local_ports`` where a firewall wants that.

    ``permits`` judges each address that the name resolves to; only those that it allows are connected to. The name is
    resolved once, so that no second answer can lead elsewhere (DNS rebinding). Raises ``DialError`` (stage
    ``resolve``, ``address`` where none is allowed, or ``connect``). Nothing stays open when it fails or is cancelled.
    """
    stage, where = "resolve", f"{f'[{host}]' if ':' in host else host}:{port}"
    try:
        with anyio.fail_after(timeout):
            addresses = _permitted(await _resolve(host, port), where, permits)
            stage = "connect"
            return await adopt(await _connect_first(addresses, where, local_ports))
    except TimeoutError as exc:
        hint = "is the network's name server reachable?" if stage == "resolve" else _HINTS[errno.ETIMEDOUT]
        raise DialError(stage, f"no answer from {where} within {timeout:g} s", hint=hint) from exc
    except StreamBroken as exc:
        raise DialError("connect", f"cannot connect to {where}: {exc}") from exc


async def connect_unix(path: str, *, timeout: float | None = None) -> ByteStream:
    """A connection to the unix socket at ``path``; errors as with ``connect_tcp``."""
    where = f"unix:{path}"
    try:
        with anyio.fail_after(timeout):
            return await adopt(await _connect_first([(socket.AF_UNIX, path)], where))
    except TimeoutError as exc:
        raise DialError("connect", f"no answer from {where} within {timeout:g} s") from exc
    except StreamBroken as exc:
        raise DialError("connect", f"cannot connect to {where}: {exc}") from exc


async def _resolve(host: str, port: int) -> list[Address]:
    if _is_localhost(host):
        return [(socket.AF_INET, ("127.0.0.1", port)), (socket.AF_INET6, ("::1", port, 0, 0))]
    try:
        found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise DialError(
            "resolve", f"the name {host!r} was not found", hint="check its spelling, and the DNS"
        ) from exc
    addresses = [(int(family), address) for family, _, _, _, address in found]
    return _interleave(dict.fromkeys(addresses))


def _is_localhost(host: str) -> bool:
    """RFC 6761 6.3: always this machine, whatever a name server or a file says. Servers listen on one of its
    addresses or on both, and the files often know one alone."""
    name = host.lower().removesuffix(".")
    return name == "localhost" or name.endswith(".localhost")


def _permitted(addresses: list[Address], where: str, permits: Callable[[str], bool] | None) -> list[Address]:
    if permits is None:
        return addresses
    permitted = [address for address in addresses if permits(address[1][0])]
    if not permitted:
        raise DialError("address", f"{where} has no address that may be connected to")
    return permitted


def _interleave(addresses: Iterable[Address]) -> list[Address]:
    """Families in turn, beginning with the resolver's favourite (RFC 8305 4)."""
    by_family: dict[int, list[Address]] = {}
    for address in addresses:
        by_family.setdefault(address[0], []).append(address)
    return [address for address in chain.from_iterable(zip_longest(*by_family.values())) if address is not None]


async def _connect_first(addresses: Sequence[Address], where: str, local_ports: Sequence[int] = ()) -> socket.socket:
    failures: list[OSError] = []
    sock = await (_connect_one if len(addresses) == 1 else _race)(addresses, local_ports, failures)
    if sock is not None:
        return sock
    reasons = "; ".join(dict.fromkeys(reason_of(exc) for exc in failures))
    hint = _HINTS.get(failures[0].errno or 0, "")
    raise DialError("connect", f"cannot connect to {where}: {reasons}", hint=hint) from failures[0]


async def _connect_one(
    addresses: Sequence[Address], local_ports: Sequence[int], failures: list[OSError]
) -> socket.socket | None:
    try:
        return await _connect_from(local_ports, *addresses[0])
    except OSError as exc:
        failures.append(exc)
        return None


async def _race(
    addresses: Sequence[Address], local_ports: Sequence[int], failures: list[OSError]
) -> socket.socket | None:
    """The first that connects. Each gets a head start on the next, which ends when it fails."""
    connected: list[socket.socket] = []

    async def attempt(address: Address, failed: anyio.Event) -> None:
        sock = await _connect_one([address], local_ports, failures)
        if sock is None:
            failed.set()
        else:
            connected.append(sock)
            tasks.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as tasks:
            for address in addresses:
                failed = anyio.Event()
                tasks.start_soon(attempt, address, failed)
                with anyio.move_on_after(_HEAD_START):
                    await failed.wait()
    except BaseException:
        _close_all(connected)
        raise
    _close_all(connected[1:])
    return connected[0] if connected else None


def _close_all(sockets: Iterable[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


async def _connect_from(local_ports: Sequence[int], family: int, address: Any) -> socket.socket:
    """From the first local port that is free, or whichever the system picks when none is named."""
    for port in local_ports[:-1]:
        try:
            return await _connect(family, address, port)
        except OSError as exc:
            if exc.errno not in _PORT_TAKEN:
                raise
    return await _connect(family, address, local_ports[-1] if local_ports else 0)


async def _connect(family: int, address: Any, local_port: int = 0) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if local_port:
            # Without this, a port stays unusable for a minute after its last connection (TIME-WAIT).
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", local_port))
        await (_connect_unix_socket if isinstance(address, str) else _connect_socket)(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect_socket(sock: socket.socket, address: Any) -> None:
    try:
        sock.connect(address)
    except BlockingIOError:
        await anyio.wait_writable(sock)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, "connect") from None
    if sock.getsockname() == sock.getpeername():
        # TCP's simultaneous open with oneself: a dial to a local port that nobody listens on may get that very port.
        raise OSError(errno.ECONNREFUSED, "connected to itself")


async def _connect_unix_socket(sock: socket.socket, path: str) -> None:
    while True:
        try:
            sock.connect(path)
        except BlockingIOError:
            # The listener's backlog is full; the kernel has no event for its end.
            await anyio.sleep(_BUSY_UNIX_PAUSE)
        else:
            return
