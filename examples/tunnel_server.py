"""The public end of tunnels: HTTP callers and tunnel clients connect to it, on one port.

    python examples/tunnel_server.py --listen 127.0.0.1:8080

This only reads flags and assembles; all behaviour is in the library.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import anyio

from cli import kinds, notify, tokens
from cli.console import say
from cli.files import read_secret
from cli.options import RULES, SERVER, TOKEN
from cli.parsing import Settings, UsageError
from cli.rules import rule_source
from cli.running import Stop, in_flags, log_start, run_program, timing
from tunnelkit import Limits, TlsFiles, TunnelServer
from tunnelkit.errors import ConfigError
from tunnelkit.legacy.wsp import WspTransport
from tunnelkit.transports import Transport

__all__ = ["main", "make_server"]

logger = logging.getLogger("tunnelkit.server")


# -- from settings to a server --------------------------------------------------------------------


def make_server(settings: Settings) -> TunnelServer:
    """All that the flags say, handed to the library."""
    return TunnelServer(
        listen=listen_addresses(settings),
        limits=limits(settings),
        tls=tls_files(settings),
        passwords=tokens.password_source(settings),
        secretkey=secretkey_source(settings),
        policy=settings["policy"],
        policies=tokens.policy_source(settings),
        callers=tokens.caller_source(settings),
        known_tokens=lambda: tokens.known_tokens(settings),
        known_tokens_only=settings["known_tokens_only"],
        base_path=settings["base_path"],
        base_domain=settings["base_domain"],
        public_url=settings["public_url"],
        names=lambda: tokens.names(settings),
        wsp_path=settings["wsp_path"],
        wsp_token=settings["wsp_token"],
        blacklist=rule_source(settings, "blacklist"),
        whitelist=rule_source(settings, "whitelist"),
        balance=settings["balance"],
        trusted_proxies=settings["trusted_proxy"],
        admin_listen=settings["admin_listen"],
        admin_password=admin_password_source(settings),
        transports=transports(settings),
        parser=settings["parser"],
    )


def transports(settings: Settings) -> list[str | Transport]:
    """How clients may come."""
    chosen: list[str | Transport] = ["websocket", "longpoll"]
    if not settings["no_wstunnel"]:
        chosen.append("wstunnel")
    if settings["wsp_register"]:
        if settings["wsp_token"] is None:
            raise UsageError("--wsp-register: needs --wsp-token, the tunnel that wsp's clients serve")
        path, token = settings["wsp_register"], settings["wsp_token"]
        chosen.append(WspTransport(wsp_token=token, path=path, limits=limits(settings)))
    return chosen


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
    if settings["queue_timeout"] is not None:
        values["queue_timeout"] = settings["queue_timeout"]
    names = ("max_requests_per_tunnel", "max_clients_per_token", "drain_timeout")
    return Limits(**values, **{name: settings[name] for name in names})


def tls_files(settings: Settings) -> TlsFiles | None:
    if settings["tls_cert"] is not None:
        return TlsFiles(cert=settings["tls_cert"], key=settings["tls_key"], client_ca=settings["client_ca"])
    for flag in ("tls-key", "client-ca"):
        if settings[flag.replace("-", "_")] is not None:
            raise UsageError(f"--{flag}: is of no use without --tls-cert; add it")
    return None


def secretkey_source(settings: Settings) -> str | Callable[[], str] | None:
    """What the library asks at start and at every reload."""
    path = settings["secretkey_file"]
    if path is None:
        return settings["secretkey"] or None
    if settings["secretkey"] is not None:
        raise UsageError("--secretkey-file: contradicts --secretkey; leave one of them out")
    return lambda: str(read_secret(path, "--secretkey-file", kinds.text))


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
    sys.exit(run_program("The public end of tunnels.", SERVER, {"token": TOKEN, **RULES}, main))
