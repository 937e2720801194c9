"""Which kind of app an object is: by how it is called, and nothing else."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final, TypeAlias, cast
from wsgiref.types import WSGIApplication

from ..config import Limits
from ..errors import ConfigError
from .asgi import AsgiOrigin
from .asgi_types import ASGIApp
from .base import Origin
from .handler import Handler, HandlerOrigin
from .wsgi import WsgiOrigin

__all__ = ["App", "app_origin"]

App: TypeAlias = ASGIApp | WSGIApplication | Handler

_FIX: Final = (
    "give a URL, an ASGI app (called with scope, receive and send), a WSGI app (environ and start_response), an"
    " asynchronous function of one request, or say which it is: AsgiOrigin(app), WsgiOrigin(app), HandlerOrigin(app)"
)


def app_origin(app: object, *, host: str | None, limits: Limits) -> Origin:
    """The origin for ``app``. Raises ConfigError for what could be several things, or nothing that is known.

    Three positional arguments make an ASGI app, two a WSGI app, and one of an asynchronous function a handler."""
    if isinstance(app, Origin):
        return app
    if not callable(app) or inspect.isclass(app):
        raise ConfigError("origin", f"{_shown(app)} is no app", _FIX)
    arguments, asynchronous = _arguments(app), _is_asynchronous(app)
    if arguments == 3:
        return AsgiOrigin(cast(ASGIApp, app), host=host, limits=limits)
    if arguments == 2 and not asynchronous:
        return WsgiOrigin(cast(WSGIApplication, app), host=host, limits=limits)
    if arguments == 1 and asynchronous:
        return HandlerOrigin(cast(Handler, app), host=host, limits=limits)
    raise ConfigError("origin", f"it cannot be told what kind of app {_shown(app)} is", _FIX)


def _arguments(app: Callable[..., Any]) -> int | None:
    """How many positional arguments it must be given; None where that is open."""
    try:
        parameters = inspect.signature(app).parameters.values()
    except (TypeError, ValueError):  # some that are written in C do not tell
        return None
    if any(each.kind is each.VAR_POSITIONAL for each in parameters):
        return None
    if any(each.kind is each.KEYWORD_ONLY and each.default is each.empty for each in parameters):
        return None
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(each.kind in positional and each.default is each.empty for each in parameters)


def _is_asynchronous(app: Any) -> bool:
    """Whether calling it makes a coroutine, as far as that can be seen (through ``functools.partial`` too)."""
    return inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(app.__call__)


def _shown(app: object) -> str:
    """Its name or its type's, never its repr: that may hold a secret."""
    return repr(getattr(app, "__qualname__", None) or type(app).__qualname__)
