"""A whole tunnel as processes of its own, origin, server and client, and plain blocking callers for it."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from .origin import BLOCK, pattern_digest
from .ways import Way, current

__all__ = ["Process", "Tunnel", "download", "fetch", "in_threads", "open_processes", "stalled", "upload"]

ROOT = Path(__file__).resolve().parent.parent.parent
TOKEN = "a-token-for-the-tests"
WAIT = 60.0  # seconds that one socket may be silent

T = TypeVar("T")

# How a client is started over each way. Long-poll's own choice is to stream, half a second after it began.
CLIENTS = {
    Way.AUTO: ("examples/tunnel_client.py",),
    Way.WEBSOCKET: ("examples/tunnel_client.py", "--transport", "websocket"),
    Way.LONGPOLL: ("-m", "tests.e2e.strict_client", "--transport", "longpoll"),
    Way.STREAMED: ("examples/tunnel_client.py", "--transport", "longpoll"),
}


class Process:
    """A Python program that says on its standard output when it is ready."""

    def __init__(self, *arguments: str) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-u", *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT
        )

    def said(self, start: str) -> str:
        """The next line, which must begin with ``start``; the rest of it."""
        assert self._popen.stdout is not None
        line = self._popen.stdout.readline()
        assert line.startswith(start), line
        return line.removeprefix(start).strip()

    @property
    def peak(self) -> float:
        """The most memory that was resident at any time, in MB."""
        status = Path(f"/proc/{self._popen.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024 / 1e6

    @property
    def processor_time(self) -> float:
        """Seconds."""
        times = Path(f"/proc/{self._popen.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        self._popen.kill()
        self._popen.wait()
        assert self._popen.stdout is not None
        self._popen.stdout.close()


@dataclass
class Tunnel:
    origin: Process
    server: Process
    client: Process
    origin_port: int
    port: int

    def settle(self) -> None:
        """Wait until both ends have nothing to do: whatever could be buffered is."""
        deadline = time.monotonic() + 60
        used = -1.0
        while used != (used := self.server.processor_time + self.client.processor_time):
            assert time.monotonic() < deadline
            time.sleep(0.25)  # the time in which nothing may happen

    @property
    def peak(self) -> float:
        """Of the end that needed more, in MB."""
        return max(self.server.peak, self.client.peak)


@contextmanager
def open_processes(backend: str, *, origin_port: int = 0) -> Iterator[Tunnel]:
    """``origin_port``: of another origin, which answers the same paths."""
    with ExitStack() as stack:

        def start(*arguments: str) -> Process:
            process = Process(*arguments)
            stack.callback(process.close)
            return process

        common = ("--backend", backend, "--log-level", "warning")
        origin = start("-m", "tests.e2e.origin", "0")
        own_port = int(origin.said("serving on "))
        origin_port = origin_port or own_port
        server = start("examples/tunnel_server.py", "--listen", "127.0.0.1:0", *common)
        port = int(server.said("listening on ").rpartition(":")[2])
        service = f"http://127.0.0.1:{origin_port}"
        client = start(
            *CLIENTS[current()],
            *("--tunnel", f"ws://127.0.0.1:{port}", "--server", service, "--token", TOKEN, *common),
        )
        client.said("ready ")
        yield Tunnel(origin, server, client, origin_port, port)


# -- callers -----------------------------------------------------------------------------------


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=WAIT)


def _request(line: str, *fields: str) -> bytes:
    return "\r\n".join([f"{line} HTTP/1.1", "Host: tunnel.test", f"X-Token: {TOKEN}", *fields, "", ""]).encode()


def _read_head(sock: socket.socket) -> tuple[int, bytes]:
    """The status, and what came behind the head."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        assert piece, f"the connection ended inside a head: {data!r}"
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), rest


def stalled(port: int, size: int) -> socket.socket:
    """A caller that asks for ``size`` bytes and reads none of them."""
    sock = _connect(port)
    sock.sendall(_request(f"GET /bytes/{size}"))
    return sock


def fetch(port: int, times: int) -> list[float]:
    """So many small requests over one connection; how long each took, in seconds."""
    took = []
    with closing(_connect(port)) as sock:
        for _ in range(times):
            started = time.perf_counter()
            sock.sendall(_request("GET /status/200"))
            assert _read_head(sock) == (200, b"")
            took.append(time.perf_counter() - started)
    return took


def download(port: int, size: int) -> None:
    """Raises AssertionError unless the answer is whole."""
    digest = hashlib.sha256()
    buffer = bytearray(1024 * 1024)
    with closing(_connect(port)) as sock:
        sock.sendall(_request(f"GET /bytes/{size}"))
        status, rest = _read_head(sock)
        assert status == 200
        digest.update(rest)
        done = len(rest)
        while done < size:
            count = sock.recv_into(buffer)
            assert count, f"{done} of {size} bytes, then the end"
            digest.update(memoryview(buffer)[:count])
            done += count
    assert digest.hexdigest() == expected_digest(size)


def upload(port: int, size: int) -> None:
    """Raises AssertionError unless the origin got everything."""
    with closing(_connect(port)) as sock:
        sock.sendall(_request("PUT /sink", f"Content-Length: {size}"))
        for start in range(0, size, len(BLOCK)):
            sock.sendall(BLOCK[: size - start])
        status, rest = _read_head(sock)
        assert status == 200
        while b"}" not in rest:
            rest += sock.recv(65536)
        assert json.loads(rest) == {"size": size, "sha256": expected_digest(size)}


_digests: dict[int, str] = {}


def expected_digest(size: int) -> str:
    if size not in _digests:
        _digests[size] = pattern_digest(size)
    return _digests[size]


def in_threads(count: int, job: Callable[[], T]) -> list[T]:
    """``job`` so many times at once; the results. Raises the first failure."""
    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(job) for _ in range(count)]]
