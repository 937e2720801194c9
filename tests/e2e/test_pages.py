"""Health and statistics, and who sees which (design, section 8, "Reserved")."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from dataclasses import replace

import anyio
import pytest

from tunnelkit import TunnelServer
from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.core.tokens import token_digest
from tunnelkit.errors import ConfigError
from tunnelkit.net.dial import connect_tcp

from .tunnel import SHORT, TOKEN, Answer, open_ends, open_tunnel, read_head, until

pytestmark = pytest.mark.anyio

PASSWORD = "an admin's password"
MORE = b"More stats available when called from localhost...\n"


async def page(port: int, target: str, *lines: str, method: str = "GET", host: str = "127.0.0.1") -> Answer:
    """A page of the server's, asked for from loopback."""
    stream = await connect_tcp("127.0.0.1", port, timeout=5)
    try:
        head = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Connection: close", *lines, "", ""]
        await stream.send("\r\n".join(head).encode())
        with anyio.fail_after(10):
            status, fields, body = await read_head(stream)
            while piece := await stream.receive():
                body += piece
    finally:
        stream.abort()
    return status, fields, body


def basic(password: str) -> str:
    return "Authorization: Basic " + b64encode(f"anybody:{password}".encode()).decode()


# -- statistics --------------------------------------------------------------------------------


async def test_every_field_of_the_statistics() -> None:
    limits = replace(DEFAULT_LIMITS, max_clients_per_token=3, max_requests_per_tunnel=7)
    async with open_tunnel(limits=limits) as tunnel, anyio.create_task_group() as group:
        call = tunnel.call(group, "/hold/x")
        await tunnel.origin.arrived("/hold/x")
        session = tunnel.server.sessions()[0]
        with anyio.move_on_after(5):  # not every machine's address has a name
            await until(lambda: session.host_name)
        status, fields, body = await page(tunnel.port, "/_stats")
        assert status == 200
        assert ("Content-Type", "text/plain; charset=utf-8") in fields
        name = f"tunnel00_tun_dns={re.escape(session.host_name)}\n" if session.host_name else ""
        pattern = (
            "tunnels=1\n"
            "max_requests_per_tunnel=7\n"
            "max_clients_per_token=3\n"
            "token_clients_a-token-=1\n"
            "total_clients=1\n"
            "\n"
            rf"tunnel00_token=a-token-\.\.\.(#{token_digest(TOKEN).hex()[:6]})?" + "\n"
            "tunnel00_req_pending=1\n"
            r"tunnel00_tun_addr=127\.0\.0\.1:\d+"
            + "\n"
            + name
            + r"tunnel00_client_version=tunnelkit/\S+ python/.*"
            + "\n"
            r"tunnel00_idle_secs=\d+\.\d" + "\n"
            r"tunnel00_cli_addr=127\.0\.0\.1" + "\n"
            "\n"
            "req_pending=1\n"
            "dead_tunnels=0\n"
        )
        assert re.fullmatch(pattern, body.decode()), body.decode()
        tunnel.origin.release("x")
        assert await call.status() == 200


async def test_one_block_a_session_and_one_tunnel_a_token() -> None:
    other = TOKEN[:8] + "-with-the-same-beginning"
    limits = replace(DEFAULT_LIMITS, max_clients_per_token=3)
    async with open_ends(limits=limits) as ends, ends.join(), ends.join(), ends.join(token=other):
        _, _, body = await page(ends.port, "/_stats")
        lines = body.decode().splitlines()
        assert "tunnels=2" in lines
        assert "total_clients=3" in lines
        assert [line[:8] for line in lines if re.match("tunnel.._token=", line)] == [
            "tunnel00",
            "tunnel01",
            "tunnel02",
        ]
        assert f"token_clients_{TOKEN[:8]}_{token_digest(TOKEN).hex()[:6]}=2" in lines
        assert f"token_clients_{other[:8]}_{token_digest(other).hex()[:6]}=1" in lines
        assert TOKEN.encode() not in body
        assert other.encode() not in body


async def test_statistics_as_json() -> None:
    async with open_tunnel() as tunnel:
        status, fields, body = await page(tunnel.port, "/_stats", "Accept: application/json")
        assert status == 200
        assert ("Content-Type", "application/json") in fields
        document = json.loads(body)
        assert (document["tunnels"], document["total_clients"], len(document["sessions"])) == (1, 1, 1)


async def test_a_detached_session_is_no_client() -> None:
    async with open_tunnel(relay=True, limits=SHORT) as tunnel:
        assert tunnel.relay is not None
        tunnel.relay.refusing = True
        tunnel.relay.cut()
        await tunnel.detached()
        _, _, body = await page(tunnel.port, "/_stats")
        assert b"tunnels=1\n" in body
        assert b"total_clients=0\n" in body


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "[::1]", "localhost"])
async def test_details_for_loopback(host: str) -> None:
    async with open_tunnel() as tunnel:
        assert b"tunnel00_" in (await page(tunnel.port, "/_stats", host=host))[2]


@pytest.mark.parametrize(
    ("host", "line"),
    [
        pytest.param("tunnel.example.com", "X-A: b", id="another-host"),  # DNS rebinding
        pytest.param("127.0.0.1.example.com", "X-A: b", id="a-name-like-a-literal"),
        pytest.param("127.0.0.1", "X-Forwarded-For: 127.0.0.1", id="x-forwarded-for"),
        pytest.param("127.0.0.1", "X-Forwarded-Proto: https", id="x-forwarded-proto"),
        pytest.param("127.0.0.1", "Forwarded: for=127.0.0.1", id="forwarded"),
        pytest.param("127.0.0.1", "X-Real-IP: 127.0.0.1", id="x-real-ip"),
        pytest.param("127.0.0.1", "Via: 1.1 nginx", id="via"),
        pytest.param("127.0.0.1", basic("wrong"), id="wrong-password-is-not-worse"),
    ],
)
async def test_no_details_for_others(host: str, line: str) -> None:
    async with open_tunnel(server_options={"admin_password": PASSWORD}) as tunnel:
        status, _, body = await page(tunnel.port, "/_stats", line, host=host)
        assert status == 200
        assert b"total_clients=1\n" in body
        if line.startswith("Authorization"):
            assert b"tunnel00_" in body  # real loopback needs no password
        else:
            assert body.endswith(MORE)
            assert b"tunnel00" not in body
            assert b"127.0.0.1" not in body


async def test_the_admin_password_shows_details_anywhere() -> None:
    async with open_tunnel(server_options={"admin_password": PASSWORD}) as tunnel:
        for password, shown in ((PASSWORD, True), ("wrong", False), ("", False)):
            _, _, body = await page(tunnel.port, "/_stats", basic(password), "Via: 1.1 nginx", host="a.example")
            assert (b"tunnel00_" in body) is shown


async def test_guessing_the_admin_password_is_slow() -> None:
    limits = replace(DEFAULT_LIMITS, failed_registrations_per_minute=3)
    async with open_tunnel(server_options={"admin_password": PASSWORD}, limits=limits) as tunnel:
        for _ in range(3):
            assert (await page(tunnel.port, "/_stats", basic("wrong"), host="a.example"))[0] == 200
        status, fields, body = await page(tunnel.port, "/_stats", basic(PASSWORD), host="a.example")
        assert status == 429
        assert 0 < int(dict(fields)["Retry-After"]) <= 60
        assert b"rate_limited" in body
        assert (await page(tunnel.port, "/_stats", host="a.example"))[0] == 200  # without a password: no guess


GUESSED = replace(DEFAULT_LIMITS, failed_registrations_per_minute=3)


async def guess(port: int, address: str) -> None:
    for _ in range(3):
        await page(port, "/_stats", basic("wrong"), f"X-Forwarded-For: {address}", host="a.example")


async def test_behind_a_proxy_that_is_not_declared_guesses_count_together() -> None:
    """Who asks is not to be told apart there, and the password has nothing else to be counted by: rather nobody sees
    the details that way than somebody guesses on. The ways that need no password stay."""
    options = {"admin_password": PASSWORD, "admin_listen": "127.0.0.1:0"}
    async with open_tunnel(server_options=options, limits=GUESSED) as tunnel:
        await guess(tunnel.port, "192.0.2.1")
        other = "X-Forwarded-For: 192.0.2.2"
        assert (await page(tunnel.port, "/_stats", basic(PASSWORD), other, host="a.example"))[0] == 429
        assert b"tunnel00_" in (await page(tunnel.port, "/_stats", basic("wrong")))[2]
        admin_port = int(tunnel.server.admin_urls[0].rpartition(":")[2])
        assert b"tunnel00_" in (await page(admin_port, "/_stats", other, host="a.example"))[2]


async def test_behind_a_declared_proxy_each_guesses_alone() -> None:
    options = {"admin_password": PASSWORD, "trusted_proxies": ["127.0.0.1"]}
    async with open_tunnel(server_options=options, limits=GUESSED) as tunnel:
        await guess(tunnel.port, "192.0.2.1")
        for address, status in (("192.0.2.1", 429), ("192.0.2.2", 200)):
            asked = page(tunnel.port, "/_stats", basic(PASSWORD), f"X-Forwarded-For: {address}", host="a.example")
            assert (await asked)[0] == status


async def test_right_passwords_never_count() -> None:
    async with open_tunnel(server_options={"admin_password": PASSWORD}, limits=GUESSED) as tunnel:
        for _ in range(5):
            assert (await page(tunnel.port, "/_stats", basic(PASSWORD), host="a.example"))[0] == 200


async def test_an_empty_admin_password_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^admin_password: must not be empty"):
        TunnelServer("127.0.0.1:0", admin_password="")


async def test_own_pages_send_no_referer_on() -> None:
    """The address of a page may hold a token."""
    async with open_tunnel() as tunnel:
        for target in ("/_stats", "/_health_check", "/", f"/_token/{TOKEN}", f"/_token/{TOKEN}x/"):
            _, fields, _ = await page(tunnel.port, target, "Prefer: wait=0")
            assert ("Referrer-Policy", "no-referrer") in fields, target


async def test_the_admin_password_is_read_again_at_a_reload() -> None:
    words = [PASSWORD]

    def read() -> str:
        if not words:
            raise ConfigError("admin_password", "the file is gone")
        return words[0]

    async def shows(port: int, password: str) -> bool:
        return b"tunnel00_" in (await page(port, "/_stats", basic(password), host="a.example"))[2]

    async with open_tunnel(server_options={"admin_password": read}) as tunnel:
        words[0] = "another one"
        assert await shows(tunnel.port, PASSWORD)
        await tunnel.server.reload()
        assert not await shows(tunnel.port, PASSWORD)
        assert await shows(tunnel.port, "another one")
        words.clear()
        with pytest.raises(ConfigError):
            await tunnel.server.reload()
        assert await shows(tunnel.port, "another one")


async def test_without_an_admin_password_none_is_right() -> None:
    async with open_tunnel() as tunnel:
        _, _, body = await page(tunnel.port, "/_stats", basic(""), host="a.example")
        assert body.endswith(MORE)


async def test_the_admin_listener_shows_details_and_carries_no_requests() -> None:
    async with open_tunnel(server_options={"admin_listen": "127.0.0.1:0"}) as tunnel:
        port = int(tunnel.server.admin_urls[0].rpartition(":")[2])
        assert b"tunnel00_" in (await page(port, "/_stats", "Via: 1.1 nginx", host="a.example"))[2]
        assert (await page(port, "/_health_check"))[0] == 200
        assert (await page(port, tunnel.path("/echo")))[0] == 404
        assert (await page(port, "/_tunnel"))[0] == 404
        assert not tunnel.origin.requests


@pytest.mark.parametrize("target", ["/_stats", "/_sessions"])
async def test_a_page_of_many_sessions_reaches_a_slow_reader_whole(target: str) -> None:
    async with open_tunnel(server_options={"admin_password": PASSWORD}) as tunnel:
        running = tunnel.server._running
        assert running is not None
        many = tunnel.server.sessions() * 20_000
        running.pages._sessions = running.pages._session_page._sessions = lambda: many
        async with tunnel.caller() as caller:
            lines = [f"GET {target} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", basic(PASSWORD), "", ""]
            await caller.send("\r\n".join(lines).encode())
            await anyio.sleep(0.2)  # the sockets' buffers are full by now
            status, fields, body = await read_head(caller)
            while piece := await caller.receive():
                body += piece
        assert status == 200
        assert len(body) == int(dict(fields)["Content-Length"]) > 3_000_000


# -- health ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"])
async def test_health_by_any_method(method: str) -> None:
    async with open_ends() as ends:
        status, _, body = await page(ends.port, "/_health_check", "Content-Length: 0", method=method)
        assert (status, body) == (200, b"WSTUNSRV RUNNING\n")


async def test_health_by_head() -> None:
    async with open_ends() as ends:
        status, fields, body = await page(ends.port, "/_health_check", method="HEAD")
        assert (status, body) == (200, b"")
        assert ("Content-Length", "17") in fields


# -- other paths -------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/", "/favicon.ico", "/_token/", f"/_token/{TOKEN}", "/_stats/more", "/_nothing"])
async def test_other_paths_are_404_that_says_what_is_missing(target: str) -> None:
    async with open_tunnel() as tunnel:
        status, _, body = await page(tunnel.port, target)
        assert status == 404
        assert b"/_token/<token>/" in body
        assert not tunnel.origin.requests
