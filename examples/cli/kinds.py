"""What the values of flags may be: each function takes the text and gives the value, or raises ValueError.

The library checks what it is given once more; these say it in the words of the command line.
"""

from __future__ import annotations

import ipaddress
import logging.handlers
import math
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from tunnelkit import check_token, parse_caller_lines, parse_password_lines, parse_passwords
from tunnelkit.errors import ConfigError

__all__ = [
    *(
        "address",
        "base_path",
        "boolean",
        "caller",
        "caller_lines",
        "facility",
        "header_pattern",
        "host_name",
        "network",
        "one_of",
        "origin_url",
        "password_lines",
        "passwords",
        "path",
        "patience",
        "port",
    ),
    *("ports", "proxy_url", "seconds", "text", "token", "tunnel_url", "whole"),
]

SCHEMES = {"ws": "http", "wss": "https", "http": "http", "https": "https"}


def text(value: str) -> str:
    if not value:
        raise ValueError("must not be empty")
    return value


def path(value: str) -> Path:
    return Path(text(value)).expanduser()


def boolean(value: str) -> bool:
    values = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if value.lower() not in values:
        raise ValueError("must be true or false")
    return values[value.lower()]


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    wanted = f"must be a whole number from {least} to {most}" if most else f"must be a whole number, at least {least}"

    def convert(value: str) -> int:
        if not (value.isascii() and value.isdigit()) or int(value) < least or (most and int(value) > most):
            raise ValueError(wanted)
        return int(value)

    return convert


port = whole(0, 65535)


def seconds(value: str) -> float:
    """``1200``, ``2.5``, also with the unit (``30s``)."""
    try:
        number = float(value.removesuffix("s"))
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError("must be a number of seconds greater than 0")
    return number


def patience(value: str) -> float:
    """As ``seconds``, or 0."""
    return 0.0 if value in ("0", "0s") else seconds(value)


def host_name(value: str) -> str:
    """A host without a port; an IPv6 address may stand in brackets."""
    bare = value.removeprefix("[").removesuffix("]")
    if not bare or not bare.isprintable() or set("/@?#\\ ") & set(bare) or (":" in bare and bare.count(":") == 1):
        raise ValueError("must be a host name or an IP address, without a port")
    return bare


def one_of(*names: str) -> Callable[[str], str]:
    def convert(value: str) -> str:
        if value.lower() not in names:
            raise ValueError(f"must be {', '.join(names[:-1])} or {names[-1]}")
        return value.lower()

    return convert


def facility(value: str) -> str:
    names = logging.handlers.SysLogHandler.facility_names
    if value.lower() not in names:
        raise ValueError("must be a syslog facility such as daemon or local0")
    return value.lower()


def address(value: str) -> str:
    """``HOST:PORT``; an IPv6 address stands in brackets."""
    host, colon, number = value.rpartition(":")
    if not colon or not host:
        raise ValueError("must be HOST:PORT, as in 127.0.0.1:8080 or [::1]:8080")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError("an IPv6 address stands in brackets, as in [::1]:8080")
    port(number)
    return value


def network(value: str) -> str:
    try:
        ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError("must be an IP address or network, as in 10.0.0.0/8") from None
    return value


def base_path(value: str) -> str:
    """ "" or "/prefix", without a slash at its end."""
    stripped = value.strip("/")
    if (
        len(stripped) > 255
        or not stripped.isprintable()
        or set("?#% ") & set(stripped)
        or ".." in stripped.split("/")
    ):
        raise ValueError("must be a plain path such as /tunnels, without '..', '?', '#' and '%'")
    return f"/{stripped}" if stripped else ""


def token(value: str) -> tuple[str, str | None]:
    """``TOKEN[:PASSWORD]``, split at the first colon."""
    name, colon, password = value.partition(":")
    _check_token(name)
    if colon and not password:
        raise ValueError("the password after ':' is empty; leave the ':' out if there is none")
    return name, password or None


def passwords(value: str) -> dict[str, str]:
    """``TOKEN:PASSWORD,...``"""
    return _passwords(parse_passwords, value)


def password_lines(value: str) -> dict[str, str]:
    """``TOKEN:PASSWORD``, one a line; empty lines and those that begin with ``#`` are skipped."""
    return _passwords(parse_password_lines, value)


def _passwords(parse: Callable[[str], dict[str, str]], value: str) -> dict[str, str]:
    try:
        return parse(value)
    except ConfigError as error:
        raise ValueError(f"{error.problem}; {error.fix}" if error.fix else error.problem) from None


def caller(value: str) -> tuple[str, str]:
    """``USER:PASSWORD``, split at the first colon."""
    user, colon, password = value.partition(":")
    if not (user and colon and password):
        raise ValueError("must be USER:PASSWORD; the password may be a hash (scrypt$...)")
    return user, password


def caller_lines(value: str) -> dict[str, dict[str, str]]:
    """``TOKEN:USER:PASSWORD`` or ``name:NAME:USER:PASSWORD``, one a line."""
    try:
        return parse_caller_lines(value)
    except ConfigError as error:
        raise ValueError(f"{error.problem}; {error.fix}" if error.fix else error.problem) from None


def _check_token(name: str) -> None:
    try:
        check_token(name)
    except ConfigError as error:
        raise ValueError(f"the token {error.problem}; {error.fix}") from None


def header_pattern(value: str) -> tuple[str, str]:
    """``NAME: PATTERN``"""
    name, colon, pattern = value.partition(":")
    if not colon or not name.strip():
        raise ValueError("must be NAME: PATTERN, as in 'X-Team: blue|green'")
    return name.strip(), pattern.strip()


def tunnel_url(value: str) -> str:
    scheme, parts_host = _url(value, "must be ws://host[:port] or wss://host[:port]")
    if scheme not in SCHEMES:
        raise ValueError("must begin with ws:// or wss:// (http:// and https:// mean the same)")
    if not parts_host or urlsplit(value).query or urlsplit(value).fragment:
        raise ValueError("must be ws[s]://[user:password@]host[:port][/base], without '?' and '#'")
    return value


def origin_url(value: str) -> str:
    scheme, host = _url(value, "must be http://host[:port] or https://host[:port]")
    if scheme in ("ws", "wss"):
        raise ValueError(
            "is the origin's URL and begins with http:// or https://; the tunnel server's ws:// URL belongs to "
            "--tunnel: are the two swapped?"
        )
    if scheme == "unix":
        return value
    if scheme not in ("http", "https") or not host:
        raise ValueError("must begin with http:// or https://, as in http://localhost:8000")
    return value


def proxy_url(value: str) -> str:
    schemes = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")
    scheme, host = _url(value, "must be a URL such as http://user:password@proxy:3128")
    if scheme not in schemes or not host:
        raise ValueError(f"must be a URL with one of the schemes {', '.join(schemes)}")
    return value


def _url(value: str, wanted: str) -> tuple[str, str | None]:
    """(scheme, host) of a URL whose port, if it has one, is a port."""
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        raise ValueError(wanted) from None
    return parts.scheme.lower(), parts.hostname


def ports(value: str) -> list[int]:
    """``8000..8100,8500``: ranges hold both ends."""
    found: list[int] = []
    number = whole(1, 65535)
    for part in value.split(","):
        first, dots, last = part.strip().partition("..")
        low, high = number(first), number(last if dots else first)
        if low > high:
            raise ValueError(f"the range {part.strip()} runs backwards")
        found.extend(range(low, high + 1))
    return list(dict.fromkeys(found))
