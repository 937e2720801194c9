"""Long-poll requests that nobody honest sends, at a running server: each is told what it did, changes nothing, and
costs no other token anything."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial

import anyio
import pytest

from tunnelkit.config import MIB
from tunnelkit.core.message import Kind, build, split_header
from tunnelkit.errors import StreamBroken
from tunnelkit.handshake import Handshake, to_fields
from tunnelkit.net.dial import connect_tcp
from tunnelkit.proof import Prover, Purpose, attach_tag
from tunnelkit.transports.longpoll.wire import PURPOSES, Op

from .tunnel import SHORT, Answer, Ends, exchange, gather, open_ends, read_head, until

pytestmark = pytest.mark.anyio

EVIL = "a-token-of-bad-clients"
OTHER = "a-token-of-yet-another"


def path(op: Op) -> str:
    return f"/_tunnel/longpoll{op}"


class Bad:
    """A session that was opened honestly, and requests for it that are made as a test likes."""

    def __init__(self, port: int, opened: Answer) -> None:
        fields = {name.lower(): value for name, value in opened[1]}
        self.port = port
        self.id, self.session_id = fields["tunnelkit-connection"], fields["tunnelkit-session"]
        self.key = bytes.fromhex(fields["tunnelkit-resume-key"])
        self.prover = Prover(self.key, self.session_id, 1)
        self.attach = build(Kind.ATTACH, 1, 0, 0, (attach_tag(self.key, self.session_id, 1),))

    def fields(self, op: Op, number: int, length: int = 0, **changes: str) -> dict[str, str]:
        proof = self.prover.make(PURPOSES[op], number, length).hex()
        known = {"Tunnelkit-Connection": self.id, "Tunnelkit-Number": str(number), "Tunnelkit-Proof": proof}
        return known | {f"Tunnelkit-{name}": value for name, value in changes.items()}

    async def ask(self, op: Op, number: int, body: bytes = b"", **changes: str) -> Answer:
        fields = self.fields(op, number, len(body), **changes)
        if not body:
            fields["Content-Length"] = "0"
        return await exchange(self.port, "POST", path(op), fields=fields, body=body)

    async def alive(self, number: int) -> bool:
        """Whether poll ``number`` is answered as it should be."""
        status, fields, _ = await self.ask(Op.DOWN, number, Hold="0.001")
        return status == 200 and ("Tunnelkit-Number", str(number)) in fields

    def head(self, op: Op, number: int, length: int, **changes: str) -> bytes:
        """Of a request whose body may never come."""
        lines = [f"{name}: {value}" for name, value in self.fields(op, number, length, **changes).items()]
        lines += [f"Content-Length: {length}", "Host: a", "", ""]
        return "\r\n".join([f"POST {path(op)} HTTP/1.1", *lines]).encode()


async def opened(port: int, token: str = EVIL) -> Bad:
    fields = {name.decode(): value.decode() for name, value in to_fields(Handshake(token=token))}
    fields |= {"Tunnelkit-Longpoll": "1", "Content-Length": "0"}
    bad = Bad(port, await exchange(port, "POST", path(Op.OPEN), fields=fields))
    assert (await bad.ask(Op.UP, 1, bad.attach))[0] == 200
    assert split_header((await bad.ask(Op.DOWN, 1))[2])[0] == Kind.ATTACH
    return bad


@asynccontextmanager
async def beside_an_honest_client(ends: Ends) -> AsyncIterator[Bad]:
    """A bad one; in the end, and meanwhile, the honest one is served."""
    with anyio.fail_after(10):
        async with ends.join(transport="longpoll"):
            bad = await opened(ends.port)
            yield bad
            assert (await ends.get("/hello"))[0] == 200
            await bad.ask(Op.CLOSE, 1)  # or the server would try to say goodbye, for a second


def told(answer: Answer) -> tuple[int, str]:
    """Status and code."""
    return answer[0], json.loads(answer[2])["code"] if answer[0] != 200 else ""


async def test_what_is_not_proven_is_told_so_and_touches_nobody() -> None:
    async with open_ends() as ends, beside_an_honest_client(ends) as bad:
        other = await opened(ends.port, OTHER)
        prove = other.prover.make
        wrong = (403, "bad_proof")
        malformed = (400, "bad_request")
        assert told(await bad.ask(Op.DOWN, 2, Connection="0" * 32)) == (410, "unknown_connection")
        assert told(await bad.ask(Op.CLOSE, 1, Connection=other.id)) == wrong
        assert told(await bad.ask(Op.UP, 2, b"x", Connection=other.id)) == wrong
        assert told(await bad.ask(Op.DOWN, 2, Proof=prove(Purpose.POLL, 2).hex())) == wrong
        assert told(await other.ask(Op.UP, 2, Proof=prove(Purpose.POLL, 2).hex())) == wrong
        assert told(await other.ask(Op.UP, 2, Proof=prove(Purpose.POST, 3).hex())) == wrong
        assert told(await other.ask(Op.UP, 2, b"four", Proof=prove(Purpose.POST, 2, 5).hex())) == wrong
        assert told(await other.ask(Op.DOWN, 2, Proof="00")) == malformed
        for number in ("0", "-1", "1e3", "+2", "02", str(2**64), str(10**30), ""):
            assert told(await other.ask(Op.DOWN, 2, Number=number)) == malformed
            assert told(await other.ask(Op.UP, 2, b"x", Number=number)) == malformed
        for hold in ("-1", "nan", "1e9", "x"):
            assert told(await other.ask(Op.DOWN, 2, Hold=hold)) == malformed
        assert await bad.alive(2)
        assert await other.alive(2)
        assert (await other.ask(Op.CLOSE, 1, Code="1000", Reason="enough"))[0] == 200
        assert told(await other.ask(Op.DOWN, 3)) in [(410, "connection_closed"), (410, "unknown_connection")]


async def test_what_is_out_of_the_window_is_told_so_and_replays_are_applied_once() -> None:
    async with open_ends() as ends, beside_an_honest_client(ends) as bad:
        for number in (3, 17, 10**17):
            assert told(await bad.ask(Op.DOWN, number)) == (409, "out_of_window")
        assert told(await bad.ask(Op.UP, 18, b"x")) == (409, "out_of_window")
        for _ in range(3):  # a second ATTACH would end the connection
            assert (await bad.ask(Op.UP, 1, bad.attach))[0] == 200
            assert split_header((await bad.ask(Op.DOWN, 1))[2])[0] == Kind.ATTACH
        assert await bad.alive(2)


async def test_bodies_that_are_not_as_they_should_be() -> None:
    async with open_ends() as ends, beside_an_honest_client(ends) as bad:
        ask = partial(exchange, ends.port, "POST", path(Op.UP))
        chunked = bad.fields(Op.UP, 2) | {"Transfer-Encoding": "chunked"}
        assert told(await ask(fields=chunked)) == (411, "length_required")
        assert told(await ask(fields=bad.fields(Op.UP, 2))) == (411, "length_required")
        large = bad.fields(Op.UP, 2, MIB + 1) | {"Content-Length": str(MIB + 1)}
        assert told(await ask(fields=large)) == (413, "too_large")
        assert told(await bad.ask(Op.DOWN, 2, b"a body")) == (400, "bad_request")
        for op in Op:
            for method in ("GET", "PUT", "OPTIONS", "HEAD"):
                assert (await exchange(ends.port, method, path(op), fields=bad.fields(Op.UP, 2)))[0] == 405
        assert await bad.alive(2)


async def test_of_polls_that_overlap_one_waits() -> None:
    async with open_ends() as ends, beside_an_honest_client(ends) as bad:
        answers = await gather(*[partial(bad.ask, Op.DOWN, 2, Hold="0.1")] * 30)
        codes = Counter(told(answer) for answer in answers)
        assert codes[200, ""] >= 1
        assert set(codes) <= {(200, ""), (409, "poll_replaced")}
        assert await bad.alive(3)


async def test_posts_whose_bodies_never_come_hold_up_nobody_else() -> None:
    async with open_ends() as ends, beside_an_honest_client(ends) as bad:
        streams = [await connect_tcp("127.0.0.1", ends.port, timeout=5) for _ in range(40)]
        for index, stream in enumerate(streams):
            await stream.send(bad.head(Op.UP, 2 + index % 16, MIB) + b"some of it")
        assert (await ends.get("/hello"))[0] == 200
        assert await bad.alive(2)
        for stream in streams:
            stream.abort()
        assert (await bad.ask(Op.UP, 2))[0] == 200  # an empty one takes their place
        assert await bad.alive(3)


@pytest.mark.parametrize("op", [Op.DOWN, Op.UP, Op.PROBE])
async def test_a_request_that_hangs_up_anywhere_is_nothing(op: Op) -> None:
    async with open_ends() as ends, beside_an_honest_client(ends) as bad:
        body = b"" if op is not Op.UP else b"x" * 100
        whole = bad.head(op, 2, len(body)) + body
        for end in range(0, len(whole), 11):
            stream = await connect_tcp("127.0.0.1", ends.port, timeout=5)
            with suppress(StreamBroken):
                await stream.send(whole[:end])
            stream.abort()
        assert await bad.alive(2)


async def test_a_client_that_stops_polling_is_given_up_though_it_posts() -> None:
    limits = replace(SHORT, poll_absence=0.2)
    async with open_ends(limits=limits) as ends:
        with anyio.fail_after(10):
            bad = await opened(ends.port)
            for number in range(2, 1000):
                answer = await bad.ask(Op.UP, number)
                if answer[0] != 200:
                    break
            assert told(answer) == (410, "unknown_connection")
            await ends.detached()


async def test_a_streamed_answer_that_nobody_reads_is_bounded() -> None:
    async with open_ends() as ends, beside_an_honest_client(ends) as bad:
        stream = await connect_tcp("127.0.0.1", ends.port, timeout=5)
        await stream.send(bad.head(Op.DOWN, 2, 0, Mode="stream"))
        assert (await read_head(stream))[0] == 200
        async with anyio.create_task_group() as callers:
            upload = partial(exchange, ends.port, "POST", f"/_token/{EVIL}/x", body=bytes(4 * MIB))
            for _ in range(5):
                callers.start_soon(upload)
            await until(lambda: ends.server.snapshot().req_pending == 5)
            assert (await ends.get("/hello"))[0] == 200
            assert (await bad.ask(Op.UP, 2))[0] == 200
            callers.cancel_scope.cancel()
        stream.abort()
