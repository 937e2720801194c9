"""The ways that requests can go: directly to the origin, through a tunnel of some variant, through another tunnel."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from .origin import Origin, Origins
from .programs import BenchmarkError, Program
from .variants import SPEED, Variant

__all__ = ["DIRECT", "DIRECT_TLS", "TOKEN", "Address", "Direct", "Spec", "Tunnel", "Way", "launch"]

TOKEN = "a-token-for-the-benchmarks"


@dataclass(frozen=True)
class Address:
    """Where callers send requests, and what these carry. ``{path}`` stands for the path at the origin."""

    port: int
    tls: bool = False
    path: str = "{path}"
    fields: tuple[tuple[str, str], ...] = ()
    host: str = "127.0.0.1"

    def target(self, path: str) -> str:
        return self.path.replace("{path}", path)

    def headers(self, path: str) -> list[tuple[str, str]]:
        return [(name, value.replace("{path}", path)) for name, value in self.fields]

    @property
    def base_url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"

    def url(self, path: str) -> str:
        return self.base_url + self.target(path)


@dataclass
class Way:
    """An open way. ``ends`` are the programs whose costs are measured."""

    address: Address
    ends: Mapping[str, Program] = field(default_factory=dict)


class Spec(Protocol):
    """A way that can be opened, as often as a row needs it fresh."""

    @property
    def name(self) -> str: ...

    @property
    def beside(self) -> str:
        """The name of the way that it is compared to."""
        ...

    def open(self, stack: ExitStack, origins: Origins, origin: Origin, folder: Path) -> Way:
        """Start what is needed; ``stack`` ends it. Raises BenchmarkError."""
        ...


@dataclass(frozen=True)
class Direct:
    """No tunnel at all."""

    tls: bool = False

    @property
    def name(self) -> str:
        return "direct-tls" if self.tls else "direct"

    beside = name

    def open(self, stack: ExitStack, origins: Origins, origin: Origin, folder: Path) -> Way:
        if self.tls and not origin.tls_port:
            raise BenchmarkError("openssl, which makes the certificate, is not installed")
        return Way(Address(origin.tls_port if self.tls else origin.port, tls=self.tls, host=origin.host))


DIRECT, DIRECT_TLS = Direct(), Direct(tls=True)


@dataclass(frozen=True)
class Tunnel:
    """The examples with all their defaults, their log at INFO into a file. With ``relayed``, the client dials a relay
    that ``tunnelkit.testing`` runs."""

    variant: Variant
    relayed: bool = False

    @property
    def name(self) -> str:
        return self.variant.name

    @property
    def beside(self) -> str:
        return (DIRECT_TLS if self.variant.tls else DIRECT).name

    def open(self, stack: ExitStack, origins: Origins, origin: Origin, folder: Path) -> Way:
        _check_installed(self.variant)
        start = partial(_start, stack, folder)
        server = start("server", launch(self.variant, "examples/tunnel_server.py", *self._server_flags(origins)))
        ends = {"server": server}
        port = int(server.said("listening on ").rpartition(":")[2])
        dialled = port
        if self.relayed:
            ends["relay"] = start("relay", [sys.executable, "-m", "tunnelkit.testing", "0", str(port)])
            dialled = int(ends["relay"].said("relaying on "))
        flags = self._client_flags(origins, dialled, origin)
        client = launch(self.variant, "examples/tunnel_client.py", *flags)
        ends["client"] = start("client", [*origins.site.far, *client])
        ends["client"].said("ready ")
        host = origins.site.near_host
        return Way(Address(port, tls=self.variant.tls, fields=(("X-Token", TOKEN),), host=host), ends)

    def _server_flags(self, origins: Origins) -> list[str]:
        return [
            "--listen",
            f"{origins.site.near_host}:0",
            *(["--tls-cert", self._certificate(origins)] if self.variant.tls else []),
        ]

    def _client_flags(self, origins: Origins, port: int, origin: Origin) -> list[str]:
        scheme = "wss" if self.variant.tls else "ws"
        transport = "websocket" if self.variant.carrier == "websocket" else "longpoll"
        flags = ["--tunnel", f"{scheme}://{origins.site.near_host}:{port}", "--server", origin.url, "--token", TOKEN]
        trust = ["--cafile", self._certificate(origins)] if self.variant.tls else []
        return [*flags, "--transport", transport, *trust]

    def _certificate(self, origins: Origins) -> str:
        if origins.certificate is None:
            raise BenchmarkError("openssl, which makes the certificate, is not installed")
        return str(origins.certificate.path)


def _check_installed(variant: Variant) -> None:
    """A figure of what is not installed would be another variant's."""
    missing = [module for module in SPEED if module not in variant.hidden and find_spec(module) is None]
    if missing:
        raise BenchmarkError(f"of the extra `speed` {', '.join(missing)} is not installed; -bare does without")


def launch(variant: Variant, program: str, *flags: str) -> list[str]:
    """The command that runs an example as the variant says."""
    hidden = [part for module in variant.hidden for part in ("--without", module)]
    mode = [] if variant.carrier == "websocket" else ["--longpoll", variant.carrier]
    backend = "trio" if variant.backend == "trio" else "asyncio"
    return [sys.executable, "benchmarks/launch.py", *hidden, *mode, program, *flags, "--backend", backend]


def _start(stack: ExitStack, folder: Path, name: str, command: list[str]) -> Program:
    number = len(list(folder.glob(f"{name}*.err")))
    if name != "relay":
        command = [*command, "--logfile", str(folder / f"{name}{number}.log")]
    program = Program(command, errors=folder / f"{name}{number}.err")
    stack.callback(program.close)
    return program
