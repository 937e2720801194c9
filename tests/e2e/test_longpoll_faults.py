"""What only long-poll can lose, an answer that was sent, and what it sends while nothing happens."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace

import anyio
import pytest

from tunnelkit import Limits
from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.testing.middlebox import serve_middlebox
from tunnelkit.testing.relay import Relay
from tunnelkit.transports.longpoll.polls import Polls
from tunnelkit.transports.longpoll.posts import Posts

from .lossy import Lossy, lossy
from .origin import BLOCK
from .transfers import Upload
from .tunnel import SHORT, exchange, gather, open_ends, until

pytestmark = pytest.mark.anyio

# A machine that pauses is not to end a session either.
PATIENT = replace(SHORT, grace=10.0)


@dataclass
class Repeats:
    """Requests that came once more after the server had answered them."""

    polls: int = 0
    posts: int = 0


@pytest.fixture
def repeats(monkeypatch: pytest.MonkeyPatch) -> Repeats:
    seen = Repeats()
    poll_arrives, post_arrives = Polls.arrive, Posts.arrive

    def poll(polls: Polls, *args: object, **options: object) -> object:
        arrived = poll_arrives(polls, *args, **options)  # type: ignore[arg-type]
        seen.polls += arrived is not None and bool(arrived.answer)  # it was kept
        return arrived

    def post(posts: Posts, number: int, *args: object) -> object:
        seen.posts += posts._is_taken(number)
        return post_arrives(posts, number, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Polls, "arrive", poll)
    monkeypatch.setattr(Posts, "arrive", post)
    return seen


def on_its_way(relay: Relay) -> bool:
    """Something that the server sent has come as far as the relay."""
    return any(flow.held for pair in relay.pairs for flow in pair.flows if flow.way == "down")


async def lose_what_is_sent(link: Lossy) -> None:
    """Hold the next answers back until one is sent, and lose them with their connections."""
    relay = link.relay
    relay.stall("down")
    await until(lambda: on_its_way(relay))
    relay.cut()
    relay.resume("down")


# -- round trips ---------------------------------------------------------------------------------


@pytest.mark.interpreted
@pytest.mark.ways("longpoll")
async def test_a_long_way_is_filled_by_few_large_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes a round trip, which is longer than ``message_time``."""
    messages: list[int] = []
    answer = Polls.answer

    def counted(polls: Polls, message: bytes) -> None:
        messages.append(len(message))
        answer(polls, message)

    monkeypatch.setattr(Polls, "answer", counted)
    async with lossy(replace(DEFAULT_LIMITS, message_time=0.02)) as link:
        link.relay.delay = 0.02
        with anyio.fail_after(20):
            await Upload(link.tunnel, 300_000).run()
    assert len(messages) < 35  # 73 of the smallest


# -- answers that are lost after they were sent --------------------------------------------------


@pytest.mark.interpreted
@pytest.mark.ways("longpoll")
async def test_answers_lost_after_they_were_sent_are_repeated(repeats: Repeats) -> None:
    """Whatever of polls and posts was answered: nothing is missing, and nothing happens twice."""
    async with lossy(PATIENT) as link:
        tunnel = link.tunnel
        for number in range(12):
            body = BLOCK[: 1 + number * 5000]

            async def ask(target: str = f"/echo/{number}", body: bytes = body) -> None:
                status, _, answer = await exchange(tunnel.port, "POST", tunnel.path(target), body=body)
                assert status == 200
                assert json.loads(answer)["body"].encode("latin-1") == body

            await gather(ask, lambda: lose_what_is_sent(link))
        assert tunnel.origin.targets() == [f"/echo/{number}" for number in range(12)]
        link.check_one_session(losses=0)
        assert repeats.polls + repeats.posts >= 12  # what is held back may be a post's answer
        assert repeats.polls > 0


@pytest.mark.interpreted
@pytest.mark.ways("longpoll")
async def test_answers_lost_in_the_middle_of_bodies_are_repeated(repeats: Repeats) -> None:
    sent = bytes(5_000_000)
    digest = hashlib.sha256(sent).hexdigest()
    async with lossy(PATIENT) as link:
        tunnel = link.tunnel

        async def upload() -> None:
            _, _, answer = await exchange(tunnel.port, "PUT", tunnel.path("/sink"), body=sent)
            assert json.loads(answer) == {"size": len(sent), "sha256": digest}

        async def download() -> None:
            _, _, body = await tunnel.get("/bytes/5000000")
            assert body == (BLOCK * (5_000_000 // len(BLOCK) + 1))[:5_000_000]

        async def lose() -> None:
            for _ in range(5):
                await link.carried(300_000)
                await lose_what_is_sent(link)

        with anyio.fail_after(30):
            await gather(upload, download, lose)
        link.check_one_session(losses=0)
        assert repeats.polls >= 1
        assert repeats.posts >= 1
        assert sorted(tunnel.origin.targets()) == ["/bytes/5000000", "/sink"]


# -- requests while nothing happens --------------------------------------------------------------

MINUTE = 60.0
# A minute in a second and a half.
FAST = 40
SCALED = replace(
    DEFAULT_LIMITS,
    poll_hold_idle=DEFAULT_LIMITS.poll_hold_idle / FAST,
    poll_hold_active=DEFAULT_LIMITS.poll_hold_active / FAST,
)


@pytest.mark.ways("longpoll")
async def test_an_idle_session_costs_three_requests_a_minute() -> None:
    await check_idle(SCALED, MINUTE / FAST)


@pytest.mark.full
@pytest.mark.timeout(150)
@pytest.mark.ways("streamed")
async def test_an_idle_streamed_session_costs_three_requests_a_minute() -> None:
    """Its clocks cannot be scaled: those of proxies set them."""
    await check_idle(DEFAULT_LIMITS, MINUTE)


async def check_idle(limits: Limits, minute: float) -> None:
    async with open_ends(limits=limits) as ends, serve_middlebox(ends.port) as box, ends.join(via=box.relay):
        assert (await ends.get("/status/200"))[0] == 200
        await anyio.sleep(minute / 6)  # what belongs to the exchange is over
        before = box.requests
        await anyio.sleep(minute)  # the time in which requests are counted
        assert 1 <= box.requests - before <= 3
        (session,) = ends.server.sessions()
        assert session.attached
