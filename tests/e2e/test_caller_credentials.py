"""Callers can be asked for Basic credentials, per token or name (design, section 8, "Secrets")."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import replace
from typing import Any

import anyio
import httpx
import pytest

from tunnelkit import ConfigError, TunnelServer
from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.core.credentials import hash_password

from .test_pages import page
from .tunnel import TOKEN, Answer, Ends, exchange, open_ends, open_tunnel, read_head

pytestmark = pytest.mark.anyio

OTHER_TOKEN = "another-token-for-the-tests"
USER, PASSWORD = "alice", "correct horse: battery"
DOMAIN = "tunnel.test"


@pytest.fixture(scope="module", params=["plain", "scrypt"])
def callers(request: pytest.FixtureRequest) -> dict[str, dict[str, str]]:
    hashed = str(hash_password(PASSWORD, b"16 bytes of salt", n=2**12))
    return {TOKEN: {USER: PASSWORD if request.param == "plain" else hashed}}


def basic(user: str = USER, password: str = PASSWORD) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


def challenge(answer: Answer) -> str | None:
    return dict(answer[1]).get("WWW-Authenticate")


async def by_name(ends: Ends, name: str, *lines: str) -> Answer:
    return await page(ends.port, "/echo", *lines, host=f"{name}.{DOMAIN}")


async def test_without_credentials_a_caller_is_asked_and_the_origin_sees_nothing(callers: Any) -> None:
    async with open_tunnel(server_options={"callers": callers}) as tunnel:
        answer = await tunnel.get("/echo")
        assert answer[0] == 401
        assert challenge(answer) == 'Basic realm="tunnel", charset="UTF-8"'
        assert not tunnel.origin.requests


async def test_the_right_ones_pass_and_never_reach_the_origin(callers: Any) -> None:
    async with open_tunnel(server_options={"callers": callers}) as tunnel:
        for _ in range(2):  # verified, and remembered
            status, _, body = await tunnel.get("/echo", Authorization=basic())
            assert status == 200
            assert "authorization" not in {name.lower() for name, _ in json.loads(body)["fields"]}
        assert PASSWORD not in repr(tunnel.origin.requests)


@pytest.mark.parametrize(
    "value",
    [
        basic(password="wrong"),
        basic(user="mallory"),
        basic(user=""),
        "Bearer " + b64encode(f"{USER}:{PASSWORD}".encode()).decode(),
        "Basic",
        "Basic !!!",
        "Basic " + b64encode(b"\xff\xfe").decode(),
    ],
)
async def test_wrong_ones_are_asked_again(callers: Any, value: str) -> None:
    async with open_tunnel(server_options={"callers": callers}) as tunnel:
        answer = await tunnel.get("/echo", Authorization=value)
        assert answer[0] == 401
        assert challenge(answer) is not None
        assert not tunnel.origin.requests


async def test_wrong_ones_are_logged_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    async with open_tunnel(server_options={"callers": {TOKEN: {USER: PASSWORD}}}) as tunnel:
        await tunnel.get("/echo", Authorization=basic(password="a wrong guess"))
        await tunnel.get("/echo")
        line = next(each.getMessage() for each in caplog.records if "wrong credentials" in each.getMessage())
        assert line.endswith("addr=127.0.0.1")
        assert TOKEN not in line
        assert "a wrong guess" not in caplog.text
        _, _, body = await page(tunnel.port, "/_metrics")
        assert b"tunnelkit_requests_unauthorised_total 2\n" in body
        assert b"tunnelkit_requests_total 0\n" in body


async def test_two_authorization_fields_are_none() -> None:
    async with open_tunnel(server_options={"callers": {TOKEN: {USER: PASSWORD}}}) as tunnel:
        answer = await page(
            tunnel.port, tunnel.path("/echo"), f"Authorization: {basic()}", f"Authorization: {basic('x', 'y')}"
        )
        assert answer[0] == 401


async def test_where_nobody_is_asked_authorization_is_the_origins() -> None:
    async with open_ends(callers={OTHER_TOKEN: {USER: PASSWORD}}) as ends, ends.join():
        status, _, body = await ends.get("/echo", Authorization="Bearer the-origin-s-own")
        assert status == 200
        assert ["Authorization", "Bearer the-origin-s-own"] in json.loads(body)["fields"]


async def test_every_way_to_the_token_asks(callers: Any) -> None:
    async with open_tunnel(server_options={"callers": callers}) as tunnel:
        assert (await exchange(tunnel.port, "GET", "/echo", fields={"X-Token": TOKEN}))[0] == 401
        assert (await exchange(tunnel.port, "POST", tunnel.path("/sink"), body=b"x" * 100_000))[0] == 401
        upgrade = ("Connection: Upgrade", "Upgrade: echo")
        assert (await page(tunnel.port, tunnel.path("/upgrade"), *upgrade))[0] == 401
        assert not tunnel.origin.requests


async def test_a_caller_that_waits_for_100_is_asked_before_it_sends_a_body() -> None:
    async with (
        open_tunnel(server_options={"callers": {TOKEN: {USER: PASSWORD}}}) as tunnel,
        tunnel.caller() as caller,
    ):
        lines = [f"POST {tunnel.path('/sink')} HTTP/1.1", "Host: a", "Content-Length: 5", "Expect: 100-continue"]
        await caller.send("\r\n".join([*lines, "", ""]).encode())
        assert (await read_head(caller))[0] == 401


async def test_a_name_has_its_own() -> None:
    options: dict[str, Any] = {"base_domain": DOMAIN, "callers": {"name:myapp": {USER: PASSWORD}}}
    async with open_ends(**options) as ends, ends.join(name="myapp"):
        answer = await by_name(ends, "myapp")
        assert answer[0] == 401
        assert challenge(answer) == 'Basic realm="myapp", charset="UTF-8"'
        assert (await by_name(ends, "myapp", f"Authorization: {basic()}"))[0] == 200
        assert (await ends.get("/echo"))[0] == 200  # the token is a secret of its own


async def test_what_a_token_asks_for_its_name_asks_for_too() -> None:
    options: dict[str, Any] = {"base_domain": DOMAIN, "callers": {TOKEN: {USER: PASSWORD}}}
    async with open_ends(**options) as ends, ends.join(name="myapp"):
        assert (await by_name(ends, "myapp"))[0] == 401
        assert (await by_name(ends, "myapp", f"Authorization: {basic()}"))[0] == 200


async def test_a_request_that_waited_for_a_name_is_not_let_in_unasked() -> None:
    options: dict[str, Any] = {"base_domain": DOMAIN, "callers": {TOKEN: {USER: PASSWORD}}}
    async with open_ends(**options) as ends, anyio.create_task_group() as group:
        answers: list[Answer] = []

        async def ask() -> None:
            answers.append(await by_name(ends, "myapp"))

        group.start_soon(ask)
        await ends.pending(1)  # after a restart: the name may come back
        async with ends.join(name="myapp"):
            await ends.pending(0)
        assert not ends.origin.requests
        assert answers[0][0] == 401


async def test_a_request_that_waited_for_a_name_with_users_of_its_own_is_let_in() -> None:
    callers = {TOKEN: {USER: PASSWORD}, "name:myapp": {"bob": "his own"}}
    async with open_ends(base_domain=DOMAIN, callers=callers) as ends, anyio.create_task_group() as group:
        answers: list[Answer] = []

        async def ask() -> None:
            answers.append(await by_name(ends, "myapp", f"Authorization: {basic('bob', 'his own')}"))

        group.start_soon(ask)
        await ends.pending(1)
        async with ends.join(name="myapp"):
            await ends.pending(0)
        assert answers[0][0] == 200


async def test_the_servers_own_program_is_not_asked() -> None:
    own = "Bearer the-origin-s-own"
    async with (
        open_tunnel(server_options={"callers": {TOKEN: {USER: PASSWORD}}}) as tunnel,
        httpx.AsyncClient(transport=tunnel.server.httpx_transport(TOKEN)) as client,
    ):
        answer = await client.get("http://device/echo", headers={"Authorization": own})
        assert answer.status_code == 200
        assert ["Authorization", own] in answer.json()["fields"]


async def test_guessing_is_slow(callers: Any) -> None:
    limits = replace(DEFAULT_LIMITS, failed_registrations_per_minute=3)
    async with open_tunnel(server_options={"callers": callers}, limits=limits) as tunnel:
        for _ in range(3):
            assert (await tunnel.get("/echo"))[0] == 401  # no guess
        for _ in range(3):
            assert (await tunnel.get("/echo", Authorization=basic(password="guess")))[0] == 401
        answer = await tunnel.get("/echo", Authorization=basic())
        assert answer[0] == 429
        assert 0 < int(dict(answer[1])["Retry-After"]) <= 60


async def test_guesses_from_many_addresses_of_one_network_are_one_hosts() -> None:
    limits = replace(DEFAULT_LIMITS, failed_registrations_per_minute=3)
    options: dict[str, Any] = {"callers": {TOKEN: {USER: PASSWORD}}, "trusted_proxies": ["127.0.0.1"]}
    async with open_tunnel(server_options=options, limits=limits) as tunnel:
        for number in range(3):
            guess = {"Authorization": basic(password="guess"), "X-Forwarded-For": f"2001:db8:1:2:{number}::{number}"}
            assert (await tunnel.get("/echo", **guess))[0] == 401
        right = {"Authorization": basic()}
        assert (await tunnel.get("/echo", **right, **{"X-Forwarded-For": "2001:db8:1:2::99"}))[0] == 429
        assert (await tunnel.get("/echo", **right, **{"X-Forwarded-For": "2001:db8:1:3::99"}))[0] == 200


async def test_they_are_read_again_at_a_reload() -> None:
    callers = {TOKEN: {USER: PASSWORD}}
    async with open_tunnel(server_options={"callers": lambda: callers}) as tunnel:
        callers[TOKEN] = {USER: "another"}
        await tunnel.server.reload()
        assert (await tunnel.get("/echo", Authorization=basic()))[0] == 401
        assert (await tunnel.get("/echo", Authorization=basic(password="another")))[0] == 200
        callers["short"] = {USER: "x"}
        with pytest.raises(ConfigError, match=r"^callers: the token of entry 2 "):
            await tunnel.server.reload()
        assert (await tunnel.get("/echo", Authorization=basic(password="another")))[0] == 200


def test_users_of_a_name_that_cannot_be_are_a_mistake() -> None:
    with pytest.raises(ConfigError, match=r"^callers: the name of entry 1 may hold letters"):
        TunnelServer("127.0.0.1:0", base_domain=DOMAIN, callers={"name:my app": {USER: PASSWORD}})
    with pytest.raises(ConfigError, match=r"^callers: entry 1 is for a name, and there are none without"):
        TunnelServer("127.0.0.1:0", callers={"name:myapp": {USER: PASSWORD}})


def test_a_bad_entry_is_named_and_nothing_of_it_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        TunnelServer("127.0.0.1:0", callers={TOKEN: {"alice:": PASSWORD}})
    assert str(caught.value).startswith("callers: entry 1 has a user")
    assert PASSWORD not in str(caught.value)
    assert TOKEN not in str(caught.value)
