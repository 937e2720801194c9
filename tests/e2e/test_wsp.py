"""wsp's way to call: a whole URL in X-PROXY-DESTINATION, and what decides whether it is fetched (design, 8 and 9)."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import anyio
import pytest

from tunnelkit import ConfigError, RegistrationRefused, Rule, TunnelClient, TunnelServer
from tunnelkit.config import DEFAULT_LIMITS

from .origin import serve_origin
from .tunnel import TOKEN, Answer, Ends, exchange, open_ends, problem_of

pytestmark = pytest.mark.anyio

OTHER_TOKEN = "another-token-for-the-tests"

# Of tests that say more of what others show over every way.
ONE_WAY = pytest.mark.ways("auto")


async def fetch(
    ends: Ends,
    destination: str | None,
    *,
    token: str | None = TOKEN,
    path: str = "/request",
    method: str = "GET",
    body: bytes = b"",
    **fields: str,
) -> Answer:
    """One request in wsp's way."""
    given = {"Accept": "application/json"} | fields
    if token is not None:
        given["X-Token"] = token
    if destination is not None:
        given["X-PROXY-DESTINATION"] = destination
    return await exchange(ends.port, method, path, fields=given, body=body)


def target_of(answer: Answer) -> str:
    status, _, body = answer
    assert status == 200, body
    target = json.loads(body)["target"]
    assert isinstance(target, str)
    return target


def refusal(answer: Answer) -> tuple[int, str]:
    return answer[0], problem_of(answer)["code"]


REFUSED = (403, "destination_refused")


# -- the way to call ---------------------------------------------------------------------------


async def test_a_destination_is_fetched_through_the_tunnel_of_x_token() -> None:
    async with open_ends() as ends, ends.join():
        answer = await fetch(
            ends, f"{ends.origin.url}/echo?a=b//%2F", method="POST", body=b"some body", X_Other="kept"
        )
        assert target_of(answer) == "/echo?a=b//%2F"
        echo = json.loads(answer[2])
        assert (echo["method"], echo["body"]) == ("POST", "some body")
        names = {name.lower() for name, _ in echo["fields"]}
        assert "x-other" in names
        assert not names & {"x-token", "x-proxy-destination", "x-host"}
        assert ["Host", ends.origin.url.removeprefix("http://")] in echo["fields"]


async def test_x_token_chooses_the_tunnel() -> None:
    async with (
        open_ends() as ends,
        serve_origin() as other,
        ends.join(),
        ends.join(token=OTHER_TOKEN, origin=other.url),
    ):
        assert target_of(await fetch(ends, f"{ends.origin.url}/echo")) == "/echo"
        assert target_of(await fetch(ends, f"{other.url}/echo", token=OTHER_TOKEN)) == "/echo"
        assert refusal(await fetch(ends, f"{other.url}/echo")) == REFUSED
        assert refusal(await fetch(ends, f"{other.url}/echo", token=None)) == (404, "no_tunnel")


async def test_the_wsp_token_is_for_requests_without_x_token() -> None:
    async with open_ends(wsp_token=TOKEN) as ends, ends.join():
        assert target_of(await fetch(ends, f"{ends.origin.url}/echo", token=None)) == "/echo"
        assert target_of(await fetch(ends, f"{ends.origin.url}/echo")) == "/echo"
        assert refusal(await fetch(ends, None, token=None)) == (404, "no_tunnel")


async def test_without_a_wsp_token_a_token_is_needed() -> None:
    async with open_ends() as ends, ends.join():
        answer = await fetch(ends, f"{ends.origin.url}/echo", token=None)
        assert refusal(answer) == (404, "no_tunnel")
        assert "X-Token" in problem_of(answer)["detail"]


async def test_the_path_is_configurable() -> None:
    async with open_ends(wsp_path="/fetch") as ends, ends.join():
        assert target_of(await fetch(ends, f"{ends.origin.url}/echo", path="/fetch")) == "/echo"
        assert target_of(await fetch(ends, f"{ends.origin.url}/echo", path="/request")) == "/request"


@ONE_WAY
async def test_the_path_can_be_switched_off_and_lies_below_the_base_path() -> None:
    async with open_ends(wsp_path="", base_path="/base") as ends, ends.join(url=ends.server.url):
        assert target_of(await fetch(ends, f"{ends.origin.url}/echo", path="/base/request")) == "/request"
    async with open_ends(base_path="/base") as ends, ends.join(url=ends.server.url):
        assert target_of(await fetch(ends, f"{ends.origin.url}/echo", path="/base/request?x")) == "/echo"


@ONE_WAY
async def test_without_the_field_the_path_is_the_origins() -> None:
    async with open_ends() as ends, ends.join():
        assert target_of(await fetch(ends, None)) == "/request"


async def test_redirects_come_back_and_nothing_is_decompressed() -> None:
    async with open_ends() as ends, ends.join():
        status, fields, _ = await fetch(ends, f"{ends.origin.url}/status/302")
        assert status == 302
        assert ("Location", "http://elsewhere.example/") in fields
        _, _, body = await fetch(ends, f"{ends.origin.url}/echo")
        assert not [name for name, _ in json.loads(body)["fields"] if name.lower() == "accept-encoding"]


async def test_upgrades_pass_too() -> None:
    async with open_ends() as ends, ends.join(), ends.caller() as caller:
        fields = f"X-Token: {TOKEN}\r\nX-PROXY-DESTINATION: {ends.origin.url}/upgrade\r\n"
        upgrade = "Connection: Upgrade\r\nUpgrade: echo\r\n"
        await caller.send(f"GET /request HTTP/1.1\r\nHost: a\r\n{fields}{upgrade}\r\n".encode())
        await caller.send(b"over here")
        data = b""
        with anyio.fail_after(10):
            while b"over here" not in data:
                data += await caller.receive()
        assert data.startswith(b"HTTP/1.1 101 ")


# -- where it may go ---------------------------------------------------------------------------


async def test_with_neither_regexp_nor_rules_only_the_clients_own_origin() -> None:
    async with open_ends() as ends, serve_origin() as other, ends.join():
        assert target_of(await fetch(ends, f"{ends.origin.url}/echo")) == "/echo"
        assert refusal(await fetch(ends, f"{other.url}/echo")) == REFUSED
        assert refusal(await fetch(ends, f"{ends.origin.url.replace('http:', 'https:')}/echo")) == REFUSED
        assert not other.requests


@ONE_WAY
async def test_the_clients_own_origin_without_the_prefix_of_its_url() -> None:
    async with open_ends() as ends, ends.join(origin=f"{ends.origin.url}/app", refuse_private=True):
        assert target_of(await fetch(ends, f"{ends.origin.url}/echo")) == "/echo"
        assert json.loads((await ends.get("/echo"))[2])["target"] == "/app/echo"


async def test_what_regexp_matches_whole_is_allowed() -> None:
    async with open_ends() as ends, serve_origin() as other, ends.join(allow=[other.url.replace(".", r"\.")]):
        assert target_of(await fetch(ends, f"{other.url}/echo")) == "/echo"
        assert target_of(await fetch(ends, f"{other.url.upper().replace('HTTP', 'http')}/echo")) == "/echo"
        for wrong in (ends.origin.url, f"{other.url}0", f"{other.url}@127.0.0.1:1", "http://elsewhere.example"):
            assert (await fetch(ends, f"{wrong}/echo"))[0] in (400, 403)
        assert refusal(await fetch(ends, f"{ends.origin.url}/echo?{other.url}")) == REFUSED
        assert not ends.origin.requests


async def test_the_clients_rules_by_method_url_and_field_blacklist_first() -> None:
    async with open_ends() as ends, serve_origin() as other:
        base = other.url.replace(".", r"\.")
        rules: dict[str, Any] = {
            "blacklist": [Rule(url=".*/secret.*"), Rule(method="DELETE"), Rule(headers={"X-Bad": ".+"})],
            "whitelist": [Rule(method="GET|POST|DELETE", url=f"{base}/.*", headers={"X-Team": "blue"})],
        }
        async with ends.join(**rules):
            assert target_of(await fetch(ends, f"{other.url}/echo", X_Team="blue")) == "/echo"
            assert refusal(await fetch(ends, f"{other.url}/echo")) == REFUSED
            assert refusal(await fetch(ends, f"{other.url}/echo", X_Team="blues")) == REFUSED
            assert refusal(await fetch(ends, f"{other.url}/echo", X_Team="blue", method="PUT")) == REFUSED
            assert refusal(await fetch(ends, f"{other.url}/echo", X_Team="blue", method="DELETE")) == REFUSED
            assert refusal(await fetch(ends, f"{other.url}/echo", X_Team="blue", X_Bad="x")) == REFUSED
            for secret in ("secret", "%73ecret", "a/../secret", "a/..;/secret", "echo?a=/secret"):
                assert refusal(await fetch(ends, f"{other.url}/{secret}", X_Team="blue")) == REFUSED
            assert refusal(await fetch(ends, f"{ends.origin.url}/echo", X_Team="blue")) == REFUSED
        assert other.targets() == ["/echo"]
        assert not ends.origin.requests


async def test_the_servers_rules_by_method_url_and_field_blacklist_first() -> None:
    rules: dict[str, Any] = {
        "blacklist": [Rule(url=".*/secret.*"), Rule(headers={"X-Bad": ".+"})],
        "whitelist": [Rule(method="GET", url=r"http://127\.0\.0\.1:\d+/.*")],
    }
    async with open_ends(**rules) as ends, ends.join():
        assert target_of(await fetch(ends, f"{ends.origin.url}/echo")) == "/echo"
        for wrong in (
            fetch(ends, f"{ends.origin.url}/secret"),
            fetch(ends, f"{ends.origin.url}/%73ecret"),
            fetch(ends, f"{ends.origin.url}/echo", method="POST"),
            fetch(ends, f"{ends.origin.url}/echo", X_Bad="x"),
            fetch(ends, "http://elsewhere.example/"),
        ):
            answer = await wrong
            assert refusal(answer) == REFUSED
            assert "server's rules" in problem_of(answer)["detail"]
        assert ends.origin.targets() == ["/echo"]
        assert json.loads((await ends.get("/secret"))[2])["target"] == "/secret"  # it names no destination


async def test_the_servers_rules_are_read_again_at_a_reload() -> None:
    black, white = [Rule(url=".*/a")], [Rule(method="GET")]
    async with open_ends(blacklist=lambda: black, whitelist=lambda: white) as ends, ends.join():

        async def outcomes() -> list[int]:
            return [(await fetch(ends, f"{ends.origin.url}/{path}"))[0] for path in "ab"]

        assert await outcomes() == [403, 200]
        black[:] = [Rule(url="(")]
        white[:] = [Rule(method="POST")]
        with pytest.raises(ConfigError, match=r"^blacklist\[1\].url: '\(' is no regular expression"):
            await ends.server.reload()
        assert await outcomes() == [403, 200]
        black[:] = [Rule(url=".*/b")]
        white.clear()
        await ends.server.reload()
        assert await outcomes() == [200, 403]


async def test_x_host_is_no_way_round_the_servers_rules() -> None:
    async with open_ends(blacklist=[Rule(url=".*/secret")]) as ends, ends.join(allow=[".*"]):
        answer = await ends.get("/secret", X_Host=ends.origin.url, Accept="application/json")
        assert refusal(answer) == (403, "x_host_refused")
        assert (await ends.get("/echo", X_Host=ends.origin.url))[0] == 200


async def test_the_clients_blacklist_judges_every_request() -> None:
    async with open_ends() as ends, ends.join(blacklist=[Rule(url=r"http://127\.0\.0\.1:\d+/admin.*")]):
        assert refusal(await ends.get("/admin", Accept="application/json")) == REFUSED
        assert refusal(await ends.get("/%61dmin", Accept="application/json")) == REFUSED
        assert (await ends.get("/echo"))[0] == 200


# -- several clients ---------------------------------------------------------------------------


async def test_requests_are_spread_over_all_clients_by_least_load() -> None:
    async with open_ends() as ends, ends.join(), ends.join(), anyio.create_task_group() as group:
        for number in range(1, 7):
            group.start_soon(fetch, ends, f"{ends.origin.url}/hold/x")
            await ends.origin.until(lambda count=number: len(ends.origin.requests) == count)
        assert [row.req_pending for row in ends.server.snapshot().rows] == [3, 3]
        ends.origin.release("x")


async def test_requests_are_spread_over_all_clients_at_random() -> None:
    async with (
        open_ends(balance="random") as ends,
        ends.join(host="one.example"),
        ends.join(host="two.example"),
        anyio.create_task_group() as group,
    ):
        group.start_soon(fetch, ends, f"{ends.origin.url}/hold/x")
        held = await ends.origin.arrived("/hold/x")
        hosts: set[str] = set()
        with anyio.fail_after(20):
            while len(hosts) < 2:  # the least loaded would be the other one each time
                _, _, body = await fetch(ends, f"{ends.origin.url}/echo")
                hosts |= {value for name, value in json.loads(body)["fields"] if name == "Host"}
        assert held.values("Host")[0] in hosts
        ends.origin.release("x")


async def test_the_wait_for_a_client_is_limited() -> None:
    limits = replace(DEFAULT_LIMITS, queue_timeout=0.3)
    async with open_ends(limits=limits) as ends:
        async with ends.join():
            pass
        start = anyio.current_time()
        assert refusal(await fetch(ends, f"{ends.origin.url}/echo")) == (504, "queue_timeout")
        assert anyio.current_time() - start < 10


# -- the secret key ----------------------------------------------------------------------------


async def test_the_secret_key_is_asked_of_every_client() -> None:
    async with open_ends(secretkey="ThisIsASecret") as ends:
        async with ends.join(password="ThisIsASecret"):
            assert target_of(await fetch(ends, f"{ends.origin.url}/echo")) == "/echo"
        for wrong in ("thisisasecret", None):
            with pytest.raises(RegistrationRefused) as caught, anyio.fail_after(10):
                async with ends.join(password=wrong, ready=False):
                    await anyio.sleep_forever()
            assert (caught.value.status, caught.value.code) == (401, "unauthorized")
            assert "ThisIsASecret" not in str(caught.value)


# -- bad destinations and rules ----------------------------------------------------------------


@ONE_WAY
@pytest.mark.parametrize(
    "destination",
    [
        "",
        "nonsense",
        "ftp://127.0.0.1/",
        "http:///x",
        "http://a:b@127.0.0.1/",
        "http://127.1/",
        "http://127.0.0.1/#x",
    ],
)
async def test_a_bad_destination_is_said_and_hurts_nobody(destination: str) -> None:
    async with open_ends() as ends, ends.join():
        answer = await fetch(ends, destination)
        assert refusal(answer) == (400, "bad_destination")
        assert problem_of(answer)["detail"].startswith("X-PROXY-DESTINATION ")
        assert target_of(await fetch(ends, f"{ends.origin.url}/echo")) == "/echo"
        assert ends.origin.targets() == ["/echo"]


@ONE_WAY
async def test_two_destinations_are_none() -> None:
    async with open_ends() as ends, ends.join():
        answer = await fetch(ends, f"{ends.origin.url}/a", x_proxy_destination=f"{ends.origin.url}/b")
        assert refusal(answer) == (400, "bad_request")


@ONE_WAY
@pytest.mark.parametrize("end", [TunnelServer, TunnelClient])
@pytest.mark.parametrize("name", ["blacklist", "whitelist"])
@pytest.mark.parametrize(
    ("rule", "part"),
    [
        (Rule(url="("), ".url"),
        (Rule(method="["), ".method"),
        (Rule(), ""),
        (Rule(headers={"a b": "x"}), ".headers"),
    ],
)
def test_a_bad_rule_names_its_place(end: Any, name: str, rule: Rule, part: str) -> None:
    given: dict[str, Any] = {name: [Rule(method="GET"), rule]}
    if end is TunnelClient:
        given |= {"url": "ws://x", "token": TOKEN, "origin": "http://127.0.0.1:1"}
    with pytest.raises(ConfigError) as caught:
        end(**given)
    assert caught.value.field == f"{name}[2]{part}"


@ONE_WAY
@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"wsp_path": "/a b"}, "wsp_path"),
        ({"wsp_token": "short"}, "wsp_token"),
        ({"balance": "fair"}, "balance"),
        ({"secretkey": ""}, "secretkey"),
    ],
)
def test_bad_settings_of_the_server(options: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TunnelServer("127.0.0.1:0", **options)
    assert caught.value.field == field
    assert caught.value.fix
