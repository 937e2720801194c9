"""Plain callers for what wrk cannot do: long bodies, readers that hold back, a request at a given moment."""

from __future__ import annotations

import selectors
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

from .programs import BenchmarkError
from .ways import Address

__all__ = ["Fetcher", "download", "download_many", "paced_download", "stalled", "upload", "upload_many"]

WAIT = 60.0  # seconds that a socket may be silent
BLOCK = bytes(1024 * 1024)
PIECE = 64 * 1024
MAX_HEAD = 64 * 1024


def connect(address: Address) -> socket.socket:
    sock = socket.create_connection((address.host, address.port), timeout=WAIT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not address.tls:
        return sock
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # made by this run, for this run
    return context.wrap_socket(sock)


def request(address: Address, path: str, *, body: int | None = None) -> bytes:
    method = "GET" if body is None else "PUT"
    lines = [f"{method} {address.target(path)} HTTP/1.1", f"Host: {address.host}:{address.port}"]
    lines += [f"{name}: {value}" for name, value in address.headers(path)]
    lines += [] if body is None else [f"Content-Length: {body}"]
    return "\r\n".join([*lines, "", ""]).encode()


def read_head(sock: socket.socket) -> tuple[int, bytes]:
    """The length of the body, and what of it came with the head. Raises BenchmarkError unless it is a 200."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(PIECE)
        if not piece or len(data) > MAX_HEAD:
            raise BenchmarkError(f"no answer but {data[:200]!r}")
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    status, *fields = head.split(b"\r\n")
    if b" 200" not in status:
        raise BenchmarkError(f"answered {status.decode('latin-1')}")
    named = (field.lower().partition(b":") for field in fields)
    return next((int(value) for name, _, value in named if name == b"content-length"), 0), rest


class Fetcher:
    """Small requests one after the other over one connection."""

    def __init__(self, address: Address, path: str = "/small") -> None:
        self._sock = connect(address)
        self._request = request(address, path)

    def fetch(self) -> float:
        """Seconds until the whole answer was there."""
        began = time.perf_counter()
        self._sock.sendall(self._request)
        length, body = read_head(self._sock)
        while len(body) < length:
            piece = self._sock.recv(PIECE)
            if not piece:
                raise BenchmarkError("the answer was cut")
            body += piece
        return time.perf_counter() - began

    def close(self) -> None:
        self._sock.close()


def download(address: Address, path: str) -> tuple[int, float]:
    """(bytes, seconds)."""
    buffer = bytearray(len(BLOCK))
    with closing(connect(address)) as sock:
        began = time.perf_counter()
        sock.sendall(request(address, path))
        length, body = read_head(sock)
        done = len(body)
        while done < length:
            count = sock.recv_into(buffer)
            if not count:
                raise BenchmarkError(f"{done} of {length} bytes, then the end")
            done += count
        return done, time.perf_counter() - began


def upload(address: Address, path: str, size: int) -> float:
    """Seconds until the origin, which had everything, answered."""
    with closing(connect(address)) as sock:
        began = time.perf_counter()
        sock.sendall(request(address, path, body=size))
        for start in range(0, size, len(BLOCK)):
            sock.sendall(memoryview(BLOCK)[: size - start])
        read_head(sock)
        return time.perf_counter() - began


class Paced:
    """A download that is under way."""

    def __init__(self, rate: float) -> None:
        self.rate = rate  # bytes a second that it is held to
        self.received = 0
        self._began = time.perf_counter()

    @property
    def share(self) -> float:
        """What it got so far of what it is held to."""
        return self.received / (self.rate * (time.perf_counter() - self._began))


@contextmanager
def paced_download(address: Address, path: str, rate: float) -> Iterator[Paced]:
    """While the context lasts, a caller reads that answer again and again at ``rate`` bytes a second."""
    over = threading.Event()
    failures: list[Exception] = []
    paced = Paced(rate)

    def read() -> None:
        try:
            while not over.is_set():
                _read_paced(address, path, paced, over)
        except (OSError, BenchmarkError) as error:
            failures.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield paced
    finally:
        over.set()
        thread.join()
    if failures:
        raise BenchmarkError(f"the transfer beside: {failures[0]}")


def _read_paced(address: Address, path: str, paced: Paced, over: threading.Event) -> None:
    buffer = bytearray(PIECE)
    with closing(connect(address)) as sock:
        sock.sendall(request(address, path))
        length, body = read_head(sock)
        done, began = len(body), time.perf_counter()
        while done < length and not over.is_set():
            count = sock.recv_into(buffer)
            if not count:
                raise BenchmarkError(f"{done} of {length} bytes, then the end")
            done += count
            paced.received += count
            ahead = done / paced.rate - (time.perf_counter() - began)
            if ahead > 0:
                over.wait(ahead)


@contextmanager
def stalled(address: Address, path: str, count: int = 1) -> Iterator[None]:
    """While the context lasts, so many callers have asked and read nothing."""
    with ExitStack() as stack:
        for _ in range(count):
            sock = stack.enter_context(closing(connect(address)))
            sock.sendall(request(address, path))
        yield


# -- many at once, in one thread -----------------------------------------------------------------


def download_many(address: Address, path: str, count: int) -> int:
    """All of them at once, to the end; bytes of bodies and heads together."""
    buffer = bytearray(len(BLOCK))
    total = 0
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        for _ in range(count):
            sock = stack.enter_context(closing(connect(address)))
            sock.sendall(request(address, path))
            length, body = read_head(sock)
            selector.register(sock, selectors.EVENT_READ, length - len(body))
        while selector.get_map():
            events = selector.select(WAIT)
            if not events:
                raise BenchmarkError(f"nothing came for {WAIT:g} s")
            for key, _ in events:
                got = _receive(key.fileobj, buffer)
                total += got
                selector.unregister(key.fileobj)
                if key.data > got:
                    selector.register(key.fileobj, selectors.EVENT_READ, key.data - got)
    return total


def _receive(sock: object, buffer: bytearray) -> int:
    assert isinstance(sock, socket.socket)
    count = sock.recv_into(buffer)
    if not count:
        raise BenchmarkError("a body was cut")
    return count


def upload_many(address: Address, path: str, count: int, size: int) -> None:
    """All of them at once, each in a thread that mostly waits. Raises the first failure."""
    failures: list[Exception] = []

    def run() -> None:
        try:
            upload(address, path, size)
        except (OSError, BenchmarkError) as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise BenchmarkError(f"an upload failed: {failures[0]}")
