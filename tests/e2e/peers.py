"""Real nginx, HAProxy, squid and tinyproxy as child processes, with the files of examples/deploy.

A file is used as it stands but for what must differ on a machine that runs tests: ports, paths, networks. Where a
program is missing a test is skipped, and says so; with ``TUNNELKIT_REQUIRE_PEERS=1`` it fails.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from tunnelkit.net.dial import Dial
from tunnelkit.net.stream import ByteStream
from tunnelkit.transports.base import Transport
from tunnelkit.transports.longpoll import LongPollTransport

from .tunnel import Ends

__all__ = [
    "DEPLOY",
    "Peer",
    "SecureEnds",
    "carrier",
    "check_events",
    "haproxy",
    "nginx",
    "nginx_with_its_defaults",
    "program",
    "receive_until",
    "replaced",
    "squid",
    "tinyproxy",
]

DEPLOY = Path(__file__).resolve().parent.parent.parent / "examples" / "deploy"
# Read when the tests are collected: their quiet environment does not hold it.
REQUIRED = os.environ.get("TUNNELKIT_REQUIRE_PEERS") == "1"
STARTING = 20.0
CHECKING = 20.0
NGINX = """
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr;
events {}
http {
    client_body_temp_path {folder};
    proxy_temp_path {folder};
    fastcgi_temp_path {folder};
    uwsgi_temp_path {folder};
    scgi_temp_path {folder};
    include {folder}/tunnelkit.conf;
}
"""
SQUID = """
pid_filename none
access_log none
cache_log /dev/stderr
coredump_dir none
pinger_enable off
"""
# What the sample sets so that nothing is held back.
UNBUFFERED = ("    proxy_request_buffering off;\n", "    proxy_buffering off;\n")


def program(name: str) -> str:
    """The path of a program. Skips the test where it is missing, or fails it where it must not be."""
    path = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin"]))
    if path is None:
        if REQUIRED:
            pytest.fail(f"{name} is not installed, and TUNNELKIT_REQUIRE_PEERS=1 wants it")
        pytest.skip(f"{name} is not installed")
    return path


def replaced(name: str, changes: Mapping[str, str]) -> str:
    """A file of examples/deploy with each key's value in its place. Each key must be there: the file that is tested
    is the file that is shown."""
    text = (DEPLOY / name).read_text()
    for old, new in changes.items():
        assert old in text, f"{name} does not say {old!r} any more"
        text = text.replace(old, new)
    return text


@dataclass(frozen=True)
class Peer:
    """A program with its files, ready to be checked or run. ``{folder}`` in files and commands is theirs."""

    port: int  # where it listens
    files: Mapping[str, str]
    checking: Sequence[str]
    serving: Sequence[str]

    def check(self) -> subprocess.CompletedProcess[str]:
        """Let the program judge its configuration."""
        with tempfile.TemporaryDirectory(prefix="peer-") as name:
            command = self._prepare(Path(name), self.checking)
            return subprocess.run(command, capture_output=True, text=True, timeout=CHECKING)

    @asynccontextmanager
    async def run(self) -> AsyncIterator[Path]:
        """Serve until the block ends; gives the folder, where "output" is what the program said."""
        with tempfile.TemporaryDirectory(prefix="peer-") as name:
            folder = Path(name)
            with self._process(folder) as process:
                with anyio.fail_after(STARTING):
                    while not await _accepts(self.port):
                        assert process.poll() is None, (folder / "output").read_text()
                        await anyio.sleep(0.02)  # another program tells by its port alone
                yield folder

    @contextmanager
    def _process(self, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
        command = self._prepare(folder, self.serving)
        with (folder / "output").open("wb") as output:
            process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)
        try:
            yield process
        finally:
            process.kill()  # there is nothing to end in order, for which squid would take 30 s
            process.wait()

    def _prepare(self, folder: Path, command: Sequence[str]) -> list[str]:
        folder.chmod(0o755)  # squid gives up root's rights, where it has them
        for name, text in self.files.items():
            (folder / name).write_text(text.replace("{folder}", str(folder)))
        return [program(command[0]), *(part.replace("{folder}", str(folder)) for part in command[1:])]


@dataclass
class SecureEnds(Ends):
    """Callers come by TLS: to the server itself, or to a reverse proxy in front of it."""

    tls_port: int = 0
    context: ssl.SSLContext | None = None

    @asynccontextmanager
    async def caller(self) -> AsyncIterator[ByteStream]:
        stream = await Dial(ssl_context=self.context)("localhost", self.tls_port, tls=True)
        try:
            yield stream
        finally:
            stream.abort()


def carrier(name: str) -> Transport | str:
    """A transport by name, with long-poll's mode behind a colon where it is not to choose by itself."""
    kind, _, mode = name.partition(":")
    return LongPollTransport(mode=mode or "auto") if kind == "longpoll" else name


async def receive_until(stream: ByteStream, text: bytes, data: bytes = b"") -> bytes:
    """Everything up to and with ``text``, and what came behind it."""
    with anyio.fail_after(10):
        while text not in data:
            piece = await stream.receive()
            assert piece, "the connection ended early"
            data += piece
    return data


async def check_events(ends: Ends, stream: ByteStream) -> None:
    """Each event arrives before the next one is sent."""
    await stream.send(f"GET {ends.path('/sse')} HTTP/1.1\r\nHost: tunnel.test\r\n\r\n".encode())
    data = b""
    for number in range(5):
        ends.origin.release(f"event{number}")
        data = await receive_until(stream, b"data: %d\n\n" % number, data)


async def _accepts(port: int) -> bool:
    try:
        stream = await anyio.connect_tcp("127.0.0.1", port)
    except OSError:
        return False
    await stream.aclose()
    return True


def _free_port() -> int:
    """Below the range from which the system picks ports by itself: nobody gets it before the peer does."""
    for port in random.sample(range(12_000, 32_000), 50):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("of 50 ports none is free")


# -- in front of the tunnel server -----------------------------------------------------------------


def nginx(server_port: int, tls_files: Mapping[str, Path]) -> Peer:
    port = _free_port()
    site = replaced(
        "nginx.conf",
        {
            "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
            "server 127.0.0.1:8080;": f"server 127.0.0.1:{server_port};",
            "/var/log/nginx/tunnelkit.log": "{folder}/access.log",
            "/etc/letsencrypt/live/tunnel.example.com/fullchain.pem": str(tls_files["cert"]),
            "/etc/letsencrypt/live/tunnel.example.com/privkey.pem": str(tls_files["key"]),
        },
    )
    command = ("nginx", "-p", "{folder}", "-c", "{folder}/nginx.conf")
    return Peer(port, {"nginx.conf": NGINX, "tunnelkit.conf": site}, (*command, "-t"), command)


def nginx_with_its_defaults(server_port: int, tls_files: Mapping[str, Path]) -> Peer:
    """The same, but buffering both ways, as it does when nobody tells it otherwise."""
    peer = nginx(server_port, tls_files)
    site = peer.files["tunnelkit.conf"]
    for line in UNBUFFERED:
        assert line in site
        site = site.replace(line, "")
    assert "buffering" not in site
    return Peer(peer.port, {**peer.files, "tunnelkit.conf": site}, peer.checking, peer.serving)


def haproxy(server_port: int, tls_files: Mapping[str, Path]) -> Peer:
    port = _free_port()
    changes = {
        "bind :443 ": f"bind 127.0.0.1:{port} ",
        "server tunnelkit 127.0.0.1:8080 ": f"server tunnelkit 127.0.0.1:{server_port} ",
        "/etc/haproxy/tunnel.example.com.pem": "{folder}/site.pem",
        "maxconn 20000": "maxconn 1000",  # what the tests' own file limit allows
        "log /dev/log local0": "log stderr format raw local0",
    }
    files = {
        "haproxy.cfg": replaced("haproxy.cfg", changes),
        "site.pem": tls_files["cert"].read_text() + tls_files["key"].read_text(),
    }
    command = ("haproxy", "-f", "{folder}/haproxy.cfg")
    return Peer(port, files, (*command, "-c"), (*command, "-db"))


# -- on the client's way out -----------------------------------------------------------------------


def squid(server_port: int, *, plain: bool = False) -> Peer:
    """``plain``: the tunnel server speaks HTTP at that port, else TLS."""
    port = _free_port()
    changes = {
        "http_port 3128": f"http_port 127.0.0.1:{port}",
        "10.0.0.0/8": "127.0.0.0/8",
        "dstdomain tunnel.example.com": "dstdomain localhost",
        **({"port 80\n": f"port {server_port}\n"} if plain else {"port 443\n": f"port {server_port}\n"}),
    }
    files = {"squid.conf": replaced("squid.conf", changes) + SQUID}
    command = ("squid", "-N", "-n", f"tunnelkit{port}", "-f", "{folder}/squid.conf")
    return Peer(port, files, (*command, "-k", "parse"), command)


def tinyproxy(server_port: int, *, plain: bool = False) -> Peer:
    """``plain``: the tunnel server speaks HTTP at that port, else TLS."""
    port = _free_port()
    changes = {
        "User tinyproxy\nGroup tinyproxy\n": "Listen 127.0.0.1\n",
        "Port 8888": f"Port {port}",
        "10.0.0.0/8": "127.0.0.0/8",
        "/etc/tinyproxy/filter": "{folder}/filter",
        **({} if plain else {"ConnectPort 443": f"ConnectPort {server_port}"}),
    }
    files = {
        "tinyproxy.conf": replaced("tinyproxy.conf", changes),
        "filter": replaced("tinyproxy.filter", {r"tunnel\.example\.com": "localhost"}),
    }
    command = ("tinyproxy", "-d", "-c", "{folder}/tinyproxy.conf")
    return Peer(port, files, (), command)
