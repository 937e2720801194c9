"""The public end of tunnels: HTTP callers and tunnel clients connect to it, on one port.

    python examples/tunnel_server.py --listen 127.0.0.1:8080

This only reads flags and assembles; all behaviour is in the library.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any

import anyio

from cli import kinds, notify
from cli.console import say
from cli.files import read_secret
from cli.options import SERVER, TOKEN
from cli.parsing import Settings, UsageError, read_tables
from cli.running import Stop, in_flags, log_start, run_program, timing
from tunnelkit import Limits, TlsFiles, TunnelServer
from tunnelkit.errors import ConfigError

__all__ = ["main", "make_server"]

logger = logging.getLogger("tunnelkit.server")


# -- from settings to a server --------------------------------------------------------------------


def make_server(settings: Settings) -> TunnelServer:
    """All that the flags say, handed to the library."""
    return TunnelServer(
        listen=listen_addresses(settings),
        limits=limits(settings),
        tls=tls_files(settings),
        passwords=password_source(settings),
        known_tokens=lambda: known_tokens(settings),
        known_tokens_only=settings["known_tokens_only"],
        base_path=settings["base_path"],
        base_domain=settings["base_domain"],
        public_url=settings["public_url"],
        names=names(settings),
        trusted_proxies=settings["trusted_proxy"],
        admin_listen=settings["admin_listen"],
        admin_password=admin_password_source(settings),
        parser=settings["parser"],
    )


def listen_addresses(settings: Settings) -> list[str]:
    if not settings.given & {"host", "port"}:
        return settings["listen"] or ["127.0.0.1:8080"]
    if settings["listen"]:
        raise UsageError("--listen: contradicts --host and --port; leave it or them out")
    host = settings["host"] or "0.0.0.0"
    port = 80 if settings["port"] is None else settings["port"]
    return [f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"]


def limits(settings: Settings) -> Limits:
    values: dict[str, Any] = timing("wstimeout", settings["wstimeout"])
    if settings["httptimeout"] is not None:
        values |= {"queue_timeout": settings["httptimeout"], "response_head_timeout": settings["httptimeout"]}
    names = ("max_requests_per_tunnel", "max_clients_per_token", "drain_timeout")
    return Limits(**values, **{name: settings[name] for name in names})


def tls_files(settings: Settings) -> TlsFiles | None:
    if settings["tls_cert"] is not None:
        return TlsFiles(cert=settings["tls_cert"], key=settings["tls_key"], client_ca=settings["client_ca"])
    for flag in ("tls-key", "client-ca"):
        if settings[flag.replace("-", "_")] is not None:
            raise UsageError(f"--{flag}: is of no use without --tls-cert; add it")
    return None


def token_tables(settings: Settings) -> list[Settings]:
    """The [[token]] tables as the file holds them now."""
    return read_tables(settings["config"], "token", TOKEN) if settings["config"] is not None else []


def passwords(settings: Settings) -> dict[str, str]:
    """Every token's password, from all the places that can hold them, as they are now."""
    found: dict[str, str] = dict(settings["passwords"] or {})
    if settings["passwords_file"] is not None:
        found |= read_secret(settings["passwords_file"], "--passwords-file", kinds.password_lines)
    for table in token_tables(settings):
        token, password = table["token"]
        if password or table.get("password"):
            found[token] = password or table["password"]
    return found


def password_source(settings: Settings) -> Callable[[], Mapping[str, str]] | None:
    """What the library calls at start and at every reload."""
    if not (settings["passwords"] or settings["passwords_file"] or settings["config"]):
        return None

    return lambda: passwords(settings)


def known_tokens(settings: Settings) -> list[str]:
    """The tokens of the tables, with a password or without: read at start and at every reload."""
    tokens = [table["token"][0] for table in token_tables(settings)]
    if settings["known_tokens_only"] and not tokens and not passwords(settings):
        raise UsageError("--known-tokens-only: no token is listed; add --passwords-file, or [[token]] to --config")
    return tokens


def names(settings: Settings) -> dict[str, str]:
    """Those of the [[token]] tables with their tokens."""
    found: dict[str, str] = {}
    for table in token_tables(settings):
        name = table.get("name")
        if name in found:
            raise UsageError(f"{table.place}: name: another token has this name; choose another")
        if name is not None:
            found[name] = table["token"][0]
    return found


def admin_password_source(settings: Settings) -> Callable[[], str] | None:
    """What the library calls at start and at every reload."""
    path = settings["admin_password_file"]
    return None if path is None else lambda: str(read_secret(path, "--admin-password-file", kinds.text))


# -- running --------------------------------------------------------------------------------------


async def main(settings: Settings) -> int:
    stop = Stop()
    async with make_server(settings) as server, anyio.create_task_group() as tasks:
        await tasks.start(stop.watch, lambda: reload(server, settings))
        log_start(settings)
        for url in server.urls:
            say(f"listening on {url}")
        for url in server.admin_urls:
            say(f"admin listening on {url}")
        notify.ready(status(server))
        await stop.drain.wait()
        await stop.unless_cut(server.drain, settings["drain_timeout"])
        tasks.cancel_scope.cancel()
    return 0


async def reload(server: TunnelServer, settings: Settings) -> None:
    notify.reloading()
    try:
        await server.reload()
    except (ConfigError, UsageError) as error:
        told = in_flags(error, settings) if isinstance(error, ConfigError) else error
        logger.error("reload failed, everything stays as it was: %s", told)
        notify.ready("reload failed, everything stays as it was: the log says why")
    else:
        notify.ready(status(server))


def status(server: TunnelServer) -> str:
    return f"listening on {', '.join(server.urls)}"


if __name__ == "__main__":
    sys.exit(run_program("The public end of tunnels.", SERVER, {"token": TOKEN}, main))
