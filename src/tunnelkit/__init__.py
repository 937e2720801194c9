"""tunnelkit joins HTTP callers to services behind firewalls: ``TunnelServer`` and ``TunnelClient``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = [
    "AsgiOrigin",
    "ClientCertificate",
    "ConfigError",
    "Granted",
    "HandlerOrigin",
    "HttpAnswer",
    "HttpExchange",
    "Inspector",
    "Limits",
    "Refusal",
    "Registration",
    "RegistrationRefused",
    "Request",
    "Response",
    "Rule",
    "TlsFiles",
    "TunnelClient",
    "TunnelServer",
    "TunnelkitError",
    "WsgiOrigin",
    "__version__",
    "check_token",
    "mask_token",
    "parse_caller_lines",
    "parse_password_lines",
    "parse_passwords",
]

# Of the package, by semantic versioning.
__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from .client import TunnelClient
    from .config import Limits
    from .core.callers import parse_caller_lines
    from .core.credentials import parse_password_lines, parse_passwords
    from .core.rules import Rule
    from .core.tokens import check_token, mask_token
    from .errors import ConfigError, RegistrationRefused, TunnelkitError
    from .inspector import Inspector
    from .middleware import HttpAnswer, HttpExchange
    from .net.contexts import ClientCertificate, TlsFiles
    from .origins.asgi import AsgiOrigin
    from .origins.handler import HandlerOrigin, Request, Response
    from .origins.wsgi import WsgiOrigin
    from .registration import Granted, Refusal, Registration
    from .server import TunnelServer

# Imported when they are asked for: whoever needs one end, or only the core, does not pay for the rest.
_HOMES = {
    "AsgiOrigin": "origins.asgi",
    "ClientCertificate": "net.contexts",
    "ConfigError": "errors",
    "Granted": "registration",
    "HandlerOrigin": "origins.handler",
    "HttpAnswer": "middleware",
    "HttpExchange": "middleware",
    "Inspector": "inspector",
    "Limits": "config",
    "Refusal": "registration",
    "Registration": "registration",
    "RegistrationRefused": "errors",
    "Request": "origins.handler",
    "Response": "origins.handler",
    "Rule": "core.rules",
    "TlsFiles": "net.contexts",
    "TunnelClient": "client",
    "TunnelServer": "server",
    "TunnelkitError": "errors",
    "WsgiOrigin": "origins.wsgi",
    "check_token": "core.tokens",
    "mask_token": "core.tokens",
    "parse_caller_lines": "core.callers",
    "parse_password_lines": "core.credentials",
    "parse_passwords": "core.credentials",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{home}", __name__), name)
