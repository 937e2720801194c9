"""Requests that wait: for a client, for a place, for their deadline (design, section 8, "Queueing")."""

from __future__ import annotations

import hashlib
import json
import socket
from dataclasses import replace

import anyio
import pytest
from anyio.abc import SocketAttribute, TaskGroup

from tunnelkit import Limits

from .tunnel import QUICK, SHORT, TOKEN, Ends, ask, open_ends, open_tunnel, problem_of, read_head, receive_more, until

pytestmark = pytest.mark.anyio

JSON = {"Accept": "application/json"}
OTHER_TOKEN = "another-token-for-the-tests"


async def away(ends: Ends) -> None:
    """Make the token known, and let its client go."""
    async with ends.join():
        pass
    await until(lambda: not ends.server.sessions())


# -- a client that is away ---------------------------------------------------------------------


async def test_after_a_start_a_request_waits_for_a_client_that_nobody_announced() -> None:
    async with open_ends() as ends, anyio.create_task_group() as group:
        call = ends.call(group, "/echo/x", method="POST", body=b"early")
        await ends.pending(1)
        async with ends.join():
            status, _, body = await call.answer()
        assert status == 200
        assert json.loads(body)["body"] == "early"


async def test_the_wait_after_a_start_ends() -> None:
    async with open_ends(limits=replace(SHORT, startup_wait=0.3)) as ends:
        start = anyio.current_time()
        problem = problem_of(await ask(ends.port, ends.path("/x")))
        assert (problem["status"], problem["code"]) == (404, "no_tunnel")
        assert anyio.current_time() - start < 10


async def test_an_unknown_token_is_404_at_once_after_the_start() -> None:
    async with open_tunnel(limits=replace(SHORT, startup_wait=0)) as tunnel:
        problem = problem_of(await ask(tunnel.port, f"/_token/{OTHER_TOKEN}/x"))
        assert (problem["status"], problem["code"]) == (404, "no_tunnel")
        assert OTHER_TOKEN not in json.dumps(problem)


async def test_with_listed_tokens_only_an_unlisted_one_is_404_at_once() -> None:
    async with open_ends(known_tokens=[TOKEN], known_tokens_only=True) as ends, anyio.create_task_group() as group:
        problem = problem_of(await ask(ends.port, f"/_token/{OTHER_TOKEN}/x"))
        assert (problem["status"], problem["code"]) == (404, "no_tunnel")
        call = ends.call(group, "/echo")
        await ends.pending(1)
        async with ends.join():
            assert await call.status() == 200


async def test_a_token_stays_known_when_its_client_left() -> None:
    async with open_ends(limits=replace(SHORT, startup_wait=0)) as ends, anyio.create_task_group() as group:
        await away(ends)
        call = ends.call(group, "/echo")
        await ends.pending(1)
        async with ends.join():
            assert await call.status() == 200


async def test_a_token_is_unknown_again_after_its_time() -> None:
    async with open_ends(limits=replace(SHORT, startup_wait=0, known_token_time=0.001)) as ends:
        await away(ends)
        await until(lambda: not ends.server.sessions())
        assert (await ask(ends.port, ends.path("/x")))[0] == 404


async def test_requests_of_a_detached_session_wait_for_its_resume() -> None:
    async with open_tunnel(relay=True, limits=SHORT) as tunnel, anyio.create_task_group() as group:
        assert tunnel.relay is not None
        tunnel.relay.refusing = True
        tunnel.relay.cut()
        await tunnel.detached()
        calls = [tunnel.call(group, f"/echo/{number}", method="POST", body=b"x") for number in range(5)]
        await tunnel.pending(5)
        session = tunnel.server.sessions()[0]
        tunnel.relay.refusing = False
        for call in calls:
            assert await call.status() == 200
        assert tunnel.server.sessions() == [session]
        assert len(tunnel.origin.requests) == 5


# -- order -------------------------------------------------------------------------------------

# With one stream at a time, the order of the queue is that at the origin.
ONE_STREAM = replace(SHORT, max_streams=1)


async def submit(ends: Ends, group: TaskGroup, count: int) -> list[str]:
    targets = [f"/echo/{number}" for number in range(count)]
    before = ends.server.snapshot().req_pending
    for number, target in enumerate(targets, 1):
        ends.call(group, target)
        await ends.pending(before + number)
    return targets


async def test_queued_requests_are_served_in_the_order_of_their_arrival() -> None:
    async with open_ends(limits=ONE_STREAM) as ends, anyio.create_task_group() as group:
        targets = await submit(ends, group, 10)
        async with ends.join():
            await ends.pending(0)
        assert ends.origin.targets() == targets


async def test_requests_beyond_the_streams_wait_in_order() -> None:
    async with open_tunnel(limits=ONE_STREAM) as tunnel, anyio.create_task_group() as group:
        tunnel.call(group, "/hold/x")
        await tunnel.origin.arrived("/hold/x")
        targets = await submit(tunnel, group, 10)
        tunnel.origin.release("x")
        await tunnel.pending(0)
        assert tunnel.origin.targets() == ["/hold/x", *targets]


async def test_requests_of_a_detached_session_move_in_order_to_another_that_attaches() -> None:
    async with open_tunnel(relay=True, limits=ONE_STREAM) as tunnel, anyio.create_task_group() as group:
        assert tunnel.relay is not None
        tunnel.relay.refusing = True
        tunnel.relay.cut()
        await tunnel.detached()
        targets = await submit(tunnel, group, 6)
        async with tunnel.join():
            await tunnel.pending(0)
        assert tunnel.origin.targets() == targets


# -- limits ------------------------------------------------------------------------------------


async def test_a_full_queue_is_503_with_retry_after() -> None:
    async with (
        open_ends(limits=replace(SHORT, max_requests_per_tunnel=3)) as ends,
        anyio.create_task_group() as group,
    ):
        calls = [ends.call(group, "/echo") for _ in range(3)]
        await ends.pending(3)
        answer = await ask(ends.port, ends.path("/echo"))
        problem = problem_of(answer)
        assert (problem["status"], problem["code"], problem["outcome"]) == (503, "queue_full", "never_sent")
        assert any(name == "Retry-After" and int(value) >= 1 for name, value in answer[1])
        async with ends.join():
            for call in calls:
                assert await call.status() == 200


async def test_requests_of_a_detached_session_count_as_queued() -> None:
    async with (
        open_tunnel(relay=True, limits=replace(QUICK, max_requests_per_tunnel=2)) as tunnel,
        anyio.create_task_group() as group,
    ):
        assert tunnel.relay is not None
        tunnel.relay.refusing = True
        tunnel.relay.cut()
        await tunnel.detached()
        calls = [tunnel.call(group, "/echo") for _ in range(2)]
        await tunnel.pending(2)
        assert problem_of(await ask(tunnel.port, tunnel.path("/echo")))["code"] == "queue_full"
        async with tunnel.join():
            for call in calls:
                assert await call.status() == 200


async def test_running_requests_do_not_count_as_queued() -> None:
    async with (
        open_tunnel(limits=replace(SHORT, max_requests_per_tunnel=2)) as tunnel,
        anyio.create_task_group() as group,
    ):
        calls = [tunnel.call(group, "/hold/x") for _ in range(10)]
        await tunnel.origin.until(lambda: len(tunnel.origin.requests) == 10)
        tunnel.origin.release("x")
        for call in calls:
            assert await call.status() == 200


async def test_a_queue_is_its_tokens_own() -> None:
    async with (
        open_ends(limits=replace(SHORT, max_requests_per_tunnel=1)) as ends,
        anyio.create_task_group() as group,
    ):
        ends.call(group, "/echo")
        await ends.pending(1)
        async with ends.join(token=OTHER_TOKEN):
            assert (await ask(ends.port, f"/_token/{OTHER_TOKEN}/echo"))[0] == 200
        group.cancel_scope.cancel()


# -- clocks ------------------------------------------------------------------------------------


async def timed(ends: Ends, target: str = "/echo", **fields: str) -> tuple[dict[str, object], float]:
    """The problem, and how many seconds it took."""
    start = anyio.current_time()
    answer = await ask(ends.port, ends.path(target), **fields)
    return problem_of(answer), anyio.current_time() - start


async def test_a_request_that_waited_too_long_is_504() -> None:
    async with open_ends(limits=replace(SHORT, queue_timeout=0.4)) as ends:
        problem, seconds = await timed(ends)
        assert (problem["status"], problem["code"], problem["outcome"]) == (504, "queue_timeout", "never_sent")
        assert 0.4 <= seconds < 10


async def test_a_caller_that_does_not_wait_needs_an_attached_session() -> None:
    async with open_ends() as ends:
        problem, seconds = await timed(ends, Prefer="wait=0")
        assert (problem["status"], problem["code"]) == (503, "no_client")
        assert seconds < 10
        async with ends.join():
            assert (await ask(ends.port, ends.path("/echo"), Prefer="wait=0"))[0] == 200


async def test_a_detached_session_is_no_attached_one() -> None:
    async with open_tunnel(relay=True, limits=SHORT) as tunnel:
        assert tunnel.relay is not None
        tunnel.relay.refusing = True
        tunnel.relay.cut()
        await tunnel.detached()
        problem, seconds = await timed(tunnel, Prefer="respond-async, wait=0")
        assert (problem["status"], problem["code"]) == (503, "no_client")
        assert seconds < 10


async def test_a_caller_can_shorten_its_wait() -> None:
    async with open_ends() as ends:
        problem, seconds = await timed(ends, Prefer="wait=1")
        assert (problem["status"], problem["code"]) == (504, "queue_timeout")
        assert 1 <= seconds < 10


async def test_a_caller_cannot_lengthen_its_wait() -> None:
    async with open_ends(limits=replace(SHORT, queue_timeout=0.3)) as ends:
        problem, seconds = await timed(ends, Prefer="wait=60")
        assert problem["code"] == "queue_timeout"
        assert seconds < 10


async def test_the_wait_that_a_caller_prefers_is_no_bound_on_its_answer() -> None:
    async with open_tunnel() as tunnel, anyio.create_task_group() as group:
        call = tunnel.call(group, "/hold/x", fields={"Prefer": "wait=1"})
        await tunnel.origin.arrived("/hold/x")
        with anyio.move_on_after(1.3):
            await call.answer()
        assert not call.ended
        tunnel.origin.release("x")
        assert await call.status() == 200


LATE_HEAD: Limits = replace(SHORT, response_head_timeout=0.6)


async def test_an_origin_that_does_not_answer_in_time_is_504() -> None:
    async with open_tunnel(limits=LATE_HEAD) as tunnel:
        problem, seconds = await timed(tunnel, "/hold/x")
        assert (problem["status"], problem["code"], problem["outcome"]) == (504, "response_timeout", "sent")
        assert 0.6 <= seconds < 10
        arrived = tunnel.origin.requests[0]
        await tunnel.origin.until(lambda: arrived.gone)  # nobody waits for it any more


async def test_an_origin_that_takes_no_body_is_not_waited_for() -> None:
    async with open_tunnel(limits=LATE_HEAD) as tunnel, tunnel.caller() as stream:
        size = 50_000_000
        head = f"POST {tunnel.path('/stall')} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n"
        await stream.send(head.encode())
        async with anyio.create_task_group() as group:
            group.start_soon(stream.send, b"x" * size)
            with anyio.fail_after(10):
                assert (await read_head(stream))[0] == 504
            group.cancel_scope.cancel()
        tunnel.origin.release("stall")


async def test_an_answer_that_has_begun_may_take_its_time() -> None:
    async with open_tunnel(limits=LATE_HEAD) as tunnel, tunnel.caller() as stream:
        await stream.send(f"GET {tunnel.path('/sse')} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        _, _, data = await read_head(stream)
        with anyio.move_on_after(1):
            data += await stream.receive()
        assert data == b""
        for number in range(5):
            tunnel.origin.release(f"event{number}")
        while not data.endswith(b"0\r\n\r\n"):
            data += await receive_more(stream)


@pytest.mark.parametrize("size", [10, 30_000])
async def test_the_clock_starts_anew_when_the_origin_takes_body_bytes(size: int) -> None:
    limits = replace(SHORT, response_head_timeout=1.2)
    async with open_tunnel(limits=limits) as tunnel, tunnel.caller() as stream:
        await stream.send(
            f"POST {tunnel.path('/sink')} HTTP/1.1\r\nHost: a\r\nContent-Length: {4 * size}\r\n\r\n".encode()
        )
        arrived = await tunnel.origin.arrived("/sink")
        for number in range(4):
            await anyio.sleep(0.35)  # longer in all than the clock allows, shorter each
            await stream.send(b"x" * size)
            await tunnel.origin.until(lambda taken=(number + 1) * size: arrived.body_size == taken)
        with anyio.fail_after(10):
            assert (await read_head(stream))[0] == 200


# -- callers that leave ------------------------------------------------------------------------


async def test_a_caller_that_left_while_queued_never_reaches_the_origin() -> None:
    async with open_ends() as ends, anyio.create_task_group() as group:
        ghosts = [ends.call(group, "/ghost", method="DELETE") for _ in range(3)]
        await ends.pending(3)
        stays = ends.call(group, "/stays")
        await ends.pending(4)
        for call in ghosts:
            call.leave()
        await ends.pending(1)
        async with ends.join():
            assert await stays.status() == 200
        assert ends.origin.targets() == ["/stays"]


async def test_a_caller_that_left_a_detached_session_never_reaches_the_origin() -> None:
    async with open_tunnel(relay=True, limits=SHORT) as tunnel, anyio.create_task_group() as group:
        assert tunnel.relay is not None
        tunnel.relay.refusing = True
        tunnel.relay.cut()
        await tunnel.detached()
        ghost = tunnel.call(group, "/ghost", method="DELETE")
        stays = tunnel.call(group, "/stays")
        await tunnel.pending(2)
        ghost.leave()
        await tunnel.pending(1)
        tunnel.relay.refusing = False
        assert await stays.status() == 200
        assert tunnel.origin.targets() == ["/stays"]


async def test_the_place_of_a_caller_that_left_is_free() -> None:
    async with (
        open_ends(limits=replace(SHORT, max_requests_per_tunnel=1)) as ends,
        anyio.create_task_group() as group,
    ):
        ghost = ends.call(group, "/ghost")
        await ends.pending(1)
        ghost.leave()
        await ends.pending(0)
        stays = ends.call(group, "/stays")
        await ends.pending(1)
        async with ends.join():
            assert await stays.status() == 200


# -- bodies ------------------------------------------------------------------------------------

SIZE = 20_000_000


async def test_the_body_of_a_queued_request_is_left_with_its_caller() -> None:
    """What a caller gets rid of while it waits is 64 KiB of ours, and what two kernels hold."""
    body = b"0123456789abcdef" * (SIZE // 16)
    async with (
        open_ends() as ends,
        anyio.create_task_group() as group,
        await anyio.connect_tcp("127.0.0.1", ends.port) as stream,
    ):
        stream.extra(SocketAttribute.raw_socket).setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        head = f"POST {ends.path('/sink')} HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n"
        await stream.send(head.encode())
        await ends.pending(1)
        sent = 0

        async def send() -> None:
            nonlocal sent
            for start in range(0, SIZE, 16_000):
                await stream.send(body[start : start + 16_000])
                sent = start + 16_000

        group.start_soon(send)
        before = -1
        while before != sent:  # until it stands still
            before = sent
            await anyio.sleep(0.3)
        assert sent < SIZE / 4
        async with ends.join():
            data = b""
            while b"}" not in data:
                data += await stream.receive()
        assert hashlib.sha256(body).hexdigest().encode() in data


async def test_a_queued_body_arrives_whole() -> None:
    body = b"0123456789abcdef" * 50_000
    async with open_ends() as ends, anyio.create_task_group() as group:
        call = ends.call(group, "/sink", method="PUT", body=body)
        await ends.pending(1)
        async with ends.join():
            _, _, answer = await call.answer()
        assert json.loads(answer) == {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
