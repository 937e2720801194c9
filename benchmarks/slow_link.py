"""A slow, long link between two network namespaces of our own: tbf for the rate, and a pair of tun devices between
which packets wait for the delay. It needs root, and Linux.

Whoever opens it is already in a namespace of its own (``unshare --net``), the near one.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from .origin import Site
from .programs import BenchmarkError

__all__ = ["DELAY", "RATE", "open_link"]

RATE = 1_000_000  # bits a second, each way
DELAY = 0.05  # seconds, each way
QUEUE = 64 * 1024  # bytes that wait for the rate, half a second's worth; what comes then is dropped
BURST = 3000  # bytes
MTU = 1500
NEAR, FAR = "10.99.0.1", "10.99.0.2"

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


@contextmanager
def open_link() -> Iterator[Site]:
    """The link, with addresses for both sides, as long as the context lasts. Raises BenchmarkError."""
    with _far_namespace() as pid:
        far = ("nsenter", f"--net=/proc/{pid}/ns/net")
        ends = _tun("near"), _tun("far")
        try:
            _run("ip", "link", "set", "far", "netns", str(pid))
            _set_up("near", NEAR, FAR)
            _set_up("far", FAR, NEAR, far)
            with _carried(*ends):
                yield Site(NEAR, FAR, far)
        finally:
            for end in ends:
                os.close(end)


@contextmanager
def _far_namespace() -> Iterator[int]:
    """The id of a process that does nothing but hold it."""
    with subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as holder:
        own = os.readlink("/proc/self/ns/net")
        deadline = time.monotonic() + 5
        while os.readlink(f"/proc/{holder.pid}/ns/net") == own:
            if time.monotonic() > deadline or holder.poll() is not None:
                raise BenchmarkError("no network namespace can be made")
            time.sleep(0.01)  # between two looks
        try:
            yield holder.pid
        finally:
            holder.terminate()


def _tun(name: str) -> int:
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return end


def _set_up(device: str, own: str, other: str, inside: tuple[str, ...] = ()) -> None:
    _run(*inside, "ip", "link", "set", "lo", "up")
    _run(*inside, "ip", "addr", "add", own, "peer", other, "dev", device)
    _run(*inside, "ip", "link", "set", device, "mtu", str(MTU), "up")
    shape = ("tbf", "rate", f"{RATE}bit", "burst", str(BURST), "limit", str(QUEUE))
    _run(*inside, "tc", "qdisc", "add", "dev", device, "root", *shape)


def _run(*command: str) -> None:
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path})
    if run.returncode:
        raise BenchmarkError(f"{' '.join(command)}: {run.stderr.strip()}")


@contextmanager
def _carried(near: int, far: int) -> Iterator[None]:
    """Packets go from each end to the other, ``DELAY`` later."""
    over_read, over_write = os.pipe()
    thread = threading.Thread(target=_carry, args=({near: far, far: near}, over_read))
    thread.start()
    try:
        yield
    finally:
        os.write(over_write, b".")
        thread.join()
        os.close(over_read)
        os.close(over_write)


def _carry(ways: dict[int, int], over: int) -> None:
    waiting: deque[tuple[float, int, bytes]] = deque()  # due, where to, the packet; the oldest is the next one due
    while True:
        timeout = max(waiting[0][0] - time.monotonic(), 0) if waiting else None
        ready, _, _ = select.select([*ways, over], [], [], timeout)
        if over in ready:
            return
        for end in ready:
            waiting.append((time.monotonic() + DELAY, ways[end], os.read(end, 65536)))
        while waiting and waiting[0][0] <= time.monotonic():
            _, target, packet = waiting.popleft()
            os.write(target, packet)
