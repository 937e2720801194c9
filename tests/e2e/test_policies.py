"""Several clients of one token (design, section 8): pool, replace, reject, standby; two never fight."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import anyio
import pytest

from tunnelkit import ConfigError, Granted, Registration, RegistrationRefused, TunnelClient, TunnelServer
from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.events import ClientEvent, EventStream, Retrying, Superseded
from tunnelkit.testing.relay import serve_relay

from .tunnel import SHORT, TOKEN, Ends, open_ends, until

pytestmark = pytest.mark.anyio

PASSWORD = "a registration secret"
REPLACE: dict[str, Any] = {"policy": "replace", "passwords": {TOKEN: PASSWORD}}


# A client is told to try again when a silent one had the time to answer.
QUICK_TO_ASK = replace(DEFAULT_LIMITS, silent_client_ping=0.3)


async def seen(events: EventStream, kind: type[ClientEvent]) -> ClientEvent:
    with anyio.fail_after(10):
        async for event in events:
            if isinstance(event, kind):
                return event
    raise AssertionError("the client is over")


async def retried(client: TunnelClient) -> str:
    event = await seen(client.events(), Retrying)
    assert isinstance(event, Retrying)
    return event.reason


async def served_by(ends: Ends) -> str:
    """Which client's Host the origin is sent."""
    status, _, _ = await ends.get("/echo")
    assert status == 200
    return ends.origin.requests[-1].values("host")[0]


class Ended:
    """A client whose end is told, not raised."""

    def __init__(self) -> None:
        self.refusal: RegistrationRefused | None = None
        self.over = anyio.Event()

    async def run(self, client: TunnelClient) -> None:
        try:
            await client.run()
        except RegistrationRefused as error:
            self.refusal = error
        self.over.set()

    async def until_superseded(self) -> None:
        with anyio.fail_after(10):
            await self.over.wait()
        assert self.refusal is not None
        assert self.refusal.code == "superseded"


# -- pool --------------------------------------------------------------------------------------


async def test_pool_lets_every_client_in_and_shares_requests_by_load() -> None:
    async with open_ends(policy="pool") as ends, ends.join(), ends.join(), anyio.create_task_group() as group:
        for number in range(1, 5):
            ends.call(group, "/hold/x")
            await ends.origin.until(lambda count=number: len(ends.origin.requests) == count)
        assert [row.req_pending for row in ends.server.snapshot().rows] == [2, 2]
        ends.origin.release("x")


# -- reject ------------------------------------------------------------------------------------


async def test_reject_keeps_the_first_client_and_lets_the_next_in_when_it_leaves() -> None:
    async with open_ends(policy="reject", limits=QUICK_TO_ASK) as ends, AsyncExitStack() as stack:
        first = await stack.enter_async_context(ends.join(host="first"))
        second = await stack.enter_async_context(ends.join(host="second", ready=False))
        assert "too_many_clients" in await retried(second)
        assert await served_by(ends) == "first"
        first.close()
        await second.wait_ready(10)
        assert await served_by(ends) == "second"


async def test_reject_asks_a_silent_client_before_it_refuses() -> None:
    async with (
        open_ends(policy="reject", limits=QUICK_TO_ASK) as ends,
        serve_relay(ends.port) as relay,
        ends.join(via=relay),
    ):
        relay.stall()
        async with ends.join(host="second"):
            assert await served_by(ends) == "second"


async def test_reject_counts_no_detached_session() -> None:
    async with (
        open_ends(policy="reject", limits=SHORT) as ends,
        serve_relay(ends.port) as relay,
        ends.join(via=relay),
    ):
        relay.refusing = True
        relay.cut()
        await ends.detached()
        async with ends.join(host="second"):
            assert await served_by(ends) == "second"


# -- replace -----------------------------------------------------------------------------------


async def test_replace_gives_the_token_to_the_last_and_ends_the_one_before() -> None:
    async with open_ends(**REPLACE) as ends:
        first = TunnelClient(ends.server.url, token=TOKEN, password=PASSWORD, origin=ends.origin.url, host="first")
        events, ended = first.events(), Ended()
        async with anyio.create_task_group() as group:
            group.start_soon(ended.run, first)
            await first.wait_ready(10)
            async with ends.join(password=PASSWORD, host="second"):
                await ended.until_superseded()
                await seen(events, Superseded)
                assert await served_by(ends) == "second"
                assert len(ends.server.sessions()) == 1


async def test_what_was_not_sent_to_the_replaced_client_goes_to_the_new_one() -> None:
    async with open_ends(**REPLACE, limits=SHORT) as ends, serve_relay(ends.port) as relay:
        first = TunnelClient(f"ws://127.0.0.1:{relay.port}", token=TOKEN, password=PASSWORD, origin=ends.origin.url)
        async with anyio.create_task_group() as group:
            group.start_soon(Ended().run, first)
            await first.wait_ready(10)
            relay.refusing = True
            relay.cut()
            await ends.detached()
            call = ends.call(group, "/echo")
            await ends.pending(1)
            async with ends.join(password=PASSWORD, host="second"):
                assert await call.status() == 200
                assert ends.origin.requests[-1].values("host") == ["second"]
            first.close()


async def test_a_client_that_was_replaced_while_it_was_away_does_not_come_back() -> None:
    """Or the two would take the token from each other for ever."""
    async with open_ends(**REPLACE, limits=SHORT) as ends, serve_relay(ends.port) as relay:
        first = TunnelClient(
            f"ws://127.0.0.1:{relay.port}", token=TOKEN, password=PASSWORD, origin=ends.origin.url, limits=SHORT
        )
        ended = Ended()
        async with anyio.create_task_group() as group:
            group.start_soon(ended.run, first)
            await first.wait_ready(10)
            relay.refusing = True
            relay.cut()
            await ends.detached()
            async with ends.join(password=PASSWORD, host="second") as second:
                relay.refusing = False
                await ended.until_superseded()
                assert await served_by(ends) == "second"
                assert len(ends.server.sessions()) == 1
                assert second.transport is not None


async def test_replace_needs_the_registration_secret() -> None:
    """A token that has no password is treated as by reject: its callers know all that its client does."""
    async with open_ends(policy="replace", passwords={"some-token-with-a-password": "x"}) as ends, ends.join():
        async with ends.join(ready=False) as second:
            assert "too_many_clients" in await retried(second)
        assert len(ends.server.sessions()) == 1


async def test_a_secret_of_all_tokens_is_one_too() -> None:
    async with open_ends(policy="replace", secretkey=PASSWORD) as ends, anyio.create_task_group() as group:
        first, ended = TunnelClient(ends.server.url, token=TOKEN, password=PASSWORD, origin=ends.origin.url), Ended()
        group.start_soon(ended.run, first)
        await first.wait_ready(10)
        async with ends.join(password=PASSWORD, host="second"):
            await ended.until_superseded()
            assert await served_by(ends) == "second"


async def test_the_hook_may_grant_to_replace() -> None:
    async def authorise(registration: Registration) -> Granted:
        return Granted(policy="replace")

    async with open_ends(authorise=authorise) as ends, anyio.create_task_group() as group:
        first, ended = TunnelClient(ends.server.url, token=TOKEN, origin=ends.origin.url), Ended()
        group.start_soon(ended.run, first)
        await first.wait_ready(10)
        async with ends.join(host="second"):
            await ended.until_superseded()
            assert await served_by(ends) == "second"


# -- standby -----------------------------------------------------------------------------------


async def test_standby_serves_by_one_and_by_the_next_when_that_is_gone() -> None:
    async with open_ends(policy="standby") as ends, AsyncExitStack() as stack:
        first = await stack.enter_async_context(ends.join(host="first"))
        await stack.enter_async_context(ends.join(host="second"))
        assert [await served_by(ends) for _ in range(4)] == ["first"] * 4
        first.close()
        await until(lambda: len(ends.server.sessions()) == 1)
        assert await served_by(ends) == "second"


# -- configuration -----------------------------------------------------------------------------


async def test_single_tokens_have_their_own_policy() -> None:
    async with (
        open_ends(policies={TOKEN: "reject"}) as ends,
        ends.join(),
        ends.join(token="another-token-for-the-tests"),
        ends.join(token="another-token-for-the-tests"),
        ends.join(ready=False) as refused,
    ):
        assert "too_many_clients" in await retried(refused)


async def test_policies_are_read_again_at_a_reload() -> None:
    policies = {TOKEN: "reject"}
    async with (
        open_ends(policies=lambda: policies, limits=QUICK_TO_ASK) as ends,
        ends.join(),
        ends.join(ready=False) as second,
    ):
        assert "too_many_clients" in await retried(second)
        policies[TOKEN] = "nothing"
        with pytest.raises(ConfigError, match=r"^policies: 'nothing' is unknown"):
            await ends.server.reload()
        policies[TOKEN] = "pool"
        await ends.server.reload()
        await second.wait_ready(10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "first"}, "policy: 'first' is unknown; give one of pool, replace, reject, standby"),
        ({"policy": "replace"}, "policy: 'replace' needs a registration secret"),
        ({"policies": {TOKEN: "replace"}}, "policies: of token 1: 'replace' needs a registration secret"),
        ({"policies": {"short": "pool"}}, "policies: token 1 "),
    ],
)
def test_a_bad_policy_is_named_with_its_fix(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TunnelServer("127.0.0.1:0", **options)
    assert str(caught.value).startswith(message)
    assert "; " in str(caught.value)
