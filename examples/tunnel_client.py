"""The end beside the service: dials out to the tunnel server, and hands the requests that come to an HTTP server.

    python examples/tunnel_client.py --tunnel ws://127.0.0.1:8080 --server http://127.0.0.1:8000 --token TOKEN

This only reads flags and assembles; all behaviour is in the library.
"""

from __future__ import annotations

import getpass
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from cli import kinds, notify
from cli.console import fail, say, warn
from cli.files import check_status_file, read_secret, write_status
from cli.live import TunnelView, is_wanted, showing
from cli.options import CLIENT, RULES, TUNNEL
from cli.origin import origin_of
from cli.parsing import Settings, UsageError
from cli.rules import rules
from cli.running import Stop, in_flags, log_start, run_program, timing
from cli.served import Requests
from tunnelkit import ClientCertificate, Limits, TunnelClient, mask_token
from tunnelkit.errors import ConfigError, DialError, RegistrationRefused, TunnelkitError
from tunnelkit.events import Connected, Lost, Resumed, Retrying
from tunnelkit.inspector import Inspector
from tunnelkit.inspector_page import serve_inspector
from tunnelkit.transports.base import Transport

__all__ = ["main", "make_client"]

STATUS_INTERVAL = 10.0
# Another client took the place: whoever started this one again would take it back, and so on for ever.
EXIT_SUPERSEDED = 3


# -- from settings to clients ---------------------------------------------------------------------


def make_client(
    settings: Settings, environment: Mapping[str, str] = os.environ, inspector: Inspector | None = None
) -> TunnelClient:
    """All that the flags say about one tunnel, handed to the library."""
    url = required(settings, "tunnel", "the tunnel server's URL, as in wss://tunnel.example.com")[0]
    token, password = credentials(settings, environment)
    if settings["statusfile"] is not None:
        check_status_file(settings["statusfile"])
    timers: dict[str, Any] = timing("timeout", settings["timeout"])
    limits = Limits(**timers, drain_timeout=settings["drain_timeout"], origin_wait=settings["origin_wait"])
    certificate = settings["client_cert"]
    return TunnelClient(
        url,
        token=token,
        password=password,
        origin=origin_of(settings),
        host=settings["host_header"],
        allow=settings["regexp"],
        blacklist=rules(settings, "blacklist"),
        whitelist=rules(settings, "whitelist"),
        name=settings["name"],
        refuse_private=settings["refuse_private"],
        transport=transport_of(settings, limits),
        allow_legacy=settings["allow_legacy"],
        proxy=settings["proxy"],
        cafile=settings["cafile"],
        insecure=settings["insecure"],
        local_ports=settings["client_ports"] or (),
        client_certificate=ClientCertificate(cert=certificate) if certificate else None,
        origin_cafile=settings["origin_cafile"] or settings["cafile"],
        origin_insecure=settings["origin_insecure"] or settings["insecure"],
        limits=limits,
        parser=settings["parser"],
        inspector=inspector,
    )


def required(settings: Settings, key: str, what: str) -> Any:
    if not settings[key]:
        raise UsageError(f"{settings.name(key)}: is missing; give {what}")
    return settings[key]


def transport_of(settings: Settings, limits: Limits) -> str | Transport:
    """A name is enough for all but one, which has flags of its own."""
    if settings["transport"] != "wsp":
        transport: str = settings["transport"]
        return transport
    from tunnelkit.legacy.wsp import PoolSize, WspTransport  # here: few need it, and all would wait for it

    size = PoolSize(poolidlesize=settings["poolidlesize"], poolmaxsize=settings["poolmaxsize"])
    return WspTransport(size=size, limits=limits)


def credentials(settings: Settings, environment: Mapping[str, str]) -> tuple[str, str | None]:
    """(token, password), from whichever of the places that can hold them."""
    wsp = settings["transport"] == "wsp"
    if settings["token"] is not None:
        token, password = settings["token"]
    elif settings["token_file"] is not None:
        token, password = read_secret(settings["token_file"], settings.name("token_file"), kinds.token)
    elif wsp:  # whose servers know none
        token, password = secrets.token_urlsafe(32), None
    else:
        name = settings.name("token")
        raise UsageError(f"{name}: is missing; give --token or --token-file, the secret that callers use too")
    theirs = None if wsp else environment.get("WSTUNNEL_PASSWORD")
    password = password or settings["password"] or theirs or settings["secretkey"]
    if settings.get("ask_password"):
        if not sys.stdin.isatty():
            raise UsageError("--ask-password: there is no terminal to ask on; set TUNNELKIT_PASSWORD instead")
        password = getpass.getpass(f"Password of {mask_token(token)} ")
    return token, password


def tunnels(settings: Settings) -> list[Settings]:
    """The settings of each tunnel: of the [[tunnel]] tables over everything else, or of one without any; for several
    servers, of one tunnel to each."""
    found: list[Settings] = []
    for one in [settings.over(table) for table in settings.tables.get("tunnel", [])] or [settings]:
        found += [one.with_value("tunnel", [url]) for url in one["tunnel"]] or [one]
    return found


@dataclass(frozen=True)
class Tunnel:
    """A client, what it was made of, and what is shown of its requests, if anything is."""

    client: TunnelClient
    settings: Settings
    requests: Requests | None


def make_tunnels(settings: Settings, *, live: bool = False, inspector: Inspector | None = None) -> list[Tunnel]:
    """A client for each tunnel. A mistake names the table that has it."""
    made = []
    for each in tunnels(settings):
        requests = Requests(lines=each["print_requests"]) if live or each["print_requests"] else None
        try:
            made.append(Tunnel(make_client(each, inspector=inspector), each, requests))
        except ConfigError as error:
            raise UsageError(in_flags(error, each)) from None
    return made


# -- running --------------------------------------------------------------------------------------


async def main(settings: Settings) -> int:
    live = is_wanted(settings["plain"])
    inspector = Inspector() if settings["inspect"] is not None else None
    made = make_tunnels(settings, live=live, inspector=inspector)
    log_start(settings)
    if settings["insecure"]:
        warn("--insecure: no certificate is verified; whoever is on the way can read and change everything")
    stop = Stop()
    failed: list[TunnelkitError] = []

    async def run(tunnel: Tunnel) -> None:
        try:
            await run_tunnel(tunnel, stop)
        except TunnelkitError as error:  # it ends this tunnel, and no other
            fail(f"{tunnel.client.masked_url}: {error}" if len(made) > 1 else str(error))
            failed.append(error)

    async with anyio.create_task_group() as tasks:
        await tasks.start(stop.watch)
        if inspector is not None and not await show_page(tasks, inspector, settings):
            tasks.cancel_scope.cancel()
            return 2
        views = [TunnelView(tunnel.client, tunnel.requests) for tunnel in made if tunnel.requests is not None]
        async with showing(views) if live else nullcontext(), anyio.create_task_group() as running:
            for tunnel in made:
                running.start_soon(run, tunnel)
            # Not when the tunnel is up: a server that is away is waited for, and is no failed start.
            notify.ready()
        tasks.cancel_scope.cancel()
    return exit_status(failed)


def exit_status(failed: Sequence[TunnelkitError]) -> int:
    """Of all tunnels together, by the errors of those that failed."""
    if not failed:
        return 0
    superseded = [isinstance(error, RegistrationRefused) and error.code == "superseded" for error in failed]
    return EXIT_SUPERSEDED if all(superseded) else 1


async def show_page(tasks: TaskGroup, inspector: Inspector, settings: Settings) -> bool:
    try:
        say(f"inspect {await tasks.start(serve_inspector, inspector, settings['inspect'])}")
    except ConfigError as error:
        fail(in_flags(error, settings))
        return False
    return True


async def run_tunnel(tunnel: Tunnel, stop: Stop) -> None:
    """One tunnel until it is told to stop. Raises RegistrationRefused when the server will not have it."""
    client, settings, requests = tunnel.client, tunnel.settings, tunnel.requests
    events = client.events(requests=requests is not None)
    async with client, anyio.create_task_group() as tasks:
        if requests is not None:
            tasks.start_soon(requests.follow, events)
        tasks.start_soon(announce, client, settings)
        if settings["check_origin"]:
            tasks.start_soon(check_origin, client)
        await stop.drain.wait()
        await stop.unless_cut(client.drain, settings["drain_timeout"])
        tasks.cancel_scope.cancel()
    if requests is not None:
        await requests.follow(events)  # what came last


async def announce(client: TunnelClient, settings: Settings) -> None:
    await client.wait_ready()
    say(f"ready {client.masked_url}")
    if settings["statusfile"] is not None:
        await keep_status(client, settings["statusfile"])


async def keep_status(client: TunnelClient, path: Path) -> None:
    """Write the time every now and then as long as there is a connection."""
    attached = True

    async def listen() -> None:
        nonlocal attached
        async for event in client.events():
            if isinstance(event, (Connected, Resumed)):
                attached = True
            elif isinstance(event, (Lost, Retrying)):
                attached = False

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listen)
        while True:
            if attached:
                try:
                    await anyio.to_thread.run_sync(write_status, path)
                except OSError as error:  # a full disk, say: no reason to end a tunnel
                    warn(f"--statusfile: cannot write {path}: {error.strerror}")
            await anyio.sleep(STATUS_INTERVAL)


async def check_origin(client: TunnelClient) -> None:
    try:
        await client.check_origin()
    except DialError as error:
        warn(f"--check-origin: the origin does not answer: {error}")


if __name__ == "__main__":
    sys.exit(run_program("The end of a tunnel beside the service.", CLIENT, {"tunnel": TUNNEL, **RULES}, main))
