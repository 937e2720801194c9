"""Dialling from given local ports, as WStunnel's -client-ports does."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing

import anyio
import pytest

from tunnelkit.errors import DialError
from tunnelkit.net.tcp import connect_tcp

pytestmark = pytest.mark.anyio


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def bound() -> socket.socket:
    """A socket that has a port for itself."""
    sock = socket.socket()
    sock.bind(("", 0))
    return sock


async def test_the_first_free_port_is_taken(listening: socket.socket) -> None:
    with closing(bound()) as taken, closing(bound()) as soon_free:
        ports = [taken.getsockname()[1], soon_free.getsockname()[1]]
        soon_free.close()
        with anyio.fail_after(10):
            stream = await connect_tcp("127.0.0.1", listening.getsockname()[1], local_ports=ports)
        assert stream.local_address[1] == ports[1]
        stream.abort()


async def test_no_free_port(listening: socket.socket) -> None:
    with closing(bound()) as taken, anyio.fail_after(10), pytest.raises(DialError, match="in use"):
        await connect_tcp("127.0.0.1", listening.getsockname()[1], local_ports=[taken.getsockname()[1]])


async def test_other_failures_are_not_tried_again(listening: socket.socket) -> None:
    port = listening.getsockname()[1]
    listening.close()
    with closing(bound()) as one, closing(bound()) as other:
        ports = [one.getsockname()[1], other.getsockname()[1]]
    with anyio.fail_after(10), pytest.raises(DialError, match="refused"):
        await connect_tcp("127.0.0.1", port, local_ports=ports)
