"""Where the ends of a tunnel run: both on loopback, or each in namespaces of its own, with a link between that can be
taken down and a small disk that can be filled."""

from __future__ import annotations

import ctypes
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ..e2e.peers import REQUIRED

__all__ = ["Link", "Place", "SmallDisk", "Surroundings", "no_namespaces", "surroundings"]

ROOT = Path(__file__).resolve().parent.parent.parent
CLONE_NEWNET = 0x40000000
WAIT = 30.0

# Of the link's two ends. 198.18.0.0/15 is for tests of networks (RFC 2544); nobody else is in these namespaces.
SERVER_ADDRESS, CLIENT_ADDRESS = "198.18.0.1", "198.18.0.2"
INTERFACE = "link0"
DISK = 64 * 1024 * 1024  # bytes: room for the log of all faults in their full length


def no_namespaces() -> str:
    """Why none can be made here; empty if they can. With ``TUNNELKIT_REQUIRE_PEERS=1`` a missing tool fails."""
    if sys.platform != "linux":
        return "only Linux has network namespaces"
    missing = [tool for tool in ("unshare", "nsenter", "ip", "mount") if shutil.which(tool) is None]
    if missing and REQUIRED:
        pytest.fail(f"{', '.join(missing)} not installed, and TUNNELKIT_REQUIRE_PEERS=1 wants it")
    if missing:
        return f"namespaces need {', '.join(missing)}"
    tried = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, text=True, timeout=WAIT)
    return "" if tried.returncode == 0 else f"namespaces cannot be made here: {tried.stderr.strip()}"


@dataclass
class Place:
    """This machine's loopback, or a network and a file system of its own."""

    address: str = "127.0.0.1"  # by which the other end reaches it
    holder: int = 0  # the process that keeps the namespaces; 0: there are none
    prefix: list[str] = field(default_factory=list)  # of a command that is to run here

    def run(self, *command: str) -> None:
        subprocess.run([*self.prefix, *command], check=True, timeout=WAIT, capture_output=True)

    def connect(self, port: int) -> socket.socket:
        """From inside. Blocks; the thread is elsewhere meanwhile."""
        with self._inside():
            return socket.create_connection(("127.0.0.1", port), timeout=WAIT)

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """This thread alone. A socket belongs for ever to where it was made."""
        if not self.holder:
            yield
            return
        with open("/proc/thread-self/ns/net") as home, open(f"/proc/{self.holder}/ns/net") as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


@dataclass
class Link:
    """The only way between two places."""

    server: Place
    client: Place

    def down(self) -> None:
        """At the server's end: the client is told nothing, and what it sends is lost."""
        self.server.run("ip", "link", "set", INTERFACE, "down")

    def up(self) -> None:
        self.server.run("ip", "link", "set", INTERFACE, "up")


@dataclass
class SmallDisk:
    """A file system of its own inside a place; everybody else sees an empty directory."""

    place: Place
    path: Path

    def fill(self) -> None:
        """To the last byte."""
        with open(self._seen_from_outside() / "filler", "ab", buffering=0) as filler:
            block = bytes(4096)
            while block:
                try:
                    filler.write(block)
                except OSError:
                    block = block[: len(block) // 2]

    def free(self) -> None:
        (self._seen_from_outside() / "filler").unlink()

    def has(self, name: str) -> bool:
        return (self._seen_from_outside() / name).exists()

    def text(self, name: str) -> str:
        return (self._seen_from_outside() / name).read_text()

    def _seen_from_outside(self) -> Path:
        return Path(f"/proc/{self.place.holder}/root{self.path}")


@dataclass
class Surroundings:
    """What faults other than those of processes happen to."""

    link: Link
    disk: SmallDisk  # the server's


@contextmanager
def _namespaces(address: str) -> Iterator[Place]:
    """They end with the process that holds them, and that ends when its standard input does."""
    command = ["unshare", "--net", "--mount", "sh", "-c", "echo made; exec cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as holder:
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == b"made\n"
            # With --wd: entering a mount namespace leads to its root directory otherwise.
            prefix = ["nsenter", "--target", str(holder.pid), "--net", "--mount", "--wd", "--"]
            place = Place(address, holder.pid, prefix)
            place.run("ip", "link", "set", "lo", "up")
            yield place
        finally:
            holder.kill()


@contextmanager
def surroundings(folder: Path) -> Iterator[Surroundings]:
    """Namespaces for both ends. Needs root on Linux, see ``no_namespaces``."""
    with ExitStack() as stack:
        server = stack.enter_context(_namespaces(SERVER_ADDRESS))
        client = stack.enter_context(_namespaces(CLIENT_ADDRESS))
        yield Surroundings(_join(server, client), _small_disk(server, folder / "disk"))


def _join(server: Place, client: Place) -> Link:
    pair = ["type", "veth", "peer", "name", INTERFACE, "netns", str(client.holder)]
    server.run("ip", "link", "add", INTERFACE, *pair)
    for place in (server, client):
        place.run("ip", "address", "add", f"{place.address}/24", "dev", INTERFACE)
        place.run("ip", "link", "set", INTERFACE, "up")
    return Link(server, client)


def _small_disk(place: Place, path: Path) -> SmallDisk:
    path.mkdir()
    place.run("mount", "-t", "tmpfs", "-o", f"size={DISK}", "tunnelkit-tests", str(path))
    return SmallDisk(place, path)
