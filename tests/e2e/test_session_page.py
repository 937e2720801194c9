"""``/_sessions``: listed and closed by the admin credential over HTTP (docs/operating.md)."""

from __future__ import annotations

import json
import logging
from typing import Any

import anyio
import pytest

from tunnelkit.events import Connected, Lost

from .test_pages import basic, page
from .tunnel import TOKEN, Answer, open_ends, open_tunnel, until

pytestmark = pytest.mark.anyio

PASSWORD = "an admin's password"
ADMIN = basic(PASSWORD)
OPTIONS: dict[str, Any] = {"admin_password": PASSWORD}


async def sessions(port: int, target: str = "/_sessions", *lines: str, method: str = "GET") -> Answer:
    return await page(port, target, *(lines or (ADMIN,)), method=method, host="a.example")


async def test_sessions_are_listed() -> None:
    async with open_tunnel(server_options=OPTIONS) as tunnel, anyio.create_task_group() as group:
        tunnel.call(group, "/hold/x")
        await tunnel.origin.arrived("/hold/x")
        status, fields, body = await sessions(tunnel.port)
        assert status == 200
        assert ("Content-Type", "application/json") in fields
        assert ("Cache-Control", "no-store") in fields
        (listed,) = json.loads(body)["sessions"]
        session = tunnel.server.sessions()[0]
        assert listed["id"] == session.public_id
        assert (listed["state"], listed["requests"], listed["name"]) == ("attached", 1, "")
        assert listed["transport"] == session.transport
        assert listed["address"].startswith("127.0.0.1:")
        assert listed["client_version"].startswith("tunnelkit/")
        assert 0 <= listed["idle_secs"] <= listed["age_secs"]
        _, _, one = await sessions(tunnel.port, f"/_sessions/{listed['id']}")
        assert json.loads(one)["id"] == listed["id"]
        tunnel.origin.release("x")


async def test_nothing_in_the_list_is_a_secret() -> None:
    async with open_tunnel(server_options=OPTIONS) as tunnel:
        _, _, body = await sessions(tunnel.port)
        session = tunnel.server.sessions()[0]
        for secret in (TOKEN, session.id, session.resume_key.hex()):
            assert secret.encode() not in body
        assert session.public_id not in session.id


async def test_a_session_is_closed_and_told_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with open_tunnel(server_options=OPTIONS) as tunnel, tunnel.join(token="another-token-for-the-tests"):
        session, other = tunnel.server.sessions()
        events = tunnel.client.events()
        with caplog.at_level(logging.INFO, "tunnelkit.server"):
            status, _, body = await sessions(tunnel.port, f"/_sessions/{session.public_id}", method="DELETE")
        assert (status, body) == (204, b"")
        assert session.ended == "closed_by_admin"
        assert other.ended is None
        record = next(each for each in caplog.records if "closed by the administrator" in each.getMessage())
        assert session.public_id in record.getMessage()
        assert "by=127.0.0.1" in record.getMessage()
        assert TOKEN not in caplog.text
        kinds = []
        with anyio.fail_after(10):
            async for event in events:
                kinds.append(type(event))
                if kinds[-1] is Connected:
                    break
        assert kinds[0] is Lost  # and it came back, as another session
        assert (await tunnel.get("/echo"))[0] == 200
        assert session not in tunnel.server.sessions()


async def test_a_session_can_be_closed_by_the_program_too() -> None:
    async with open_tunnel() as tunnel:
        session = tunnel.server.sessions()[0]
        session.close()
        assert session.ended == "closed_by_server"
        await until(lambda: tunnel.server.sessions())
        assert (await tunnel.get("/echo"))[0] == 200


@pytest.mark.parametrize("line", ["X-A: b", basic("wrong"), basic("")])
async def test_nobody_else_sees_or_closes_any(line: str) -> None:
    async with open_tunnel(server_options={**OPTIONS, "admin_listen": "127.0.0.1:0"}) as tunnel:
        target = f"/_sessions/{tunnel.server.sessions()[0].public_id}"
        admin = int(tunnel.server.admin_urls[0].rpartition(":")[2])
        for port in (tunnel.port, admin):
            for method in ("GET", "DELETE"):
                answer = await page(port, target, line, method=method)  # from loopback, too
                assert answer[0] == 401
                assert "WWW-Authenticate" in dict(answer[1])
        assert tunnel.server.sessions()[0].ended is None


async def test_without_an_admin_password_nobody_does() -> None:
    async with open_tunnel() as tunnel:
        assert (await page(tunnel.port, "/_sessions", basic("")))[0] == 403


@pytest.mark.parametrize("line", ["Origin: http://a.example", "Origin: null", "Sec-Fetch-Site: same-origin"])
async def test_a_browsers_script_closes_nothing(line: str) -> None:
    """With the password, which a browser remembers and sends for any page that asks it to."""
    async with open_tunnel(server_options=OPTIONS) as tunnel:
        session = tunnel.server.sessions()[0]
        for method in ("GET", "DELETE", "POST"):
            answer = await sessions(tunnel.port, f"/_sessions/{session.public_id}", ADMIN, line, method=method)
            assert answer[0] == 403
            assert not [name for name, _ in answer[1] if name.lower().startswith("access-control")]
        assert session.ended is None


async def test_methods_and_ids_that_there_are_not() -> None:
    async with open_tunnel(server_options=OPTIONS) as tunnel:
        session = tunnel.server.sessions()[0]
        assert (await sessions(tunnel.port, "/_sessions/0123456789abcdef", method="DELETE"))[0] == 404
        assert (await sessions(tunnel.port, f"/_sessions/{session.id}"))[0] == 404
        refused = await sessions(tunnel.port, f"/_sessions/{session.public_id}", method="POST")
        assert (refused[0], dict(refused[1])["Allow"]) == (405, "GET, HEAD, DELETE")
        refused = await sessions(tunnel.port, method="DELETE")
        assert (refused[0], dict(refused[1])["Allow"]) == (405, "GET, HEAD")
        assert session.ended is None


async def test_a_name_is_listed_with_its_session() -> None:
    async with open_ends(base_domain="tunnel.test", **OPTIONS) as ends, ends.join(name="myapp"):
        _, _, body = await sessions(ends.port)
        assert [session["name"] for session in json.loads(body)["sessions"]] == ["myapp"]
