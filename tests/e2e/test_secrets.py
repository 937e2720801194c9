"""No secret in what is logged, told or shown, whatever goes wrong (SECURITY.md).

Every secret of these tests holds the word SECRET, and none of what may be shown does: not the first 8 characters of a
token, and no target. What callers and origins say to each other passes, and is nobody else's to see.
"""

from __future__ import annotations

import json
import logging
import traceback
from base64 import b64encode
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup

from tunnelkit import RegistrationRefused, TunnelClient
from tunnelkit.errors import StreamBroken
from tunnelkit.logs import JsonFormatter, TextFormatter
from tunnelkit.net.dial import connect_tcp
from tunnelkit.testing.relay import serve_relay

from . import proxies
from .proxies import USER, serve_http_proxy
from .tunnel import QUICK, Ends, exchange, open_ends, until

pytestmark = pytest.mark.anyio

WORD = "SECRET"
TOKEN = "token-1-SECRET-of-callers"
OTHER = "token-2-SECRET-of-callers"
UNKNOWN = "token-3-SECRET-of-nobody"
PASSWORD = "password-SECRET"
ADMIN = "admin-SECRET"
PROXY = "proxy-SECRET"
BASIC = "origin-SECRET"
COOKIE = "session=SECRET"

# What a caller says to the origin, and the origin to it, is theirs alone.
CREDENTIALS: dict[str, Any] = {"Authorization": f"Bearer {BASIC}", "Cookie": COOKIE, "X-Api-Key": BASIC}


def spellings(secret: str) -> list[str]:
    """As Basic authentication spells it, wherever it stands in its group of three bytes."""
    return [b64encode(bytes(shift) + secret.encode()).decode()[4:-4] for shift in range(3)]


NEEDLES = [WORD, *(text for secret in (TOKEN, OTHER, PASSWORD, ADMIN, PROXY, BASIC) for text in spellings(secret))]


class Shown:
    """All that anybody could see."""

    def __init__(self, log: pytest.LogCaptureFixture, ends: Ends) -> None:
        self.log = log
        self.ends = ends
        self.texts: list[str] = []
        self.statuses: list[int] = []

    def add(self, *things: object) -> None:
        for thing in things:
            self.texts += [str(thing), repr(thing)]
            if isinstance(thing, BaseException):
                self.texts += traceback.format_exception(thing)

    async def ask(self, target: str, *, method: str = "GET", body: bytes = b"", **fields: str) -> int:
        """A request whose answer is not the origin's."""
        given = {"Prefer": "wait=0"} | {name.replace("_", "-"): value for name, value in fields.items()}
        status, answer, content = await exchange(self.ends.port, method, target, fields=given, body=body)
        self.add(answer, content)
        self.statuses.append(status)
        return status

    async def raw(self, data: str) -> None:
        """Bytes that may be no request; the answer, which comes in one piece, if there is one."""
        stream = await connect_tcp("127.0.0.1", self.ends.port, timeout=5)
        try:
            await stream.send(data.encode("latin-1"))
            with anyio.fail_after(10):
                self.add(await stream.receive())
        except StreamBroken as error:
            self.add(error)
        finally:
            stream.abort()

    async def listen(self, client: TunnelClient, group: TaskGroup) -> None:
        events = client.events()

        async def keep() -> None:
            async for event in events:
                self.add(event)

        group.start_soon(keep)

    def check(self) -> None:
        texts = list(self.texts)
        for record in self.log.records:
            texts += [formatter.format(record) for formatter in (TextFormatter(), JsonFormatter())]
            texts += [record.getMessage(), json.dumps(record.__dict__, default=repr)]
        found = [text for text in texts if any(needle in text for needle in NEEDLES)]
        assert not found, found[:5]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG)
    return caplog


def server_options(**more: Any) -> dict[str, Any]:
    return {"passwords": {TOKEN: PASSWORD, OTHER: PASSWORD}, "admin_password": ADMIN, "limits": QUICK} | more


async def refused(shown: Shown, **options: Any) -> None:
    with pytest.raises(RegistrationRefused) as caught:
        async with shown.ends.join(**options):
            raise AssertionError("never ready")
    shown.add(caught.value)


async def test_what_callers_provoke(log: pytest.LogCaptureFixture) -> None:
    async with (
        open_ends(**server_options()) as ends,
        ends.join(token=TOKEN, password=PASSWORD, allow=[".*"], origin="http://127.0.0.1:1") as client,
        ends.join(token=OTHER, password=PASSWORD) as other,
        anyio.create_task_group() as group,
    ):
        shown = Shown(log, ends)
        path, alive = f"/_token/{TOKEN}", f"/_token/{OTHER}"
        await shown.listen(client, group)
        await shown.ask(f"{path}/x", **CREDENTIALS)  # the origin is not there
        await shown.ask("/x", X_Token=TOKEN, **CREDENTIALS)
        await shown.ask(f"/_token/{UNKNOWN}/x")
        await shown.ask("/x", X_Token=UNKNOWN)
        await shown.ask("/x", X_Token="a b " + TOKEN)
        for target in (path, f"{path}?a", f"/{path}/x", f"/a{path}/x", f"{path}%2fx", "/_tunnel", "/_tunnel/x"):
            await shown.ask(target, Accept="application/json", **CREDENTIALS)
        for host in (f"http://u:{BASIC}@a.test", f"http://{BASIC}@a.test", f"http://u:{BASIC}@127.0.0.1:1/"):
            assert await shown.ask(f"{path}/x", X_Host=host) == 400
        ends.origin.raw["nonsense"] = f"nonsense {COOKIE}\r\n\r\n".encode()
        ends.origin.raw["fields"] = f"HTTP/1.1 200 OK\r\nSet-Cookie : {COOKIE}\r\nContent-Length: x\r\n\r\n".encode()
        for name in ends.origin.raw:
            assert await shown.ask(f"{alive}/raw/{name}", **CREDENTIALS) == 502
        fields = "".join(f"{name}: {value}\r\n" for name, value in CREDENTIALS.items())
        for request in (
            f"GET {path}/x HTTP/9.9\r\nHost: a\r\n{fields}\r\n",
            f"GET {path}/x HTTP/1.1\r\n{fields}\r\n",
            f"GET {path}/x HTTP/1.1\r\nHost: a\r\nCookie : {COOKIE}\r\n\r\n",
            f"GET {path}/x HTTP/1.1\r\nHost: a\r\nCookie: {COOKIE}\x01\r\n\r\n",
            f"GET {path}/x HTTP/1.1\r\nHost: a\r\nX-Token: {OTHER}\r\nX-Token: {TOKEN}\r\n\r\n",
            f"GET {path}/x HTTP/1.1\r\nHost: u:{BASIC}@a\r\n\r\n",
            f"GET http://u:{BASIC}@a{path}/x HTTP/1.1\r\nHost: a\r\n\r\n",
            f"GET {path}/x HTTP/1.1\r\nHost: a\r\nContent-Length: {BASIC}\r\n\r\n",
            f"POST {path}/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{BASIC}\r\n",
            f"GET {path}/{'x' * 70_000} HTTP/1.1\r\nHost: a\r\n\r\n",
            f"GET {path}/x HTTP/1.1\r\nHost: a\r\nCookie: {COOKIE * 10_000}\r\n\r\n",
            f"CONNECT {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n",
            f"TRACE {path}/x HTTP/1.1\r\nHost: a\r\n{fields}\r\n",
            f"{BASIC} {path}\r\n\r\n",
            f"\x16\x03\x01{TOKEN}\r\n\r\n",
        ):
            await shown.raw(request)
        shown.add(ends.server, client, other, *ends.server.sessions(), ends.server.snapshot())
        shown.add(client.masked_url)
        await ends.server.reload()
        group.cancel_scope.cancel()
    assert {400, 404, 502} <= set(shown.statuses)
    shown.check()


@pytest.mark.ways("auto")  # by CONNECT, which plain long-poll does not ask proxies for
async def test_what_the_link_goes_through(log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxies, "PASSWORD", PROXY)
    async with (
        open_ends(**server_options()) as ends,
        serve_relay(ends.port) as relay,
        serve_http_proxy(ends.port) as proxy,
    ):
        shown = Shown(log, ends)
        await refused(shown, token=TOKEN, password=f"wrong-{PASSWORD}")
        await refused(shown, token=TOKEN)
        through = f"http://{USER}:{{}}@127.0.0.1:{proxy.port}"
        url = f"ws://{USER}:{BASIC}@tunnel.example.com"
        wrong = TunnelClient(
            url, token=TOKEN, password=PASSWORD, origin="http://127.0.0.1:1", proxy=through.format(f"no-{PROXY}")
        )
        async with anyio.create_task_group() as group, wrong:
            await shown.listen(wrong, group)
            await until(lambda: wrong._supervisor.trouble)
            with pytest.raises(TimeoutError) as caught:
                await wrong.wait_ready(0.01)
            shown.add(caught.value, wrong)
            group.cancel_scope.cancel()
        async with (
            anyio.create_task_group() as group,
            ends.join(via=relay, token=TOKEN, password=PASSWORD) as one,
            ends.join(url=url, proxy=through.format(PROXY), token=OTHER, password=PASSWORD) as two,
        ):
            for client in (one, two):
                await shown.listen(client, group)
            group.start_soon(
                exchange,
                ends.port,
                "GET",
                f"/_token/{TOKEN}/hold/x",
            )
            await ends.origin.arrived("/hold/x")
            relay.cut()
            await exchange(ends.port, "GET", f"/_token/{TOKEN}/echo")
            ends.origin.release("x")
            shown.add(ends.server, one, two, *ends.server.sessions(), ends.server.snapshot())
            group.cancel_scope.cancel()
        with pytest.raises(RegistrationRefused, match="superseded") as superseded:
            await supersede(shown)
        shown.add(one, two, superseded.value)
    shown.check()


async def supersede(shown: Shown) -> None:
    """Two clients of one instance: the server ends the older one."""
    same: dict[str, Any] = {"token": TOKEN, "password": PASSWORD, "instance": "same"}
    with anyio.fail_after(20):
        async with shown.ends.join(**same) as older, shown.ends.join(**same) as newer:
            shown.add(older, newer)
            await anyio.sleep_forever()


async def test_statistics(log: pytest.LogCaptureFixture) -> None:
    async with open_ends(**server_options(admin_listen="127.0.0.1:0")) as ends:
        shown = Shown(log, ends)
        admin = int(ends.server.admin_urls[0].rpartition(":")[2])
        async with ends.join(token=TOKEN, password=PASSWORD) as client, anyio.create_task_group() as group:
            group.start_soon(exchange, ends.port, "GET", f"/_token/{TOKEN}/hold/x")
            await ends.origin.arrived("/hold/x")
            right, wrong = (b64encode(f"a:{word}".encode()).decode() for word in (ADMIN, f"wrong-{ADMIN}"))
            for accept in ("text/plain", "application/json"):
                for port in (ends.port, admin):
                    for credentials in (right, wrong):
                        fields = {"Accept": accept, "Authorization": f"Basic {credentials}"}
                        status, answer, body = await exchange(port, "GET", "/_stats", fields=fields)
                        assert status == 200
                        shown.add(answer, body)
            shown.add(client)
            ends.origin.release("x")
    assert any("token-1-" in text for text in shown.texts)
    shown.check()


async def test_what_the_origin_is_told(log: pytest.LogCaptureFixture) -> None:
    """Everything that the caller says to it, and nothing of the tunnel's own."""
    async with open_ends(**server_options()) as ends, ends.join(token=TOKEN, password=PASSWORD):
        referer = f"http://127.0.0.1:{ends.port}/_token/{TOKEN}/page?a"
        fields = {"X-Token": TOKEN, "Referer": referer, "Authorization": "Bearer mine"}
        await exchange(ends.port, "GET", f"/_token/{TOKEN}/echo", fields=fields)
        (arrived,) = ends.origin.requests
        assert arrived.values("Referer") == [f"http://127.0.0.1:{ends.port}/page?a"]
        assert arrived.values("Authorization") == ["Bearer mine"]
        assert WORD not in repr(arrived)
