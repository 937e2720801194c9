from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from starlette.applications import Starlette

from tunnelkit import AsgiOrigin, ConfigError, HandlerOrigin, Request, Response, TunnelClient, WsgiOrigin
from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.origins.choose import app_origin


async def asgi(scope: Any, receive: Any, send: Any) -> None: ...


def asgi_by_hand(scope: Any, receive: Any, send: Any) -> Any: ...


def wsgi(environ: WSGIEnvironment, start_response: StartResponse, extra: str = "") -> Iterable[bytes]:
    return []


async def handler(request: Request) -> Response:
    return Response()


class Wsgi:
    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return []


class Handler:
    async def __call__(self, request: Request) -> Response:
        return Response()

    async def method(self, request: Request) -> Response:
        return Response()


async def with_extra(extra: str, request: Request) -> Response:
    return Response()


class Asgi2:
    def __init__(self, scope: Any) -> None: ...
    async def __call__(self, receive: Any, send: Any) -> None: ...


def anything(*args: Any) -> None: ...
def synchronous(request: Request) -> Response:
    return Response()


async def two(one: Any, other: Any) -> None: ...
def keyword(environ: Any, start_response: Any, *, needed: str) -> None: ...


@pytest.mark.parametrize(
    ("app", "kind"),
    [
        (Starlette(), AsgiOrigin),
        (asgi, AsgiOrigin),
        (asgi_by_hand, AsgiOrigin),
        (wsgi, WsgiOrigin),
        (Wsgi(), WsgiOrigin),
        (handler, HandlerOrigin),
        (Handler(), HandlerOrigin),
        (Handler().method, HandlerOrigin),
        (functools.partial(with_extra, "x"), HandlerOrigin),
    ],
)
def test_what_an_app_is_shows_in_how_it_is_called(app: object, kind: type) -> None:
    assert type(app_origin(app, host=None, limits=DEFAULT_LIMITS)) is kind


def test_an_origin_is_taken_as_it_is() -> None:
    origin = AsgiOrigin(asgi)
    assert app_origin(origin, host=None, limits=DEFAULT_LIMITS) is origin
    assert repr(origin) == "<AsgiOrigin running=0>"


@pytest.mark.parametrize(
    "app", [anything, synchronous, two, keyword, Asgi2, Starlette, dict, print, max, 7, object()]
)
def test_whatever_is_in_doubt_is_refused_with_the_fix(app: object) -> None:
    with pytest.raises(ConfigError, match="AsgiOrigin") as caught:
        app_origin(app, host=None, limits=DEFAULT_LIMITS)
    assert caught.value.field == "origin"


def test_a_client_refuses_it_at_once() -> None:
    with pytest.raises(ConfigError, match="it cannot be told"):
        TunnelClient("ws://a", token="a-token-for-the-tests", origin=anything)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make",
    [
        lambda: AsgiOrigin(asgi, lifespan="perhaps"),  # type: ignore[arg-type]
        lambda: AsgiOrigin(asgi, root_path="app"),
        lambda: AsgiOrigin(asgi, root_path="/app/"),
        lambda: WsgiOrigin(wsgi, root_path="app"),
    ],
)
def test_wrong_settings(make: Any) -> None:
    with pytest.raises(ConfigError):
        make()
