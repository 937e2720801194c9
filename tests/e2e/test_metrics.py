"""``/_metrics``: what it counts at a running server, and who sees it (docs/operating.md)."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tunnelkit import RegistrationRefused
from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.testing.middlebox import serve_middlebox

from .test_pages import basic, page
from .tunnel import SHORT, TOKEN, Answer, Ends, exchange, open_ends, open_tunnel, until
from .ways import current

pytestmark = pytest.mark.anyio

PASSWORD = "an admin's password"


class Scraped(dict[str, float]):
    """Samples by their names and labels, as they stand in the text."""

    def __missing__(self, key: str) -> float:
        return 0.0


async def scrape(ends: Ends) -> Scraped:
    status, fields, body = await page(ends.port, "/_metrics")
    assert status == 200
    assert ("Content-Type", "text/plain; version=0.0.4; charset=utf-8") in fields
    assert TOKEN.encode() not in body
    assert TOKEN[:8].encode() not in body
    assert b"127.0.0.1" not in body
    assert b"/echo" not in body
    found = Scraped()
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            labels = ",".join(sample.labels.values())
            found[sample.name.removeprefix("tunnelkit_") + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


async def test_requests_statuses_bytes_and_durations() -> None:
    async with open_tunnel() as tunnel:
        assert (await tunnel.get("/bytes/1000"))[0] == 200
        assert (await tunnel.get("/status/404"))[0] == 404
        await exchange(tunnel.port, "POST", tunnel.path("/sink"), body=b"x" * 300)
        await tunnel.pending(0)
        found = await scrape(tunnel)
        assert found["requests_total"] == 3
        assert found["responses_total{200}"] == 2
        assert found["responses_total{404}"] == 1
        assert found["request_body_bytes_total"] == 300
        assert found["response_body_bytes_total"] > 1000
        assert found["request_duration_seconds_count"] == 3
        assert found["request_duration_seconds_bucket{+Inf}"] == 3
        assert found["request_duration_seconds_sum"] > 0


async def test_a_caller_that_leaves_is_a_499() -> None:
    async with open_tunnel() as tunnel, anyio.create_task_group() as group:
        call = tunnel.call(group, "/hold/x")
        await tunnel.origin.arrived("/hold/x")
        assert (await scrape(tunnel))["requests_active"] == 1
        call.leave()
        await tunnel.pending(0)
        assert (await scrape(tunnel))["responses_total{499}"] == 1


async def test_bytes_of_upgraded_connections() -> None:
    async with open_tunnel() as tunnel, tunnel.caller() as caller:
        lines = [f"GET {tunnel.path('/upgrade')} HTTP/1.1", "Host: a", "Connection: Upgrade", "Upgrade: echo", "", ""]
        await caller.send("\r\n".join(lines).encode())
        data = b""
        while b"early bytes of the origin" not in data:
            data += await caller.receive()
        await caller.send(b"x" * 100)
        data = b""
        while data.count(b"x") < 100:
            data += await caller.receive()
        caller.abort()
        await tunnel.pending(0)
        found = await scrape(tunnel)
        assert found["responses_total{101}"] == 1
        assert found["request_body_bytes_total"] == 100
        assert found["response_body_bytes_total"] == 100 + len(b"early bytes of the origin")


async def test_sessions_by_transport() -> None:
    async with open_ends() as ends, ends.join(transport="websocket"), ends.join(transport="longpoll"):
        found = await scrape(ends)
        assert (found["sessions{websocket}"], found["sessions{longpoll}"], found["tunnels"]) == (1, 1, 1)
        assert found["registrations_total"] == 2
        assert found["buffered_bytes"] > 0
        assert found["buffered_limit_bytes"] == DEFAULT_LIMITS.max_buffered_bytes


async def test_queue_lengths() -> None:
    async with open_ends(known_tokens=[TOKEN]) as ends, anyio.create_task_group() as group:
        calls = [ends.call(group, "/echo") for _ in range(3)]
        await ends.pending(3)
        found = await scrape(ends)
        assert (found["queue_requests"], found["queue_longest"]) == (3, 3)
        async with ends.join():
            assert [await call.status() for call in calls] == [200] * 3
            assert (await scrape(ends))["queue_requests"] == 0


@pytest.mark.ways("websocket", "streamed")  # where a cut is a loss
async def test_resumes() -> None:
    async with open_tunnel(relay=True, limits=SHORT) as tunnel:
        assert tunnel.relay is not None
        session = tunnel.server.sessions()[0]
        tunnel.relay.cut()
        await until(lambda: session.epoch > 1 and session.attached)
        found = await scrape(tunnel)
        name = "longpoll" if current() == "streamed" else "websocket"
        assert found[f"resumes_total{{{name}}}"] >= 1
        assert found["registrations_total"] == 1


@pytest.mark.ways("auto")
async def test_moves() -> None:
    limits = replace(DEFAULT_LIMITS, probe_first=0.05)
    async with open_ends(limits=limits) as ends, serve_middlebox(ends.port) as box:
        box.refuse_upgrades = 403
        async with ends.join(via=box.relay) as client:
            assert client.transport == "longpoll"
            box.refuse_upgrades = 0
            await until(lambda: client.transport == "websocket")
            await until(lambda: ends.server.sessions()[0].transport == "websocket")
            found = await scrape(ends)
            assert found["moves_total{websocket}"] == 1
            assert (found["registrations_total"], found["resumes_total{websocket}"]) == (1, 0)


async def test_refusals_and_ends() -> None:
    async with open_ends(passwords={TOKEN: "x"}) as ends:
        with pytest.raises(RegistrationRefused):
            async with ends.join(password="wrong"):
                raise AssertionError("never ready")
        async with ends.join(password="x"):
            pass
        await until(lambda: not ends.server.sessions())
        found = await scrape(ends)
        assert found["refusals_total{unauthorized}"] == 1
        assert found["sessions_ended_total{closed}"] == 1


async def test_detached_sessions() -> None:
    async with open_tunnel(relay=True, limits=SHORT) as tunnel:
        assert tunnel.relay is not None
        tunnel.relay.refusing = True
        tunnel.relay.cut()
        await tunnel.detached()
        found = await scrape(tunnel)
        assert (found["sessions_detached"], found["sessions{websocket}"], found["tunnels"]) == (1, 0, 1)


# -- who sees it -------------------------------------------------------------------------------


async def elsewhere(port: int, *lines: str) -> Answer:
    return await page(port, "/_metrics", *lines, host="a.example")


async def test_metrics_have_the_exposure_of_statistics() -> None:
    async with open_tunnel(server_options={"admin_password": PASSWORD, "admin_listen": "127.0.0.1:0"}) as tunnel:
        assert (await page(tunnel.port, "/_metrics"))[0] == 200
        status, fields, body = await elsewhere(tunnel.port)
        assert status == 401
        assert "WWW-Authenticate" in dict(fields)
        assert b"tunnelkit_" not in body
        assert (await elsewhere(tunnel.port, basic("wrong")))[0] == 401
        assert (await elsewhere(tunnel.port, basic(PASSWORD)))[0] == 200
        admin = int(tunnel.server.admin_urls[0].rpartition(":")[2])
        assert (await page(admin, "/_metrics", host="a.example"))[0] == 200


async def test_without_an_admin_password_there_is_none_to_give() -> None:
    async with open_tunnel() as tunnel:
        assert (await elsewhere(tunnel.port))[0] == 403
        assert (await elsewhere(tunnel.port, basic("")))[0] == 403
        assert (await page(tunnel.port, "/_metrics", "Via: 1.1 nginx"))[0] == 403
