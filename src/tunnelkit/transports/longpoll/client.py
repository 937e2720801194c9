"""The client half of the long-poll transport: the opening."""

from __future__ import annotations

import anyio

from ...config import Limits
from ...errors import DialError, HeadError, RemoteProtocolError, StreamBroken
from ...handshake import Grant
from ...heads import field_values
from ...net.tls import TlsFailure
from ...net.tls_errors import tls_dial_error
from ..answers import judge_answer
from ..base import Connection, DialRequest
from .client_answers import Reply
from .client_call import FAILURES, Call
from .client_connection import ClientConnection
from .client_requests import Requests
from .client_state import Lessons
from .wire import parse_opened

__all__ = ["Lessons", "dial_longpoll"]


async def dial_longpoll(
    request: DialRequest, *, mode: str, limits: Limits, lessons: Lessons
) -> tuple[Connection, Grant]:
    """Open a connection. ``mode`` is "strict", "streamed" (from the first answer on) or "auto" (once a probe showed
    that it works); ``lessons`` is what earlier connections of the same transport learnt, and this one adds to.

    Raises ``RegistrationRefused``, ``AnsweredByOther``, ``DialError``, ``ConfigError``. Cancelling closes what was
    opened.
    """
    requests = Requests(request, limits)
    call: Call | None = None
    try:
        with anyio.fail_after(request.timeout):
            call = await requests.dial()
            reply = await _ask(call, requests)
        grant = _granted(reply, requests, request)
    except TimeoutError as exc:
        _abort(call)
        stage = "connect" if call is None else "handshake"
        raise DialError(stage, f"no answer from {request.url} within {request.timeout:g} s") from exc
    except BaseException:
        _abort(call)
        raise
    connection = ClientConnection(
        requests,
        call,
        limits=limits,
        lessons=lessons,
        tasks=request.tasks,
        streams=mode == "streamed",
        probes=mode == "auto",
    )
    return connection, grant


def _abort(call: Call | None) -> None:
    if call is not None:
        call.abort()


async def _ask(call: Call, requests: Requests) -> Reply:
    call.begin(requests.open())
    try:
        while not isinstance(reply := call.step(), Reply):
            await call.wait()
    except TlsFailure as exc:
        raise tls_dial_error(exc, requests.target.host) from exc
    except FAILURES as exc:
        raise DialError("handshake", _describe(exc), hint=_hint(requests)) from exc
    return reply


def _describe(exc: StreamBroken | HeadError | RemoteProtocolError) -> str:
    return f"the connection failed: {exc}" if isinstance(exc, StreamBroken) else f"the answer cannot be read: {exc}"


def _hint(requests: Requests) -> str:
    return "" if requests.target.tls else "if that port speaks TLS, use wss://"


def _granted(reply: Reply, requests: Requests, request: DialRequest) -> Grant:
    if reply.status != 200 or not field_values(reply.fields, b"tunnelkit-longpoll"):
        raise judge_answer(reply.status, reply.fields, reply.body, tls=requests.target.tls)
    try:
        grant, connection_id = parse_opened(reply.fields)
    except RemoteProtocolError as exc:
        raise DialError("handshake", f"the server's grant cannot be read: {exc}") from exc
    requests.bind(connection_id, request.prover(grant))
    return grant
