"""The link is cut, mutilated and silenced, and no caller notices: the session outlives its connections.

A cut costs a websocket its connection, and a streamed answer too; strict long-poll repeats what was out, and the
session above hears nothing of it (``Lossy.losses``).
"""

from __future__ import annotations

import json
import random
from dataclasses import replace

import anyio
import pytest

from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.events import Connected, Lost, Resumed, Retrying
from tunnelkit.testing.relay import End, serve_relay

from .lossy import lossy
from .origin import EARLY
from .transfers import Download, Transfer, Upload, is_inside_a_body
from .tunnel import SHORT, gather, open_ends, read_head, receive_more, until
from .ways import Way

pytestmark = pytest.mark.anyio

EVERY_WAY = pytest.mark.ways("websocket", "longpoll", "streamed")
# Of connections that are cut one by one, only that of a streamed answer costs the whole; and while that is idle,
# its clocks are those of proxies, too long for these tests.
NOT_STREAMED = pytest.mark.ways("websocket", "longpoll")

MB = 1_000_000

# Where the link is dialled again and again without need to wait in between.
EAGER = replace(SHORT, retry_first=0.001, retry_cap_resumable=0.02, retry_cap=0.02, grace=30.0)


# -- bodies ------------------------------------------------------------------------------------


@NOT_STREAMED
async def test_bodies_survive_cuts_at_any_byte(way: Way) -> None:
    chance = random.Random(20)
    connections = 4 if way.outlives_cuts else 1  # among which the bytes are divided, about
    inside: list[bool] = []
    async with lossy() as link:
        transfers: list[Transfer] = [kind(link.tunnel, 5 * MB) for kind in (Download, Upload) * 2]

        async def cut_again_and_again() -> None:
            for number in range(1, 6):
                count = chance.randrange(200_000, 3 * MB) // connections
                await link.cut_after(count, chance.choice([End.FIN, End.RST]))
                inside.append(is_inside_a_body(transfers))
                await link.recovered(number)

        with anyio.fail_after(30):
            await gather(cut_again_and_again, *[transfer.run for transfer in transfers])
        assert inside == [True] * 5
        link.check_one_session(losses=link.losses(5))
        targets = link.tunnel.origin.targets()
        assert sorted(targets) == [f"/bytes/{5 * MB}"] * 2 + ["/sink"] * 2  # none was made twice


@EVERY_WAY
async def test_an_event_stream_survives_cuts() -> None:
    async with lossy() as link, link.tunnel.caller() as stream:
        await stream.send(f"GET {link.tunnel.path('/sse')} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        status, _, data = await read_head(stream)
        assert status == 200
        for number in range(5):
            link.tunnel.origin.release(f"event{number}")
            with anyio.fail_after(20):
                while f"data: {number}\n\n".encode() not in data:
                    data += await receive_more(stream)
            link.relay.cut(*[End.FIN, End.RST][number % 2 :][:1] * 2)
            await link.recovered(number + 1)
        while not data.endswith(b"0\r\n\r\n"):
            data += await receive_more(stream)
        assert data == b"".join(b"9\r\ndata: %d\n\n\r\n" % number for number in range(5)) + b"0\r\n\r\n"
        link.check_one_session(losses=link.losses(5))


@EVERY_WAY
async def test_an_upgraded_connection_survives_cuts() -> None:
    sent = random.Random(4).randbytes(3 * MB)
    async with lossy() as link, link.tunnel.caller() as stream:
        head = (
            f"GET {link.tunnel.path('/upgrade')} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
        )
        await stream.send(head.encode())
        status, _, data = await read_head(stream)
        assert status == 101
        received = bytearray(data)

        async def send() -> None:
            await stream.send(sent)
            await stream.send_eof()

        async def receive() -> None:
            while piece := await stream.receive():
                received.extend(piece)

        async def cut() -> None:
            for number in range(1, 5):
                await link.carried(500_003)
                link.relay.cut(End.RST, End.FIN)
                await link.recovered(number)

        with anyio.fail_after(30):
            await gather(send, receive, cut)
        assert bytes(received) == EARLY + sent + b"bye"
        link.check_one_session(losses=link.losses(4))


# -- one end notices before the other ----------------------------------------------------------


@EVERY_WAY
@pytest.mark.parametrize("kind", [Download, Upload])
@pytest.mark.parametrize(
    ("near", "far"),
    [(End.RST, End.UNTOLD), (End.FIN, End.UNTOLD), (End.UNTOLD, End.RST), (End.UNTOLD, End.FIN)],
    ids=lambda end: end.name,
)
async def test_only_one_end_is_told_of_the_cut(near: End, far: End, kind: type[Transfer]) -> None:
    async with lossy() as link:
        transfer = kind(link.tunnel, 2 * MB)

        async def cut() -> None:
            await link.relay.until(lambda: link.relay.carried > 500_000)
            link.relay.cut(near, far)

        with anyio.fail_after(20):
            await gather(cut, transfer.run)
        link.check_one_session(losses=link.losses(1))


@EVERY_WAY
@pytest.mark.parametrize("near", [True, False], ids=["near", "far"])
async def test_a_fin_on_one_side_while_the_other_goes_on(near: bool) -> None:
    async with lossy() as link:
        transfers = [Download(link.tunnel, 2 * MB), Upload(link.tunnel, 2 * MB)]

        async def half_close() -> None:
            await link.relay.until(lambda: link.relay.carried > 500_000)
            link.relay.half_close(near=near)

        with anyio.fail_after(20):
            await gather(half_close, *[transfer.run for transfer in transfers])
        link.check_one_session(losses=link.losses(1))


# What a client says of a connection that fell silent.
SILENCE = {Way.WEBSOCKET: "no byte for", Way.STREAMED: "a streamed answer broke off: nothing came back in time"}


@EVERY_WAY
@pytest.mark.parametrize("kind", [Download, Upload])
async def test_a_silent_link_is_noticed_and_replaced(kind: type[Transfer], way: Way) -> None:
    """By the clocks of the limits, which are far shorter here than this test may take."""
    async with lossy() as link:
        transfer = kind(link.tunnel, 2 * MB)

        async def fall_silent() -> None:
            await link.relay.until(lambda: link.relay.carried > 500_000)
            link.relay.mute()

        with anyio.fail_after(SHORT.detection_active + 15):
            await gather(fall_silent, transfer.run)
        link.check_one_session(losses=link.losses(1))
        assert all(event.reason.startswith(SILENCE[way]) for event in link.events if isinstance(event, Lost))


@EVERY_WAY
async def test_a_silence_shorter_than_the_detection_loses_nothing() -> None:
    async with lossy(DEFAULT_LIMITS) as link:
        transfer = Download(link.tunnel, 2 * MB)

        async def fall_silent() -> None:
            await link.relay.until(lambda: link.relay.carried > 500_000)
            link.relay.stall()
            await anyio.sleep(0.3)  # how long the link is silent
            link.relay.resume()

        with anyio.fail_after(20):
            await gather(fall_silent, transfer.run)
        link.check_one_session(losses=0)


@NOT_STREAMED
async def test_an_idle_silent_link_is_noticed_too() -> None:
    async with lossy() as link:
        link.relay.mute()
        await link.recovered(1, timeout=SHORT.ping_idle_silence + SHORT.ping_idle_timeout + 15)
        await link.check_alive()
        link.check_one_session(losses=link.losses(1))


# -- resumes that fail -------------------------------------------------------------------------


async def test_the_hundredth_resume_is_as_the_first(way: Way) -> None:
    each = 1 if way is Way.WEBSOCKET else 1 + EAGER.poll_posts  # connections, at the most
    async with lossy(EAGER) as link:
        for number in range(1, 101):
            link.relay.cut()
            await link.check_alive()
            await link.recovered(number)
        link.check_one_session(losses=link.losses(100))
        assert link.count(Retrying) == 0
        assert link.relay.connections <= 101 * each  # one dial each
        assert len(link.relay.pairs) <= each


@pytest.mark.full
@pytest.mark.ways("websocket", "streamed")
async def test_a_resume_takes_a_fifth_of_a_second_at_most() -> None:
    """With the default clocks, the hundredth as the first."""
    async with lossy(DEFAULT_LIMITS) as link:
        for number in range(1, 101):
            link.relay.cut()
            await link.check_alive()
            await link.resumed(number)
        away = sorted(event.away for event in link.events if isinstance(event, Resumed))
        print(f"\nresumes: median {away[50] * 1000:.0f} ms, longest {away[-1] * 1000:.0f} ms")
        assert away[94] < 0.2


@pytest.mark.parametrize("after", [0, 10, 600])
async def test_a_resume_that_is_refused_by_the_way_is_tried_again(after: int) -> None:
    """The way lets nobody through for a while, and then not at once."""
    async with lossy() as link:
        transfer = Download(link.tunnel, 2 * MB)

        async def block() -> None:
            await link.relay.until(lambda: link.relay.carried > 500_000)
            link.relay.refusing = True
            link.relay.cut()
            await link.until(lambda: link.count(Retrying) >= 2)
            link.relay.cut_next.append(after)
            link.relay.refusing = False

        with anyio.fail_after(25):
            await gather(block, transfer.run)
        link.check_one_session(losses=1)


@NOT_STREAMED
async def test_resumes_cut_at_every_stage_of_opening(way: Way) -> None:
    """From before the handshake's first byte, through ATTACH and its answer, to after the first messages; with
    long-poll most of these cuts meet polls and posts instead."""
    stages = range(0, 1800, 60)
    async with lossy(EAGER) as link:
        link.relay.cut_next.extend(stages)
        transfer = Download(link.tunnel, 3 * MB)

        async def cut() -> None:
            await link.relay.until(lambda: link.relay.carried > 500_000)
            link.relay.cut()

        with anyio.fail_after(20):
            await gather(cut, transfer.run)
            await link.relay.until(lambda: link.relay.connections > len(stages) + 1)
        assert link.current_session() == link.session_id
        if not way.outlives_cuts:
            assert link.count(Retrying) > 5  # cut before ATTACH was answered
            assert link.count(Lost) > 1  # cut after it


async def test_a_first_opening_cut_at_every_stage() -> None:
    async with open_ends(limits=EAGER) as ends, serve_relay(ends.port) as relay:
        relay.cut_next.extend(range(0, 1800, 60))
        async with ends.join(via=relay, ready=False):
            with anyio.fail_after(25):
                status, _, _ = await ends.get("/status/200")
            assert status == 200
            assert relay.cuts > 10
            assert len(ends.server.sessions()) == 1  # those half opened are not left behind


async def test_a_session_that_the_server_does_not_know_any_more_is_replaced() -> None:
    async with lossy() as link:
        link.relay.refusing = True
        link.relay.cut()
        await link.until(lambda: link.count(Retrying) >= 1)
        (session,) = link.tunnel.server.sessions()
        await until(lambda: not link.tunnel.server.sessions())  # its grace is over
        link.relay.refusing = False
        await link.until(lambda: link.count(Connected) == 1)
        await link.check_alive()
        (fresh,) = link.tunnel.server.sessions()
        assert fresh.id != session.id


# -- requests that meet a detached session -----------------------------------------------------


async def test_a_request_made_while_the_link_is_away_waits_and_is_made_once() -> None:
    async with lossy() as link:
        link.relay.refusing = True
        link.relay.cut()
        await link.until(lambda: link.count(Retrying) >= 1)
        answers: list[int] = []

        async def ask() -> None:
            status, _, body = await link.tunnel.get("/echo")
            assert json.loads(body)["target"] == "/echo"
            answers.append(status)

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(ask)
            await until(lambda: link.tunnel.server.snapshot().req_pending == 5)
            assert link.tunnel.origin.targets() == []
            link.relay.refusing = False
        assert answers == [200] * 5
        assert link.tunnel.origin.targets() == ["/echo"] * 5
        link.check_one_session(losses=1)


@NOT_STREAMED
async def test_a_request_on_its_way_when_the_link_is_cut_is_made_once() -> None:
    """Cut at every 100th byte around the request's own message: it arrives once, whatever was lost of it."""
    async with lossy(EAGER) as link:
        for number in range(1, 13):
            link.relay.cut_after(number * 40)
            status, _, _ = await link.tunnel.get(f"/echo/{number}")
            assert status == 200
            await link.recovered(link.relay.cuts)
        assert link.tunnel.origin.targets() == [f"/echo/{number}" for number in range(1, 13)]
        assert link.current_session() == link.session_id
