"""The inspector at either end of a whole tunnel, and its page as a program sees it."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import pytest

from tunnelkit import ConfigError, Request, Response
from tunnelkit.inspector import Inspected, Inspector, NotReplayed
from tunnelkit.inspector_page import serve_inspector
from tunnelkit.net.dial import connect_tcp

from .tunnel import TOKEN, Answer, Ends, exchange, open_ends, read_head, until

pytestmark = pytest.mark.anyio

Open: TypeAlias = Callable[..., Any]
EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.fixture(params=["server", "client"])
def opened(request: pytest.FixtureRequest) -> Open:
    """Makes a tunnel with an inspector at one end."""

    @asynccontextmanager
    async def make(inspector: Inspector, **options: Any) -> AsyncIterator[Ends]:
        at_server: dict[str, Any] = {"inspector": inspector} if request.param == "server" else {}
        at_client: dict[str, Any] = {"inspector": inspector} if request.param == "client" else {}
        async with open_ends(**at_server) as ends, ends.join(**at_client, **options):
            yield ends

    return make


async def over(inspector: Inspector, count: int = 1) -> Inspected:
    """The last of ``count`` exchanges, when all of them are over."""
    await until(lambda: len([each for each in inspector.exchanges if each.outcome]) == count)
    return inspector.exchanges[-1]


SECRETS = {
    "Authorization": "Bearer a-secret-value",
    "Cookie": "id=a-secret-value",
    "X_Token": "a-secret-value-of-16",
    "Referer": f"http://x.test/_token/{TOKEN}/page",
}


async def test_it_keeps_exchanges_with_heads_bodies_and_times(opened: Open) -> None:
    inspector = Inspector()
    async with opened(inspector) as ends:
        path = ends.path("/echo?a=1")
        status, _, body = await exchange(ends.port, "POST", path, fields={"X_One": "1"}, body=b"hello")
        kept = await over(inspector)
    assert (kept.method, kept.target, kept.status, kept.outcome) == ("POST", "/echo?a=1", status, "complete")
    assert ("X-One", "1") in kept.fields
    assert (kept.body.data, kept.answer_body.data) == (b"hello", body)
    assert 0 <= kept.answered <= kept.seconds < 20


async def test_secrets_are_redacted(opened: Open) -> None:
    inspector = Inspector()
    async with opened(inspector) as ends:
        await exchange(ends.port, "GET", ends.path("/"), fields=SECRETS)
        kept = await over(inspector)
    shown = [kept.target, repr(kept), repr(kept.fields), repr(kept.answer_fields), json.dumps(inspector.har()["log"])]
    bodies = kept.answer_body.data.decode()  # the origin's own words, which are shown as they are
    assert "a-secret-value" in bodies
    kept.answer_body._kept.clear()
    shown[-1] = json.dumps(inspector.har()["log"])
    for text in shown:
        assert "a-secret-value" not in text
        assert TOKEN not in text


async def test_it_is_bounded_by_count_and_bytes(opened: Open) -> None:
    few, small = Inspector(exchanges=2), Inspector(total_bytes=20_000, body_bytes=1_000)
    async with opened(few) as ends:
        for number in range(4):
            await ends.get(f"/{number}")
        assert (await over(few, 2)).target == "/3"
        assert [each.target for each in few.exchanges] == ["/2", "/3"]
    async with opened(small) as ends:
        for _ in range(30):
            await ends.get("/bytes/5000")
        await until(lambda: small.exchanges[-1].outcome)
        assert 0 < len(small.exchanges) < 15
        body = small.exchanges[-1].answer_body
        assert (body.kept, body.size, body.whole) == (1_000, 5_000, False)
        assert small._size <= 20_000


async def test_what_it_does_not_keep_any_more_holds_no_bodies(opened: Open) -> None:
    """Neither those that run on, nor those that a listener was not told of yet."""
    inspector = Inspector(exchanges=1)
    async with opened(inspector) as ends, anyio.create_task_group() as group:
        news = aiter(inspector)
        held = ends.call(group, "/hold/x", method="POST", body=b"x" * 1000)
        await until(lambda: inspector.exchanges and inspector.exchanges[0].body.kept == 1000)
        [running] = inspector.exchanges
        await ends.get("/bytes/5000")
        ends.origin.release("x")
        assert (await held.answer())[0] == 200
        await until(lambda: running.outcome)
        assert (running.body.size, running.body.kept, running.answer_body.kept) == (1000, 0, 0)
        assert not running._head.fields
        assert await anext(news) is running


async def test_it_is_an_async_iterator(opened: Open) -> None:
    inspector = Inspector()
    async with opened(inspector) as ends:
        news = aiter(inspector)
        await ends.get("/echo")
        seen = [await anext(news)]
        while not seen[-1].outcome:
            seen.append(await anext(news))
    assert {each.number for each in seen} == {1}


async def test_it_exports_har(opened: Open) -> None:
    inspector = Inspector()
    async with opened(inspector) as ends:
        await exchange(ends.port, "POST", ends.path("/echo?a=1"), body=b"\xff\xfe")
        await over(inspector)
    log: Any = json.loads(json.dumps(inspector.har()))["log"]
    (entry,) = log["entries"]
    assert (log["version"], log["creator"]["name"]) == ("1.2", "tunnelkit")
    assert {"startedDateTime", "time", "request", "response", "cache", "timings"} <= set(entry)
    assert entry["request"]["queryString"] == [{"name": "a", "value": "1"}]
    assert entry["request"]["url"].endswith("/echo?a=1")
    assert (entry["request"]["postData"]["text"], entry["request"]["postData"]["comment"]) == ("//4=", "base64")
    assert (entry["response"]["status"], entry["response"]["content"]["size"] > 0) == (200, True)


async def test_it_replays_an_exchange_through_the_tunnel(opened: Open) -> None:
    bodies: list[tuple[bytes, str | None]] = []

    async def app(request: Request) -> Response:
        bodies.append((await request.read(), request.header("authorization")))
        return Response(200, [], "fine")

    inspector = Inspector()
    async with opened(inspector, origin=app) as ends:
        fields = {"Authorization": "Bearer a-secret-value"}
        await exchange(ends.port, "POST", ends.path("/a"), fields=fields, body=b"hello")
        first = await over(inspector)
        await inspector.replay(first.number)
        again = await over(inspector, 2)
    assert bodies == [(b"hello", "Bearer a-secret-value")] * 2
    assert (again.number, again.method, again.target, again.status) == (2, "POST", "/a", 200)
    assert again.body.data == b"hello"


async def test_what_cannot_be_replayed_says_so(opened: Open) -> None:
    inspector = Inspector(body_bytes=3)
    async with opened(inspector) as ends:
        await exchange(ends.port, "GET", ends.path("/"))
        short = await over(inspector)
        await exchange(ends.port, "POST", ends.path("/echo"), body=b"hello")
        long = await over(inspector, 2)
        with pytest.raises(NotReplayed, match="whole"):
            await inspector.replay(long.number)
        with pytest.raises(NotReplayed, match="not kept"):
            await inspector.replay(99)
    with pytest.raises(NotReplayed, match=r"does not run|cannot be reached"):
        await inspector.replay(short.number)


async def test_a_request_that_its_caller_broke_off_is_not_replayed_as_if_it_were_whole(opened: Open) -> None:
    inspector = Inspector()
    async with opened(inspector) as ends:
        async with await anyio.connect_tcp("127.0.0.1", ends.port) as caller:
            head = f"POST {ends.path('/echo')} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            await caller.send(head.encode() + b"5\r\nfirst\r\n")
            await until(lambda: inspector.exchanges and inspector.exchanges[0].body.size)
        kept = await over(inspector)
        assert (kept.outcome, kept.body.data) == ("incomplete", b"first")
        with pytest.raises(NotReplayed, match="whole"):
            await inspector.replay(kept.number)


async def test_what_still_runs_is_not_replayed_and_says_that(opened: Open) -> None:
    inspector, asked = Inspector(), anyio.Event()

    async def endless(request: Request) -> Response:
        asked.set()
        await anyio.sleep_forever()
        raise AssertionError

    async with opened(inspector, origin=endless) as ends, anyio.create_task_group() as tasks:
        tasks.start_soon(exchange, ends.port, "GET", ends.path("/"))
        with anyio.fail_after(10):
            await asked.wait()
        with pytest.raises(NotReplayed, match="not over yet"):
            await inspector.replay(inspector.exchanges[0].number)
        tasks.cancel_scope.cancel()


async def test_bodies_stream_past_it_and_callers_that_leave_are_told(opened: Open) -> None:
    inspector = Inspector()
    async with opened(inspector) as ends, anyio.create_task_group() as group:
        call = ends.call(group, "/hold/x")
        await ends.origin.until(lambda: len(ends.origin.requests) == 1)
        call.leave()
        assert (await over(inspector)).outcome == "incomplete"


# -- its page ----------------------------------------------------------------------------------


@asynccontextmanager
async def page_of(inspector: Inspector) -> AsyncIterator[int]:
    """The page's port."""
    async with anyio.create_task_group() as group:
        url: str = await group.start(serve_inspector, inspector, "127.0.0.1:0")
        yield int(url.rpartition(":")[2])
        group.cancel_scope.cancel()


async def ask(port: int, target: str, method: str = "GET", *, host: str = "", **fields: str) -> Answer:
    return await exchange(port, method, target, host=host or f"127.0.0.1:{port}", fields=fields)


async def test_the_page_is_one_file_with_a_policy_that_lets_nothing_else_in() -> None:
    async with page_of(Inspector()) as port:
        status, fields, body = await ask(port, "/")
    policy = dict(fields)["Content-Security-Policy"]
    assert status == 200
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert b"http://" not in body
    assert b"https://" not in body
    assert b" src=" not in body


@pytest.mark.parametrize(
    ("host", "fields"),
    [
        ("rebound.example", {}),
        ("", {"Origin": "https://evil.example"}),
        ("", {"Sec_Fetch_Site": "cross-site"}),
    ],
)
async def test_the_page_refuses_others(host: str, fields: dict[str, str]) -> None:
    async with page_of(Inspector()) as port:
        for target in ("/", "/exchanges", "/events", "/har"):
            assert (await ask(port, target, host=host, **fields))[0] == 403


async def test_the_page_is_served_on_loopback_alone() -> None:
    for listen in ("0.0.0.0:0", "*:0", "192.0.2.1:80"):
        with pytest.raises(ConfigError, match="loopback"):
            await serve_inspector(Inspector(), listen)


async def test_the_page_lists_shows_and_replays(opened: Open) -> None:
    inspector = Inspector()
    async with opened(inspector) as ends, page_of(inspector) as port:
        await ends.get("/echo")
        await over(inspector)
        (row,) = json.loads((await ask(port, "/exchanges"))[2])
        assert (row["method"], row["target"], row["status"], row["outcome"]) == ("GET", "/echo", 200, "complete")
        detail = json.loads((await ask(port, f"/exchanges/{row['number']}"))[2])
        assert detail["answer_body"]["size"] == detail["answer_body"]["kept"] == row["sent"]
        replay = f"/exchanges/{row['number']}/replay"
        assert (await ask(port, replay, "POST"))[0] == 403, "a plain form of another page could send that"
        assert (await ask(port, replay, "POST", X_Tunnelkit_Inspector="1"))[0] == 204
        assert (await over(inspector, 2)).target == "/echo"
        assert json.loads((await ask(port, "/har"))[2])["log"]["version"] == "1.2"
        for none in ("99", "x", "9" * 5000):
            assert (await ask(port, f"/exchanges/{none}"))[0] == 404
        assert (await ask(port, "/exchanges/99/replay", "POST", X_Tunnelkit_Inspector="1"))[0] == 404
        assert (await ask(port, "/clear", "POST", X_Tunnelkit_Inspector="1"))[0] == 204
        assert json.loads((await ask(port, "/exchanges"))[2]) == []


async def test_the_page_is_told_live_by_server_sent_events() -> None:
    inspector = Inspector()
    async with open_ends(inspector=inspector) as ends, ends.join(), page_of(inspector) as port:
        stream = await connect_tcp("127.0.0.1", port, timeout=5)
        await stream.send(f"GET /events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        status, fields, data = await read_head(stream)
        assert (status, dict(fields)["Content-Type"]) == (200, "text/event-stream")
        await ends.get("/echo")
        while b'"outcome":"complete"' not in data:
            data += await stream.receive()
        assert b'"target":"/echo"' in data
        stream.abort()
        await until(lambda: not inspector._listeners)


async def test_the_example_serves_the_page() -> None:
    arguments = ["--token", TOKEN, "--plain", "--inspect", "127.0.0.1:0"]
    async with open_ends() as ends:
        flags = ["--tunnel", ends.server.url, "--server", ends.origin.url, *arguments]
        command = [sys.executable, "-u", str(EXAMPLES / "tunnel_client.py"), *flags]
        async with await anyio.open_process(command, stderr=None) as process:
            assert process.stdout is not None
            said = b""
            while said.count(b"\n") < 2:
                said += await process.stdout.receive()
            url = said.decode().split("inspect ")[1].splitlines()[0]
            await ends.get("/echo")
            status, _, body = await ask(int(url.rpartition(":")[2]), "/exchanges")
            process.terminate()
        assert (status, json.loads(body)[0]["target"]) == (200, "/echo")


async def test_the_example_refuses_a_public_address() -> None:
    flags = ["--tunnel", "ws://127.0.0.1:9", "--token", TOKEN, "--server", "http://127.0.0.1:9"]
    command = [sys.executable, str(EXAMPLES / "tunnel_client.py"), *flags, "--inspect", "0.0.0.0:0"]
    done = await anyio.run_process(command, check=False)
    assert done.returncode == 2
    assert b"loopback" in done.stderr
    assert b"Traceback" not in done.stderr
