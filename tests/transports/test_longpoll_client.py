"""A long-poll client against a server that a test plays by hand, and against what stands between them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from math import inf

import anyio
import pytest
from anyio.lowlevel import checkpoint

from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.errors import (
    AnsweredByOther,
    ConfigError,
    ConnectionLost,
    DialError,
    LocalProtocolError,
    RegistrationRefused,
    StreamBroken,
)
from tunnelkit.handshake import Handshake
from tunnelkit.heads import Fields
from tunnelkit.net.stream import ByteStream
from tunnelkit.transports.longpoll import client_connection as longpoll_client_connection
from tunnelkit.transports.longpoll import client_probe
from tunnelkit.transports.longpoll.client import Lessons, dial_longpoll
from tunnelkit.transports.longpoll.client_call import PAGE_LIMIT
from tunnelkit.transports.longpoll.wire import POST_WINDOW, Op, answer_fields, closed_answer, opened_fields

from .conformance import lost
from .longpoll_peer import CONNECTION_ID, GRANT, HANDSHAKE, QUICK, Arrived, Client, Peer, client_of, granted
from .stubs import dial_request

pytestmark = pytest.mark.anyio

HTML: Fields = [(b"Content-Type", b"text/html")]

# Where a repeat has to come in time, on a machine that pauses now and then.
PATIENT = replace(QUICK, poll_answer_timeout=1.5)
# For posts that are given up soon beside polls that are not.
LONG_POLLS = replace(QUICK, poll_hold_idle=2.0, poll_hold_active=2.0, poll_answer_timeout=1.0)


class Taken:
    """Calls ``receive`` in a task, and keeps what it gave."""

    def __init__(self, client: Client) -> None:
        self.messages: list[bytes] = []
        self.lost: ConnectionLost | None = None
        self.scope = anyio.CancelScope()
        self._connection = client.connection
        self._news = anyio.Event()
        client.tasks.start_soon(self._run)

    async def _run(self) -> None:
        with self.scope:
            try:
                while True:
                    self.messages.append(await self._connection.receive())
                    self._ring()
            except ConnectionLost as why:
                self.lost = why
                self._ring()

    def _ring(self) -> None:
        news, self._news = self._news, anyio.Event()
        news.set()

    async def end(self) -> ConnectionLost:
        while self.lost is None:
            await self._news.wait()
        return self.lost

    async def until(self, count: int) -> list[bytes]:
        while len(self.messages) < count:
            await self._news.wait()
        return self.messages


# -- the opening ---------------------------------------------------------------------------------


class Dialled:
    """What one dial gave or raised, and the request that the peer saw."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.arrived: Arrived | None = None


async def open_to(
    answer: Callable[[Arrived], object], *, url: str = "http://tunnel.example", timeout: float = 5
) -> Dialled:
    dialled = Dialled()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            peer = Peer(tasks)

            async def serve() -> None:
                dialled.arrived = await peer.next(Op.OPEN)
                await answer(dialled.arrived)  # type: ignore[misc]

            tasks.start_soon(serve)
            request = dial_request(HANDSHAKE, peer, url=url, timeout=timeout, user_agent="test/1", tasks=tasks)
            try:
                connection, _ = await dial_longpoll(request, mode="strict", limits=DEFAULT_LIMITS, lessons=Lessons())
                connection.abort()
            except (DialError, RegistrationRefused) as error:
                dialled.error = error
                if dialled.arrived is not None:
                    await dialled.arrived.ended()  # a failed dial leaves nothing open
            tasks.cancel_scope.cancel()
    return dialled


async def test_the_opening_is_a_post_with_the_handshakes_fields() -> None:
    dialled = await open_to(lambda arrived: arrived.say(200, opened_fields(GRANT, CONNECTION_ID)))
    assert dialled.error is None
    assert dialled.arrived is not None
    assert dialled.arrived.target == b"/_tunnel/longpoll/open"
    assert dialled.arrived.fields[0] == (b"Host", b"tunnel.example")
    for name, value in (
        (b"user-agent", b"test/1"),
        (b"cache-control", b"no-store, no-transform"),
        (b"content-length", b"0"),
        (b"tunnelkit-longpoll", b"1"),
        (b"tunnelkit-token", HANDSHAKE.token.encode()),
    ):
        assert dialled.arrived.value(name) == value


async def test_a_refusal_is_the_servers_decision() -> None:
    dialled = await open_to(lambda arrived: arrived.refuse(401, "unauthorized", "wrong password"))
    assert isinstance(dialled.error, RegistrationRefused)
    assert (dialled.error.status, dialled.error.code) == (401, "unauthorized")


@pytest.mark.parametrize(
    ("status", "hint"), [(200, "captive portal"), (404, "base path"), (407, "user and password"), (502, "not reach")]
)
async def test_another_answer_is_somebody_elses(status: int, hint: str) -> None:
    dialled = await open_to(lambda arrived: arrived.say(status, HTML, b"<h1>Welcome</h1>"))
    assert isinstance(dialled.error, AnsweredByOther)
    assert dialled.error.status == status
    assert hint in dialled.error.hint


async def test_a_page_without_end_is_read_to_its_limit() -> None:
    async def flood(arrived: Arrived) -> None:
        await arrived.stream.send(arrived.head(404, HTML) + b"x" * (2 * PAGE_LIMIT))

    assert isinstance((await open_to(flood)).error, AnsweredByOther)


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "cannot be read"),
        (b"HTTP/1.1 200", "cannot be read"),
        (b"", "cannot be read"),
        (b"\x15\x03\x01\x00\x02\x02\x16\r\n\r\n", "use wss://"),
    ],
)
async def test_no_http_is_explained(sent: bytes, text: str) -> None:
    async def say(arrived: Arrived) -> None:
        if sent:
            await arrived.stream.send(sent)
        await arrived.stream.send_eof()

    error = (await open_to(say)).error
    assert isinstance(error, DialError)
    assert error.stage == "handshake"
    assert text in str(error)


async def test_a_reset_is_explained_without_a_word_on_tls_where_there_is_tls() -> None:
    async def cut(arrived: Arrived) -> None:
        arrived.cut()

    error = (await open_to(cut, url="https://tunnel.example")).error
    assert isinstance(error, DialError)
    assert "the connection failed" in str(error)
    assert not error.hint


@pytest.mark.parametrize(
    "fields",
    [
        [(b"Tunnelkit-Longpoll", b"2")],
        [(b"Tunnelkit-Longpoll", b"1")],
        [(b"Tunnelkit-Longpoll", b"1"), (b"Tunnelkit-Connection", b"../x")],
    ],
)
async def test_a_grant_that_cannot_be_read_is_a_failed_dial(fields: Fields) -> None:
    error = (await open_to(lambda arrived: arrived.say(200, fields))).error
    assert isinstance(error, DialError)
    assert "grant" in str(error)


async def test_a_server_that_does_not_answer() -> None:
    async def silence(arrived: Arrived) -> None:
        await anyio.sleep_forever()

    error = (await open_to(silence, timeout=0.1)).error
    assert isinstance(error, DialError)
    assert "no answer from http://tunnel.example within 0.1 s" in str(error)


async def test_a_way_that_does_not_open_in_time() -> None:
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            peer = Peer(tasks)
            peer.gate = anyio.Event()
            request = dial_request(HANDSHAKE, peer, timeout=0.1, tasks=tasks)
            with pytest.raises(DialError) as caught:
                await dial_longpoll(request, mode="strict", limits=DEFAULT_LIMITS, lessons=Lessons())
            assert caught.value.stage == "connect"


async def test_what_cannot_be_sent_or_dialled_costs_no_connection() -> None:
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            peer = Peer(tasks)
            request = dial_request(Handshake(token="a\nb" * 10), peer, tasks=tasks)
            with pytest.raises(LocalProtocolError):
                await dial_longpoll(request, mode="strict", limits=DEFAULT_LIMITS, lessons=Lessons())
            request = dial_request(HANDSHAKE, peer, url="ftp://x", tasks=tasks)
            with pytest.raises(ConfigError):
                await dial_longpoll(request, mode="strict", limits=DEFAULT_LIMITS, lessons=Lessons())
            tasks.cancel_scope.cancel()


async def test_cancelled_the_opening_closes_what_it_opened() -> None:
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            peer = Peer(tasks)
            request = dial_request(HANDSHAKE, peer, tasks=tasks)
            scope = anyio.CancelScope()

            async def dial() -> None:
                with scope:
                    await dial_longpoll(request, mode="strict", limits=DEFAULT_LIMITS, lessons=Lessons())

            tasks.start_soon(dial)
            arrived = await peer.next(Op.OPEN)
            scope.cancel()
            await arrived.ended()
            tasks.cancel_scope.cancel()


class Forward:
    """A proxy that takes requests in absolute form; ``peer`` is what listens there."""

    peer: Peer

    @property
    def fields(self) -> Fields:
        return [(b"Proxy-Authorization", b"Basic eDp5")]

    async def dial(self) -> ByteStream:
        return await self.peer.dial()


async def test_a_forward_proxy_is_sent_absolute_forms_and_its_credentials() -> None:
    forward = Forward()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            forward.peer = Peer(tasks)
            front = Peer(tasks, proxy=forward)

            async def serve() -> None:
                arrived = await forward.peer.next(Op.OPEN)
                assert arrived.target == b"http://tunnel.example:8080/base/_tunnel/longpoll/open"
                await arrived.say(200, opened_fields(GRANT, CONNECTION_ID))

            tasks.start_soon(serve)
            request = dial_request(HANDSHAKE, front, url="http://tunnel.example:8080/base", tasks=tasks)
            connection, _ = await dial_longpoll(request, mode="strict", limits=DEFAULT_LIMITS, lessons=Lessons())
            poll = await forward.peer.poll()
            assert poll.target == b"http://tunnel.example:8080/base/_tunnel/longpoll/down"
            assert poll.value(b"host") == b"tunnel.example:8080"
            assert poll.value(b"proxy-authorization") == b"Basic eDp5"
            assert front.dials == 0
            connection.abort()
            tasks.cancel_scope.cancel()


async def test_https_does_not_ask_for_a_forward_proxy() -> None:
    forward = Forward()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            peer = Peer(tasks, proxy=forward)

            async def serve() -> None:
                arrived = await peer.next(Op.OPEN)
                assert arrived.target == b"/_tunnel/longpoll/open"
                tasks.cancel_scope.cancel()

            tasks.start_soon(serve)
            request = dial_request(HANDSHAKE, peer, url="https://tunnel.example", tasks=tasks)
            await dial_longpoll(request, mode="strict", limits=DEFAULT_LIMITS, lessons=Lessons())


# -- polls ---------------------------------------------------------------------------------------


async def test_the_next_poll_is_out_before_a_message_is_handed_up() -> None:
    async with client_of() as client:
        first = await client.peer.poll()
        assert (first.number, round(first.hold), first.streamed, first.proven) == (1, 25, False, True)
        assert first.value(b"tunnelkit-connection") == CONNECTION_ID.encode()
        await first.answer(b"hello")
        assert await client.connection.receive() == b"hello"
        second = await client.peer.poll()  # nobody is in receive
        assert (second.number, round(second.hold), second.stream is first.stream) == (2, 5, True)
        assert client.peer.dials == 1


async def test_an_empty_answer_is_no_message_and_an_active_connection_asks_for_shorter_holds() -> None:
    async with client_of() as client:
        taken = Taken(client)
        await (await client.peer.poll()).answer()
        second = await client.peer.poll()
        assert 20.0 < second.hold <= 25.0  # what is left of it when the poll leaves
        client.connection.active = True
        await second.answer()
        assert 0.0 < (await client.peer.poll()).hold <= 5.0
        assert not taken.messages


async def test_a_message_of_the_largest_size_comes_in_any_pieces() -> None:
    async with client_of() as client:
        taken = Taken(client)
        message = bytes(range(256)) * (client.connection.max_message // 256)
        await (await client.peer.poll()).answer(message)
        assert await taken.until(1) == [message]


async def test_an_answer_that_is_lost_is_asked_for_again_and_handed_up_once() -> None:
    async with client_of() as client:
        taken = Taken(client)
        first = await client.peer.poll()
        first.cut()
        again = await client.peer.poll()
        assert (again.number, again.proven) == (1, True)
        await again.answer(b"one")
        second = await client.peer.poll()
        whole = second.head(200, [(b"Content-Length", b"3")])
        await second.stream.send(whole + b"t")
        second.cut()
        third = await client.peer.poll()
        assert third.number == 2
        await third.answer(b"two")
        assert await taken.until(2) == [b"one", b"two"]
        assert client.peer.dials == 3


OWN = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nTunnelkit-Number: %d\r\nContent-Length: %d\r\n\r\n"
)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\n<h1/>",
        b"HTTP/1.1 503 X\r\nContent-Type: text/html\r\n\r\n<h1>until the end</h1>",
        b"HTTP/1.1 503 X\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\n<h1/>",
        OWN % (9, 1) + b"x",
        OWN % (1, 9) + b"x",
        OWN % (1, 2_000_000) + b"x" * 2_000_000,
        b"garbage\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"",
    ],
)
async def test_what_is_no_answer_is_asked_for_again(answer: bytes) -> None:
    async with client_of(capacity=3_000_000) as client:
        taken = Taken(client)
        first = await client.peer.poll()
        await first.stream.send(answer)
        await first.stream.send_eof()
        again = await client.peer.poll()
        assert again.number == 1
        await again.answer(b"it")
        assert await taken.until(1) == [b"it"]


async def test_a_page_keeps_the_connection_and_interim_answers_are_passed_over() -> None:
    async with client_of() as client:
        taken = Taken(client)
        first = await client.peer.poll()
        await first.say(503, HTML, b"<h1>later</h1>")
        again = await client.peer.poll()
        assert (again.number, client.peer.dials) == (1, 1)
        await again.stream.send(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
        await again.answer(b"it")
        assert await taken.until(1) == [b"it"]


INTERIM = b"HTTP/1.1 102 Processing\r\n\r\n"


async def test_a_flood_of_interim_answers_leaves_others_their_turns() -> None:
    async with client_of(capacity=1_000_000) as client:
        taken = Taken(client)
        poll = await client.peer.poll()
        await poll.stream.send(INTERIM * 5000)
        await poll.answer(b"it")
        assert await turns_until(taken) > 100


async def test_a_flood_of_keep_alives_leaves_others_their_turns() -> None:
    async with client_of(mode="streamed", capacity=4_000_000) as client:
        taken = Taken(client)
        poll = await client.peer.poll()
        await poll.start_stream()
        for _ in range(50):
            await poll.chunk(bytes(64 * 1024))
        await poll.chunk(b"\0\0\0\2it")
        assert await turns_until(taken) > 4


async def turns_until(taken: Taken) -> int:
    """How often others had their turn until a message was taken."""
    turns = 0
    while not taken.messages:
        await checkpoint()
        turns += 1
    return turns


async def test_interim_answers_are_no_sign_of_life() -> None:
    async with client_of(limits=PATIENT) as client:
        client.connection.active = True
        client.tasks.start_soon(lost, client.connection.receive())
        poll = await client.peer.poll()
        with suppress(StreamBroken):
            while True:
                await poll.stream.send(INTERIM)
                await anyio.sleep(0.02)
        assert (await client.peer.poll()).number == 1


async def test_a_stream_is_no_answer_to_a_post() -> None:
    async with client_of() as client:
        client.tasks.start_soon(lost, client.connection.receive())
        post = await client.post(b"up")
        await post.start_stream()
        await post.chunk(b"\0\0\0\2it" * 1000)
        await post.end_stream()
        again = await client.peer.post()
        assert again.number == post.number
        await again.answer()


async def test_a_poll_that_was_replaced_is_made_again() -> None:
    async with client_of() as client:
        Taken(client)
        first = await client.peer.poll()
        await first.refuse(409, "poll_replaced")
        assert (await client.peer.poll()).number == 1


@pytest.mark.parametrize(("status", "text"), [(401, "401"), (403, "403"), (404, "404"), (407, "proxy"), (302, "302")])
async def test_an_answer_of_others_that_will_not_change_loses_the_connection(status: int, text: str) -> None:
    async with client_of() as client:
        await (await client.peer.poll()).say(status, HTML, b"<h1>No</h1>")
        why = await lost(client.connection.receive())
        assert text in str(why)
        assert not why.clean


async def test_an_unknown_connection_is_lost() -> None:
    async with client_of() as client:
        await (await client.peer.poll()).refuse(410, "unknown_connection")
        assert "unknown_connection" in str(await lost(client.connection.receive()))
        for call in (client.connection.ready(), client.connection.send(b"x"), client.connection.receive()):
            assert "unknown_connection" in str(await lost(call))


async def test_the_servers_close_is_clean() -> None:
    async with client_of() as client:
        farewell = closed_answer(1001, "going away")
        await (await client.peer.poll()).say(farewell.status, farewell.fields, farewell.body)
        why = await lost(client.connection.receive())
        assert (why.clean, why.code) == (True, 1001)


async def test_a_proxy_that_keeps_no_connection_costs_a_dial_a_poll() -> None:
    async with client_of() as client:
        taken = Taken(client)
        for number in (1, 2, 3):
            poll = await client.peer.poll()
            assert (poll.number, client.peer.dials) == (number, number)
            fields = [(b"Content-Type", b"application/octet-stream"), (b"Tunnelkit-Number", b"%d" % number)]
            await poll.say(200, [*fields, (b"Connection", b"close")], b"m%d" % number)
        assert (await taken.until(3))[-1] == b"m3"


async def test_a_poll_that_the_network_swallowed_is_repeated_in_time() -> None:
    async with client_of(limits=PATIENT) as client:
        taken = Taken(client)
        await client.peer.poll()
        again = await client.peer.poll()
        assert (again.number, again.hold) == (1, 0.0)
        await again.answer(b"it")
        assert await taken.until(1) == [b"it"]


@pytest.mark.parametrize("how", ["cut", "silent"])
async def test_an_answer_that_breaks_off_late_is_repeated(how: str) -> None:
    """It began at the end of the hold, and the poll's own patience was over when it broke off."""
    lessons = Lessons()
    async with client_of(limits=PATIENT, lessons=lessons) as client:
        taken = Taken(client)
        first = await client.peer.poll()
        end = anyio.current_time() + first.hold + PATIENT.poll_answer_timeout
        first.begin_answer(b"it", size=100_000)
        while anyio.current_time() <= end:  # a slow way
            await first.stream.send(b"a bit more")
            await anyio.sleep(PATIENT.poll_answer_timeout / 8)
        if how == "cut":
            first.cut()
        again = await client.peer.poll()
        assert (again.number, again.hold) == (1, 0.0)
        await again.answer(b"it")
        assert await taken.until(1) == [b"it"]
        assert lessons.hold(anyio.current_time()) == inf  # nothing was cut for waiting


async def test_an_answer_that_breaks_at_once_was_not_cut_for_waiting() -> None:
    """Its beginning and what breaks it come together."""
    lessons = Lessons()
    async with client_of(limits=PATIENT, lessons=lessons) as client:
        taken = Taken(client)
        first = await client.peer.poll()
        await anyio.sleep(PATIENT.poll_hold_active * 1.5)
        chunked = [*answer_fields(first.number), (b"Transfer-Encoding", b"chunked")]
        await first.stream.send(first.head(200, chunked) + b"2\r\nit\r\nbroken\r\n")
        again = await client.peer.poll()
        assert again.number == 1
        await again.answer(b"it")
        assert await taken.until(1) == [b"it"]
        assert lessons.hold(anyio.current_time()) == inf


async def test_the_first_poll_that_is_cut_while_it_waits_makes_the_next_shorter() -> None:
    """The bytes of the opening's answer, over the same connection, are none of its own."""
    lessons = Lessons()
    async with client_of(limits=PATIENT, lessons=lessons) as client:
        Taken(client)
        first = await client.peer.poll()
        await anyio.sleep(PATIENT.poll_hold_active * 1.5)
        first.cut()
        await client.peer.poll()
    assert lessons.hold(anyio.current_time()) == PATIENT.poll_hold_active


async def test_without_any_answer_the_connection_is_lost() -> None:
    async with client_of(limits=QUICK) as client:
        why = await lost(client.connection.receive())
        assert "a poll was not answered in time: nothing came back in time" in str(why)


async def test_without_a_way_the_connection_is_lost_and_says_why() -> None:
    async with client_of(limits=QUICK) as client:
        client.peer.down = True
        (await client.peer.poll()).cut()
        assert "the connection was refused" in str(await lost(client.connection.receive()))


async def test_a_way_that_hangs_is_given_up_in_time() -> None:
    async with client_of(limits=QUICK) as client:
        client.peer.gate = anyio.Event()
        (await client.peer.poll()).cut()
        assert "nothing came back in time" in str(await lost(client.connection.receive()))


async def test_a_proxy_that_cuts_waiting_polls_makes_them_shorter(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "tunnelkit.client")
    lessons = Lessons()
    async with client_of(limits=PATIENT, lessons=lessons) as client:
        Taken(client)
        first = await client.peer.poll()
        await anyio.sleep(PATIENT.poll_hold_active * 1.5)  # at least the hold itself, by a clock of milliseconds too
        await first.say(504, HTML, b"<h1>Gateway Time-out</h1>")
        await (await client.peer.poll()).answer()
        assert (await client.peer.poll()).hold <= 0.1
    assert lessons.hold(anyio.current_time()) == 0.1
    assert [record.message for record in caplog.records] == [
        "something on the way cuts polls that wait: they wait for 0.1 s from now on"
    ]


# -- posts ---------------------------------------------------------------------------------------


async def test_a_message_is_one_post_over_a_connection_that_is_kept() -> None:
    async with client_of() as client:
        first = await client.post(b"one")
        assert (first.number, first.body, first.proven) == (1, b"one", True)
        await first.answer()
        await client.peer.dialled(2)
        await anyio.wait_all_tasks_blocked()
        second = await client.post(b"two")
        assert (second.number, second.stream is first.stream) == (2, True)
        assert client.peer.dials == 2


async def test_as_many_posts_as_may_be_are_out_and_a_sender_waits_for_the_next_place() -> None:
    async with client_of() as client:
        big = b"x" * 40_000
        posts = [await client.post(big + bytes([i])) for i in range(4)]
        assert sorted(post.number for post in posts) == [1, 2, 3, 4]
        ready: list[int] = []

        async def wait() -> None:
            ready.append(await client.connection.ready())

        client.tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert not ready
        await posts[2].answer()  # in any order
        await anyio.wait_all_tasks_blocked()
        assert ready == [client.connection.max_message]
        fifth = await client.post(b"five")
        assert (fifth.number, fifth.stream is posts[2].stream) == (5, True)


async def test_a_post_is_repeated_as_it_was_until_it_is_answered() -> None:
    async with client_of() as client:
        message = bytes(range(256)) * 1000
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.connection.send, message)
            (await client.peer.post()).cut()
            again = await client.peer.post()
            await again.say(502, HTML, b"<h1>Bad Gateway</h1>")
            third = await client.peer.post()
            await third.stream.send(third.head(200, [(b"Content-Length", b"5")]) + b"x")
            third.cut()
            fourth = await client.peer.post()
        for post in (again, third, fourth):
            assert (post.number, post.body, post.proven) == (1, message, True)
        await fourth.answer()
        assert (await client.post(b"next")).number == 2


async def test_a_kept_connection_that_was_closed_meanwhile_costs_nothing() -> None:
    async with client_of() as client:
        first = await client.post(b"one")
        await first.answer()
        await first.stream.aclose()
        await anyio.wait_all_tasks_blocked()
        second = await client.post(b"two")
        assert (second.number, second.body) == (2, b"two")


async def test_a_post_that_nobody_answers_is_repeated_on_another_connection_and_then_loses_all() -> None:
    async with client_of(limits=LONG_POLLS) as client:
        taken = Taken(client)
        client.tasks.start_soon(answer_polls, client)
        streams = {id((await client.post(b"one")).stream)}
        for _ in range(2):
            again = await client.peer.post()
            assert (again.number, again.body) == (1, b"one")
            streams.add(id(again.stream))
        assert len(streams) == 3
        assert "a post was not answered in time" in str(await taken.end())


async def test_a_post_that_is_stuck_in_the_middle_is_repeated_whole() -> None:
    async with client_of(limits=replace(PATIENT, poll_hold_idle=2.0, poll_hold_active=2.0), capacity=1000) as client:
        Taken(client)
        client.tasks.start_soon(answer_polls, client)
        message = b"x" * 20_000
        client.peer.deaf = True
        await client.connection.send(message)
        await client.peer.dialled(3)  # the poll's, the post's, and the repeat's
        client.peer.deaf = False
        post = await client.peer.post()
        assert (post.number, post.body) == (1, message)
        await post.answer()
        await client.connection.ready()


async def answer_polls(client: Client) -> None:
    """As a server does for which there is nothing to say."""
    with suppress(StreamBroken):
        while True:
            poll = await client.peer.poll()
            await anyio.sleep(QUICK.poll_hold_active / 2)
            await poll.answer()


async def test_a_refused_post_loses_the_connection() -> None:
    async with client_of() as client:
        taken = Taken(client)
        await (await client.post(b"one")).refuse(409, "out_of_window")
        assert "out_of_window" in str(await taken.end())


async def test_a_full_pipe_holds_a_post_up_and_no_poll() -> None:
    async with client_of(capacity=1000) as client:
        taken = Taken(client)
        message = b"x" * client.connection.max_message
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.connection.send, message)
            post = await client.peer.post()
            assert post.body == message
            await (await client.peer.poll()).answer(b"down")
            assert await taken.until(1) == [b"down"]


async def test_a_message_too_large_is_the_senders_mistake() -> None:
    async with client_of() as client:
        with pytest.raises(LocalProtocolError, match="at most"):
            await client.connection.send(b"x" * (client.connection.max_message + 1))


async def test_small_messages_wait_a_moment_for_company_and_go_then_all_the_same() -> None:
    async with client_of() as client:
        first, second = await client.post(b"one"), await client.post(b"two")
        assert (first.number, second.number) == (1, 2)


async def test_a_sender_that_never_waits_lets_others_have_their_turn() -> None:
    async with client_of() as client:
        with anyio.CancelScope() as scope:
            scope.cancel()
            for _ in range(100):
                await client.connection.ready()
            raise AssertionError("cancellation never came in")
        assert scope.cancelled_caught


async def test_a_connection_that_was_quiet_for_as_long_as_polls_may_be_is_closed() -> None:
    async with client_of(limits=PATIENT) as client:
        Taken(client)
        client.tasks.start_soon(answer_polls, client)
        first = await client.post(b"one")
        await first.answer()
        await first.ended()
        assert (await client.post(b"two")).number == 2


# -- cancellation --------------------------------------------------------------------------------


async def cancelled_receive(client: Client) -> None:
    taken = Taken(client)
    await anyio.wait_all_tasks_blocked()
    taken.scope.cancel()
    await anyio.wait_all_tasks_blocked()
    assert not taken.messages


async def test_a_cancelled_receive_loses_no_message() -> None:
    async with client_of() as client:
        poll = await client.peer.poll()
        answer = poll.head(200, [*answer_fields(1), (b"Content-Length", b"7")]) + b"message"
        for piece in (b"", answer[:20], answer[20:-3]):
            await poll.stream.send(piece)
            await cancelled_receive(client)
        await poll.stream.send(answer[-3:])
        assert await Taken(client).until(1) == [b"message"]


async def test_a_receive_that_is_cancelled_while_it_dials_dials_again() -> None:
    async with client_of() as client:
        client.peer.gate = anyio.Event()
        (await client.peer.poll()).cut()
        await cancelled_receive(client)
        assert client.peer.dials == 2
        client.peer.gate.set()
        taken = Taken(client)
        again = await client.peer.poll()
        assert again.number == 1
        await again.answer(b"it")
        assert await taken.until(1) == [b"it"]


async def test_a_receive_that_is_cancelled_while_it_waits_to_repeat_goes_on_later() -> None:
    async with client_of() as client:
        first = await client.peer.poll()
        await first.say(503, [*HTML, (b"Retry-After", b"1")], b"<h1>later</h1>")
        await cancelled_receive(client)
        taken = Taken(client)
        await (await client.peer.poll()).answer(b"it")
        assert await taken.until(1) == [b"it"]


async def test_a_cancelled_ready_changes_nothing() -> None:
    async with client_of() as client:
        posts = [await client.post(b"x" * 40_000) for _ in range(4)]
        with anyio.CancelScope() as scope:
            client.tasks.start_soon(anyio.sleep, 0)
            scope.cancel()
            await client.connection.ready()
        await posts[0].answer()
        assert await client.connection.ready() == client.connection.max_message


# -- streamed answers ----------------------------------------------------------------------------


def record(message: bytes) -> bytes:
    return len(message).to_bytes(4) + message


async def test_a_streamed_answer_carries_many_messages() -> None:
    async with client_of(mode="streamed") as client:
        taken = Taken(client)
        poll = await client.peer.poll()
        assert poll.streamed
        await poll.start_stream()
        await poll.chunk(record(b"one") + record(b"") + record(b"two")[:5])
        assert await taken.until(1) == [b"one"]
        await poll.chunk(record(b"two")[5:] + record(b"three"))
        assert await taken.until(3) == [b"one", b"two", b"three"]
        await poll.end_stream()
        second = await client.peer.poll()
        assert (second.number, second.streamed, second.stream is poll.stream) == (2, True, True)


async def test_a_server_may_answer_strictly_though_it_was_asked_to_stream() -> None:
    async with client_of(mode="streamed") as client:
        taken = Taken(client)
        await (await client.peer.poll()).answer(b"one")
        await (await client.peer.poll()).answer(b"two")
        assert await taken.until(2) == [b"one", b"two"]


async def test_a_streamed_answer_that_lacks_only_its_last_chunk_is_whole() -> None:
    async with client_of(mode="streamed") as client:
        taken = Taken(client)
        poll = await client.peer.poll()
        await poll.start_stream()
        await poll.chunk(record(b"one") + b"\xff\xff\xff\xff")
        await poll.stream.send_eof()
        assert (await client.peer.poll()).number == 2
        assert taken.messages == [b"one"]


@pytest.mark.parametrize("broken", ["cut", "eof", "early end", "garbage", "too long", "502", "behind"])
async def test_a_streamed_answer_that_breaks_off_fails_as_a_whole(broken: str) -> None:
    lessons = Lessons()
    async with client_of(mode="streamed", lessons=lessons) as client:
        taken = Taken(client)
        poll = await client.peer.poll()
        if broken == "502":
            await poll.say(502, HTML, b"<h1>no</h1>")
        else:
            await poll.start_stream()
            await poll.chunk(record(b"one"))
            assert await taken.until(1) == [b"one"]
        if broken == "cut":
            poll.cut()
        elif broken == "eof":
            await poll.stream.send_eof()
        elif broken == "early end":
            await poll.stream.send(b"0\r\n\r\n")
        elif broken == "garbage":
            await poll.stream.send(b"no chunk\r\n")
        elif broken == "too long":
            await poll.chunk((client.connection.max_message + 1).to_bytes(4))
        elif broken == "behind":
            await poll.chunk(b"\xff\xff\xff\xffmore")
        assert "broke off" in str(await taken.end())
    assert not lessons.may_stream(anyio.current_time())


async def test_a_streamed_answer_that_falls_silent_is_lost() -> None:
    async with client_of(mode="streamed", limits=QUICK) as client:
        client.connection.active = True
        poll = await client.peer.poll()
        await poll.start_stream()
        client.tasks.start_soon(answer_posts, client)
        assert "nothing came back in time" in str(await lost(client.connection.receive()))


async def answer_posts(client: Client) -> None:
    with suppress(StreamBroken):
        while True:
            await (await client.peer.post()).answer()


async def test_beside_a_streamed_answer_an_empty_post_tells_that_the_client_is_there() -> None:
    """Again and again, however long an answer may take."""
    async with client_of(mode="streamed", limits=replace(QUICK, poll_answer_timeout=60.0)) as client:
        Taken(client)
        poll = await client.peer.poll()
        await poll.start_stream()
        client.connection.active = True
        for number in (1, 2, 3):
            ping = await client.peer.post()
            await poll.chunk(record(b""))
            assert (ping.number, ping.body) == (number, b"")
            await ping.answer()


async def test_exchanges_that_begin_and_end_do_not_wake_the_timekeeper() -> None:
    """It sleeps to the first of its times, and they make none of them earlier."""
    async with client_of(mode="streamed") as client:
        connection = client.connection
        assert isinstance(connection, longpoll_client_connection.ClientConnection)
        await (await client.peer.poll()).start_stream()
        connection.active = True
        while connection._alarm.is_set():  # until it looked at what the first of them changed
            await checkpoint()
        for _ in range(3):
            connection.active = False
            connection.active = True
            assert not connection._alarm.is_set()


# -- the probe -----------------------------------------------------------------------------------


async def answer_probe(client: Client, gap: float) -> Arrived:
    probe = await client.peer.next(Op.PROBE)
    assert (probe.number, probe.proven) == (1, True)
    await probe.start_stream()
    if gap:
        await probe.chunk(record(b"."))
        await anyio.sleep(gap)
        await probe.chunk(record(b"."))
    else:
        await probe.chunk(record(b".") * 2)
    await probe.end_stream()
    await probe.ended()
    return probe


async def test_answers_are_streamed_once_a_probe_showed_that_they_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_probe, "_APART", 0.02)
    lessons = Lessons()
    async with client_of(mode="auto", lessons=lessons) as client:
        Taken(client)
        first = await client.peer.poll()
        assert not first.streamed
        await first.answer()
        second = await client.peer.poll()
        await answer_probe(client, 0.3)
        await second.answer()
        assert (await client.peer.poll()).streamed
    assert lessons.may_stream(anyio.current_time())


@pytest.mark.interpreted
@pytest.mark.parametrize("how", ["gathered", "page", "cut", "down", "silent"])
async def test_a_way_that_gathers_answers_stays_strict_for_a_while(how: str) -> None:
    learnt = anyio.Event()

    class Telling(Lessons):
        def stay_strict(self, now: float) -> None:
            super().stay_strict(now)
            learnt.set()

    lessons = Telling()
    async with client_of(mode="auto", lessons=lessons, limits=QUICK) as client:
        Taken(client)
        first = await client.peer.poll()
        client.peer.down = how == "down"
        await first.answer()
        client.tasks.start_soon(answer_polls, client)
        if how == "gathered":
            await answer_probe(client, 0.0)
        elif how != "down":
            probe = await client.peer.next(Op.PROBE)
            if how == "page":
                await probe.say(200, HTML, b"<h1>Hello</h1>")
            elif how == "cut":
                probe.cut()
            await probe.ended()
        await learnt.wait()
    async with client_of(mode="auto", lessons=lessons) as client:
        Taken(client)
        await (await client.peer.poll()).answer()
        assert not (await client.peer.poll()).streamed
        await anyio.wait_all_tasks_blocked()
        assert client.peer.dials == 1


# -- the end -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["strict", "streamed"])
async def test_the_close_follows_what_was_sent(mode: str) -> None:
    async with client_of(mode=mode) as client:
        taken = Taken(client)
        poll = await client.peer.poll()
        if poll.streamed:
            await poll.start_stream()
        post = await client.post(b"last words")
        client.tasks.start_soon(client.connection.aclose, 1001, "going away")
        await anyio.wait_all_tasks_blocked()
        assert not any(arrived.op is Op.CLOSE for arrived in client.peer.backlog)
        assert str(await taken.end()) == "closed at this end"
        await poll.stream.send(b"")  # it still waits: its end would be that of the connection
        assert poll.stream.receive_nowait() is None
        await post.answer()
        closing = await client.peer.next(Op.CLOSE)
        assert (closing.number, closing.proven, closing.value(b"tunnelkit-code")) == (1, True, b"1001")
        await closing.answer()
        for stream in client.peer.streams:
            assert not await read_to_the_end(stream)


async def read_to_the_end(stream: ByteStream) -> bytes:
    try:
        return await stream.receive()
    except StreamBroken:
        return b""


@pytest.fixture
def _short_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(longpoll_client_connection, "CLOSE_TIMEOUT", 0.1)


@pytest.mark.usefixtures("_short_close")
async def test_a_close_that_nobody_answers_is_over_in_a_moment() -> None:
    async with client_of() as client:
        await client.connection.aclose()
        await client.connection.aclose()
        assert (await client.peer.next(Op.CLOSE)).value(b"tunnelkit-code") == b"1000"


@pytest.mark.usefixtures("_short_close")
async def test_a_close_behind_a_stuck_post_is_over_in_a_moment() -> None:
    async with client_of() as client:
        await client.post(b"stuck")
        await client.connection.aclose()
        assert not any(arrived.op is Op.CLOSE for arrived in client.peer.backlog)


async def test_a_close_that_meets_that_of_the_server_is_told_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for nothing else: no poll follows."""
    monkeypatch.setattr(longpoll_client_connection, "CLOSE_TIMEOUT", 60)
    async with client_of() as client:
        post = await client.post(b"last words")
        client.tasks.start_soon(client.connection.aclose)
        await anyio.wait_all_tasks_blocked()
        await post.refuse(410, "connection_closed", "1000")
        await (await client.peer.next(Op.CLOSE)).refuse(410, "connection_closed", "1000")
        for stream in client.peer.streams:
            assert not await read_to_the_end(stream)


async def test_a_close_waits_for_no_server_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(longpoll_client_connection, "CLOSE_TIMEOUT", 60)
    async with client_of() as client:
        post = await client.post(b"last words")
        client.peer.down = True
        post.cut()
        await client.connection.aclose()
        assert not any(arrived.op is Op.CLOSE for arrived in client.peer.backlog)


async def test_a_lost_connection_has_nothing_to_close() -> None:
    async with client_of() as client:
        await (await client.peer.poll()).refuse(410, "unknown_connection")
        await lost(client.connection.receive())
        await client.connection.aclose()
        await anyio.wait_all_tasks_blocked()
        assert not client.peer.backlog


@pytest.mark.parametrize("where", ["receive", "dial", "pause", "ready", "close", "close, dial"])
async def test_an_abort_ends_every_call_and_closes_every_connection(where: str) -> None:
    async with client_of() as client:
        connection = client.connection
        poll = await client.peer.poll()
        ends: list[ConnectionLost | None] = []

        async def call() -> None:
            if where.startswith("close"):
                await connection.aclose()
                ends.append(None)
            elif where == "ready":
                ends.append(await lost(connection.ready()))
            else:
                ends.append(await lost(connection.receive()))

        if "dial" in where:
            client.peer.gate = anyio.Event()
            poll.cut()
        elif where == "pause":
            await poll.say(503, [(b"Retry-After", b"20")])
        elif where == "ready":
            for _ in range(4):
                await client.post(b"x" * 40_000)
        taken = Taken(client) if where == "close, dial" else None
        await anyio.wait_all_tasks_blocked()
        client.tasks.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        assert taken is None or taken.lost is not None
        connection.abort()
        connection.abort()
        await anyio.wait_all_tasks_blocked()
        assert len(ends) == 1
        for stream in client.peer.streams:
            assert not await read_to_the_end(stream)
        assert "aborted" in str(await lost(connection.receive())) or where.startswith("close")


async def test_an_end_lets_go_of_what_was_not_answered() -> None:
    """At once: what is lost refers to itself here and there, and megabytes would wait for the next collection."""
    async with client_of() as client:
        message = bytes(10_000)
        before = sys.getrefcount(message)
        await client.connection.send(message)
        await client.peer.next(Op.UP)
        assert sys.getrefcount(message) > before
        client.connection.abort()
        await anyio.wait_all_tasks_blocked()
        assert sys.getrefcount(message) == before


async def test_it_tells_when_it_heard_last() -> None:
    async with client_of() as client:
        before = client.connection.last_received
        taken = Taken(client)
        poll = await client.peer.poll()
        await anyio.sleep(0.02)
        await poll.answer(b"x")
        await taken.until(1)
        assert client.connection.last_received > before
        assert "strict" in repr(client.connection)


async def test_a_sender_that_does_not_ask_waits_in_send() -> None:
    async with client_of() as client:
        posts = [await client.post(b"x" * 40_000) for _ in range(4)]
        client.tasks.start_soon(client.connection.send, b"five")
        await anyio.wait_all_tasks_blocked()
        assert not client.peer.backlog or client.peer.backlog[0].op is not Op.UP
        await posts[0].answer()
        assert (await client.peer.post()).body == b"five"


async def test_a_bug_costs_the_connection_and_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*args: object) -> bool:
        raise RuntimeError("a bug")

    monkeypatch.setattr(longpoll_client_connection, "passes_unbuffered", fail)
    async with client_of(mode="auto") as client:
        taken = Taken(client)
        await (await client.peer.poll()).answer()
        assert "failed at this end" in str(await taken.end())
    assert "a bug" in caplog.text


async def test_a_connection_ends_with_the_tasks_that_it_was_given() -> None:
    with anyio.fail_after(10):
        async with anyio.create_task_group() as outer:
            peer = Peer(outer)
            outer.start_soon(granted, peer)
            async with anyio.create_task_group() as tasks:
                connection, _ = await dial_longpoll(
                    dial_request(HANDSHAKE, peer, tasks=tasks),
                    mode="strict",
                    limits=DEFAULT_LIMITS,
                    lessons=Lessons(),
                )
                await peer.poll()
                tasks.cancel_scope.cancel()
            assert "aborted" in str(await lost(connection.receive()))
            outer.cancel_scope.cancel()


async def test_posts_wait_behind_one_that_is_not_answered_at_the_end_of_the_servers_window() -> None:
    """One TCP connection that stands still for a moment: the others must not run past what the server takes."""
    async with client_of() as client:
        first = await client.post(b"1" * 40_000)
        for number in range(2, POST_WINDOW + 1):
            post = await client.post(b"m" * 40_000)
            assert post.number == number
            await post.answer()
        with anyio.move_on_after(0.05) as waiting:
            await client.connection.ready()
        assert waiting.cancelled_caught
        await first.answer()
        assert (await client.post(b"n" * 40_000)).number == POST_WINDOW + 1
