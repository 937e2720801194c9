"""The client's events of requests, made of its exchanges."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import anyio

from .request_events import RequestFinished, RequestStarted

if TYPE_CHECKING:
    from .agent_exchange import AgentExchange

__all__ = ["finished", "started"]


def started(exchange: AgentExchange) -> RequestStarted:
    return RequestStarted(
        number=exchange.number,
        method=exchange.head.method.decode("latin-1"),
        target=exchange.head.target.decode("latin-1"),
        x_host=(exchange.wanted or b"").decode("latin-1"),
        caller=exchange.caller,
        at=time.time(),
    )


def finished(exchange: AgentExchange) -> RequestFinished:
    received, sent = exchange.counted
    outcome = exchange.outcome
    return RequestFinished(
        number=exchange.number,
        method=exchange.head.method.decode("latin-1"),
        target=exchange.head.target.decode("latin-1"),
        status=exchange.status,
        outcome="caller_gone" if outcome is None else str(outcome),
        received=received,
        sent=sent,
        at=time.time(),
        seconds=anyio.current_time() - exchange.began,
    )
