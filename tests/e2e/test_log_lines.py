"""The four lines of a request, and that no record holds a secret (docs/logs.md)."""

from __future__ import annotations

import json
import logging
from typing import Any

import anyio
import pytest

from tunnelkit import RegistrationRefused
from tunnelkit.core.tokens import token_digest
from tunnelkit.request_events import RequestFinished, RequestStarted
from tunnelkit.testing.relay import serve_relay

from .proxies import PASSWORD as PROXY_PASSWORD
from .proxies import USER, serve_forward_proxy, serve_http_proxy
from .tunnel import QUICK, TOKEN, ask, exchange, open_ends, open_tunnel, until
from .ways import Way

pytestmark = pytest.mark.anyio

PASSWORD = "the-password-of-this-token"
OTHER_TOKEN = "another-token-for-the-tests"
MASKED = f"{TOKEN[:8]}...#{token_digest(TOKEN).hex()[:6]}"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG)
    return caplog


def events(log: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, Any]]]:
    """The structured lines of requests: name and fields."""
    return [(record.__dict__["event"], dict(record.__dict__["fields"])) for record in access(log)]


def access(log: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in log.records if record.name == "tunnelkit.access"]


async def returned(log: pytest.LogCaptureFixture, count: int = 1) -> None:
    """The caller may have its answer before the last line is written."""
    await until(lambda: sum(name == "HTTP RET" for name, _ in events(log)) == count)


async def test_a_request_in_four_lines(log: pytest.LogCaptureFixture) -> None:
    async with open_tunnel(client_options={"allow": [".*"]}) as tunnel:
        target = tunnel.path("/bytes/1234?q=1")
        await exchange(tunnel.port, "GET", target, fields={"X-Host": tunnel.origin.url})
        await returned(log)
        session = tunnel.server.sessions()[0].id[:8]
        common = {"pkg": "tunnelkit.server", "token": MASKED, "id": 1}
        (rcv, rcv_fields), (snd, snd_fields), (ans, ans_fields), (ret, ret_fields) = events(log)
        assert [rcv, snd, ans, ret] == ["HTTP RCV", "WS   SND", "WS   RCV", "HTTP RET"]
        url = f"/_token/{TOKEN[:8]}.../bytes/1234?q=1"
        x_host = tunnel.origin.url.encode()
        assert rcv_fields == common | {
            "verb": b"GET",
            "url": url,
            "addr": "127.0.0.1",
            "x-host": x_host,
            "try": None,
        }
        assert snd_fields == common | {"info": "GET /bytes/1234?q=1", "ws": session, "try": None}
        assert ans_fields == common | {"ws": session, "len": 1234}
        assert ret_fields.pop("ms") < 5000
        assert ret_fields == common | {"status": 200, "bytes": 1234, "outcome": "answered"}
    levels = {
        record.__dict__["event"]: record.levelname for record in log.records if record.name == "tunnelkit.access"
    }
    assert levels == {"HTTP RCV": "INFO", "WS   SND": "DEBUG", "WS   RCV": "DEBUG", "HTTP RET": "INFO"}


async def test_a_request_that_waits_has_its_first_line(log: pytest.LogCaptureFixture) -> None:
    async with open_ends() as ends, anyio.create_task_group() as group:
        group.start_soon(ask, ends.port, f"/_token/{TOKEN}/x")
        await until(lambda: [name for name, _ in events(log)] == ["HTTP RCV"])
        group.cancel_scope.cancel()


async def test_a_handler_that_fails_leaves_no_exchange_behind(log: pytest.LogCaptureFixture) -> None:
    class Fails(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("the disk is full")

    fails = Fails(logging.INFO)
    async with open_tunnel() as tunnel:
        logging.getLogger("tunnelkit.access").addHandler(fails)
        try:
            via = ", ".join(["1.1 tunnelkit"] * 5)
            status, _, _ = await exchange(tunnel.port, "GET", tunnel.path("/x"), fields={"Via": via})
        finally:
            logging.getLogger("tunnelkit.access").removeHandler(fails)
        assert status >= 500
        with anyio.fail_after(10):
            await tunnel.pending(0)
        assert (await tunnel.get("/echo"))[0] == 200


async def test_the_lines_as_text(log: pytest.LogCaptureFixture) -> None:
    async with open_tunnel() as tunnel:
        await tunnel.get("/status/404")
        await returned(log)
    lines = [record.getMessage() for record in access(log)]
    head = f"pkg=tunnelkit.server token={MASKED} id=1 "
    assert lines[0].startswith(f"HTTP RCV      {head}verb=GET url=/_token/{TOKEN[:8]}.../status/404 addr=127.0.0.1")
    assert lines[1].startswith(f'WS   SND      {head}info="GET /status/404" ws=n0-')
    assert lines[2].startswith(f"WS   RCV      {head}ws=n0-")
    assert lines[3].startswith(f"HTTP RET      {head}status=404 bytes=0 ms=")
    assert lines[3].endswith("outcome=answered")


async def test_the_address_that_counts_behind_a_trusted_proxy(log: pytest.LogCaptureFixture) -> None:
    async with open_tunnel(server_options={"trusted_proxies": ["127.0.0.1"]}) as tunnel:
        await exchange(tunnel.port, "GET", tunnel.path("/echo"), fields={"X-Forwarded-For": "192.0.2.7"})
    assert events(log)[0][1]["addr"] == "192.0.2.7"


async def test_a_request_that_is_refused_before_it_goes_anywhere(log: pytest.LogCaptureFixture) -> None:
    """It runs in a loop: the lines, the numbers and the events say what its caller was told."""
    async with open_tunnel() as tunnel:
        heard = tunnel.server.events(requests=True)
        via = ", ".join(["1.1 tunnelkit"] * 5)
        status, _, _ = await exchange(tunnel.port, "GET", tunnel.path("/x"), fields={"Via": via})
        assert status == 508
        await returned(log)
        (rcv, _), (ret, fields) = events(log)
        assert (rcv, ret) == ("HTTP RCV", "HTTP RET")
        assert (fields["status"], fields["outcome"]) == (508, "never_sent")
        told = [await anext(heard), await anext(heard)]
        assert isinstance(told[0], RequestStarted)
        assert isinstance(told[1], RequestFinished)
        assert (told[0].target, told[1].target, told[1].status) == ("/x", "/x", 508)


async def test_the_outcomes(log: pytest.LogCaptureFixture) -> None:
    async with open_tunnel(relay=True, limits=QUICK) as tunnel, anyio.create_task_group() as group:
        assert tunnel.relay is not None
        left = tunnel.call(group, "/hold/left")
        await tunnel.origin.arrived("/hold/left")
        left.leave()
        await returned(log)
        half = tunnel.call(group, "/half/200000")
        sent = tunnel.call(group, "/hold/sent")
        await tunnel.origin.arrived("/hold/sent")
        await until(lambda: sum(name == "WS   RCV" for name, _ in events(log)) == 1)
        tunnel.relay.refusing = True
        tunnel.relay.cut()
        await half.broken_off()
        assert await sent.status() == 502
        await ask(tunnel.port, tunnel.path("/x"), Prefer="wait=0")
        await returned(log, 4)
    outcomes = {
        fields["id"]: (fields["status"], fields["outcome"]) for name, fields in events(log) if name == "HTTP RET"
    }
    assert outcomes[1] == (499, "caller_gone")
    assert {outcomes[2], outcomes[3]} == {(200, "partly"), (502, "sent")}
    assert outcomes[4] == (503, "never_sent")


async def test_a_second_try_is_numbered(log: pytest.LogCaptureFixture) -> None:
    async with open_tunnel(relay=True, limits=QUICK) as tunnel, anyio.create_task_group() as group:
        assert tunnel.relay is not None
        call = tunnel.call(group, "/hold/x")
        await tunnel.origin.arrived("/hold/x")
        async with tunnel.join():
            tunnel.relay.refusing = True
            tunnel.relay.cut()
            await tunnel.origin.until(lambda: len(tunnel.origin.requests) == 2)
            tunnel.origin.release("x")
            assert await call.status() == 200
    assert [fields["try"] for name, fields in events(log) if name == "WS   SND"] == [None, 2]


async def test_no_record_holds_a_secret(log: pytest.LogCaptureFixture, way: Way) -> None:
    """Everything that is logged, and every repr, through a life with refusals, losses, a proxy and bad requests."""
    passwords = {TOKEN: PASSWORD, OTHER_TOKEN: PASSWORD}
    shown: list[str] = []
    serve_proxy = serve_forward_proxy if way in (Way.LONGPOLL, Way.STREAMED) else serve_http_proxy
    async with open_ends(passwords=passwords, limits=QUICK, admin_password=PASSWORD) as ends:
        with pytest.raises(RegistrationRefused) as caught:
            async with ends.join(password="wrong-" + PASSWORD):
                raise AssertionError("never ready")
        shown += [str(caught.value), repr(caught.value)]
        async with (
            serve_relay(ends.port) as relay,
            serve_proxy(ends.port) as proxy,
            ends.join(via=relay, password=PASSWORD) as one,
            ends.join(
                url=f"ws://{USER}:{PROXY_PASSWORD.replace('@', '%40')}@tunnel.example.com",
                proxy=f"http://{USER}:{PROXY_PASSWORD.replace('@', '%40')}@127.0.0.1:{proxy.port}",
                token=OTHER_TOKEN,
                password=PASSWORD,
            ) as two,
        ):
            path = f"/_token/{TOKEN}"
            for target in (f"{path}/echo", f"{path}x/echo", path, f"/{path}/a"):
                _, fields, body = await ask(ends.port, target, Prefer="wait=0")
                if not body.startswith(b'{"method"'):
                    shown += [repr(fields), repr(body)]
            await exchange(ends.port, "GET", "/echo", fields={"X-Token": OTHER_TOKEN})
            relay.cut()
            assert (await ask(ends.port, f"/_token/{TOKEN}/echo"))[0] == 200
            shown += [
                repr(thing) for thing in (ends.server, one, two, *ends.server.sessions(), ends.server.snapshot())
            ]
            shown += [one.masked_url, two.masked_url]
            await ends.server.reload()
    text = "\n".join(
        [
            *shown,
            log.text,
            *(record.getMessage() for record in log.records),
            *(json.dumps(record.__dict__, default=repr) for record in log.records),
        ]
    )
    for secret in (TOKEN, OTHER_TOKEN, PASSWORD, PROXY_PASSWORD, PROXY_PASSWORD.replace("@", "%40")):
        assert secret not in text, [line for line in text.splitlines() if secret in line][:3]
