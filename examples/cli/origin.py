"""The origin that a tunnel serves, from --server, or from localtunnel's --port and --local-host."""

from __future__ import annotations

from urllib.parse import urlsplit

from .parsing import Settings, UsageError

__all__ = ["origin_of"]


def origin_of(settings: Settings) -> str | None:
    """Its URL; None where only X-Host names origins. Raises UsageError for settings that contradict each other."""
    server, port, host = settings["server"], settings["port"], settings["local_host"]
    if server is not None and port is not None:
        raise UsageError(f"{settings.name('port')}: contradicts {settings.name('server')}; leave one of them out")
    if port is not None:
        return f"http://{_in_url(host or 'localhost')}:{port}"
    if server is None and host is not None:
        raise UsageError(f"{settings.name('local_host')}: is of no use alone; add --port or --server")
    if server is not None and host is not None:
        return _with_host(settings, server, host)
    if server is None and not (settings["regexp"] or settings.tables.get("whitelist")):
        raise UsageError(
            f"{settings.name('server')}: is missing; give the URL of the HTTP server that answers, as in "
            "http://localhost:8000, or --regexp for what X-Host may name"
        )
    return None if server is None else str(server)


def _with_host(settings: Settings, server: str, host: str) -> str:
    parts = urlsplit(server)
    if parts.scheme == "unix":
        raise UsageError(f"{settings.name('local_host')}: a unix socket has no host; use --host-header")
    place = _in_url(host) + (f":{parts.port}" if parts.port is not None else "")
    return parts._replace(netloc=place).geturl()


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
