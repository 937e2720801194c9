"""What the ends tell an inspector: whether an answer was complete."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tunnelkit.client_inspection import InspectedOrigin
from tunnelkit.core.routing import ToName, ToTunnel
from tunnelkit.heads import RequestHead, ResponseHead
from tunnelkit.http.request import CallerRequest
from tunnelkit.inside.request import InsideRequest
from tunnelkit.inspector import Inspector
from tunnelkit.origins.base import Origin, OriginExchange
from tunnelkit.server_inspection import InspectedRequests

from ..origins.fakes import FakeExchange

pytestmark = pytest.mark.anyio

HEAD = RequestHead(b"GET", b"/", [(b"Host", b"a")])
OK = ResponseHead(200, [], b"OK")


class NoServer:
    def spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        raise AssertionError("nothing is replayed")

    async def to_tunnel(self, request: CallerRequest, where: ToTunnel | ToName) -> None:
        raise AssertionError("nothing is replayed")


@pytest.mark.parametrize(("leaves", "outcome"), [("before its end", "incomplete"), ("with all of it", "complete")])
async def test_a_caller_that_leaves_with_all_of_the_answer_has_it_complete(leaves: str, outcome: str) -> None:
    inspector = Inspector()
    request = InsideRequest(HEAD, scheme="http", has_body=False)

    async def handle(seen: CallerRequest, where: ToTunnel | ToName) -> None:
        seen.send_head(OK)
        if leaves == "before its end":
            request.leave()
        seen.send_end()
        request.leave()

    await InspectedRequests(handle, inspector, NoServer())(request, ToTunnel(("a-token-for-tests",), b"/"))
    assert [each.outcome for each in inspector.exchanges] == [outcome]


@pytest.mark.parametrize(("lost", "outcome"), [("before its end", "incomplete"), ("behind it", "complete")])
async def test_a_session_that_is_lost_behind_an_answer_changes_nothing(lost: str, outcome: str) -> None:
    inspector = Inspector()
    exchange = FakeExchange()

    class Answers(Origin):
        async def serve(self, seen: OriginExchange) -> None:
            seen.send_head(OK)
            if lost == "before its end":
                exchange.leave()
            seen.send_end()
            exchange.leave()

        async def aclose(self) -> None: ...

    async def replay(head: RequestHead, body: bytes, *, x_host: str) -> None:
        raise AssertionError("nothing is replayed")

    await InspectedOrigin(Answers(), inspector, replay, tunnel="").serve(exchange)
    assert [each.outcome for each in inspector.exchanges] == [outcome]
