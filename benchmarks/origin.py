"""The origins of a run: nginx where it is installed, our own for uploads and where it is not."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .own_origin import SMALL
from .programs import BenchmarkError, Program

__all__ = [
    "LOOPBACK",
    "Certificate",
    "Origin",
    "Origins",
    "Site",
    "find_program",
    "free_port",
    "make_certificate",
    "wait_for_port",
]

START_TIMEOUT = 10.0
PIECE = 1024 * 1024

# One worker, as every other program here has one thread that matters; nothing of a request is written anywhere.
NGINX = """
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    sendfile on;
    tcp_nopush on;
    client_body_temp_path {folder};
    proxy_temp_path {folder};
    fastcgi_temp_path {folder};
    uwsgi_temp_path {folder};
    scgi_temp_path {folder};
    server {{
        listen {host}:{port} backlog=4096;
        {tls}
        root {folder}/files;
        location = /small {{ return 200 "{small}"; }}
    }}
}}
"""
NGINX_TLS = """
        listen {host}:{port} ssl backlog=4096;
        ssl_certificate {certificate};
        ssl_certificate_key {certificate};
"""


@dataclass(frozen=True)
class Certificate:
    """A self-made certificate for the hosts of a site, with its key in the same file."""

    path: Path


@dataclass(frozen=True)
class Site:
    """Where the two sides are: by default both on loopback. ``far`` begins the commands of what runs beside the
    origin, in another network namespace, say."""

    near_host: str = "127.0.0.1"  # where the tunnel server listens
    far_host: str = "127.0.0.1"  # where the origin does
    far: tuple[str, ...] = ()


LOOPBACK = Site()


@dataclass(frozen=True)
class Origin:
    """Where an origin listens; ``tls_port`` is for callers that come directly."""

    program: Program
    host: str
    port: int
    tls_port: int

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


class Origins:
    """The origins of one run, each started when it is first asked for."""

    def __init__(self, stack: ExitStack, folder: Path, site: Site = LOOPBACK) -> None:
        self.site = site
        self._stack = stack
        self._folder = folder
        (folder / "files" / "bytes").mkdir(parents=True)

    @cached_property
    def certificate(self) -> Certificate | None:
        """None where openssl is missing: then nothing is measured over TLS."""
        return make_certificate(self._folder, {self.site.near_host, self.site.far_host})

    @cached_property
    def sink(self) -> Origin:
        """Takes uploads and forgets them."""
        certificate = [] if self.certificate is None else [str(self.certificate.path)]
        command = [sys.executable, "-m", "benchmarks.own_origin", self.site.far_host, *certificate]
        program = self._start(command, "sink")
        ports = program.said("serving on ").split()
        return Origin(program, self.site.far_host, int(ports[0]), int(ports[1]))

    @cached_property
    def files(self) -> Origin:
        """Answers ``/small`` and ``/bytes/N``."""
        nginx = find_program("nginx")
        return self.sink if nginx is None else self._start_nginx(nginx)

    def path_of(self, size: int) -> str:
        """The path of an answer of ``size`` bytes."""
        file = self._folder / "files" / "bytes" / str(size)
        if not file.exists():
            with file.open("wb") as new:
                new.truncate(size)
            with file.open("rb") as warm:  # a hole must become memory before it is as fast as any other file
                while warm.read(PIECE):
                    pass
        return f"/bytes/{size}"

    def _start_nginx(self, nginx: str) -> Origin:
        port, tls_port, tls = free_port(), 0, ""
        if self.certificate is not None:
            tls_port = free_port()
            tls = NGINX_TLS.format(host=self.site.far_host, port=tls_port, certificate=self.certificate.path)
        configuration = self._folder / "nginx.conf"
        small = SMALL.decode().replace("\n", "\\n")
        host = self.site.far_host
        configuration.write_text(NGINX.format(folder=self._folder, host=host, port=port, tls=tls, small=small))
        program = self._start([nginx, "-p", str(self._folder), "-c", str(configuration)], "nginx")
        wait_for_port(host, port, program)
        return Origin(program, host, port, tls_port)

    def _start(self, command: list[str], name: str) -> Program:
        program = Program([*self.site.far, *command], errors=self._folder / f"{name}.err")
        self._stack.callback(program.close)
        return program


def make_certificate(folder: Path, hosts: Iterable[str]) -> Certificate | None:
    openssl = find_program("openssl")
    if openssl is None:
        return None
    names = ",".join(f"IP:{host}" for host in hosts)
    key, path = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=127.0.0.1", "-addext", f"subjectAltName={names}"),
            *("-keyout", str(key), "-out", str(path)),
        ],
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text() + key.read_text())
    return Certificate(path)


def find_program(name: str) -> str | None:
    """Its path, also where Debian keeps what is meant for root."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin"]))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_for_port(host: str, port: int, program: Program) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and program.alive:
        try:
            socket.create_connection((host, port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)  # between two looks
    raise BenchmarkError(f"{program.errors.stem} does not listen: {program.last_words()}")
