"""Names: who has one, how callers reach it, and what it leaves as it is (design, section 8)."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import pytest

from tunnelkit import ConfigError, Granted, Registration, RegistrationRefused, TunnelClient, TunnelServer
from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.core.naming import derived_name
from tunnelkit.events import Retrying
from tunnelkit.testing.relay import serve_relay

from .peers import program
from .tunnel import SHORT, TOKEN, Answer, Ends, exchange, open_ends, problem_of

pytestmark = pytest.mark.anyio

OTHER_TOKEN = "another-token-for-the-tests"
DOMAIN = "tunnel.example.com"
APP = f"myapp.{DOMAIN}"

QUICK_ASKED = replace(DEFAULT_LIMITS, silent_client_ping=0.5)

# Of tests that say more of what others show over every way.
ONE_WAY = pytest.mark.ways("auto")


@asynccontextmanager
async def named_ends(**options: Any) -> AsyncIterator[Ends]:
    async with open_ends(**({"base_domain": DOMAIN} | options)) as ends:
        yield ends


async def get(ends: Ends, host: str = APP, target: str = "/echo", *, method: str = "GET", **fields: str) -> Answer:
    """One request for a host of the server's."""
    return await exchange(ends.port, method, target, host=host, fields={"Accept": "application/json"} | fields)


async def refusal(ends: Ends, **options: Any) -> RegistrationRefused:
    """What a client's user gets that is refused for good."""
    with pytest.raises(RegistrationRefused) as caught, anyio.fail_after(10):
        async with ends.join(ready=False, **options):
            await anyio.sleep_forever()
    return caught.value


# -- callers -----------------------------------------------------------------------------------


async def test_callers_reach_a_client_by_its_name() -> None:
    async with named_ends() as ends, ends.join(name="myapp"):
        for host in (APP, f"MyApp.{DOMAIN}:8080", f"{APP}.", f"{APP}.:80"):
            status, _, body = await get(ends, host, "/echo?a=b")
            assert (status, json.loads(body)["target"]) == (200, "/echo?a=b")
        status, _, body = await get(ends, "somewhere.example", f"http://{APP}/echo")  # an absolute form wins
        assert (status, json.loads(body)["target"]) == (200, "/echo")


async def test_curl_reaches_a_client_by_its_name() -> None:
    async with named_ends(base_domain="localhost") as ends, ends.join(name="myapp") as client:
        resolved = ("--resolve", f"myapp.localhost:{ends.port}:127.0.0.1")  # which curl does by itself from 7.77 on
        done = await anyio.run_process(
            [program("curl"), "-sS", "--max-time", "20", *resolved, f"{client.url}echo?a=b"]
        )
        assert json.loads(done.stdout)["target"] == "/echo?a=b"


async def test_a_client_without_a_name_gets_one_that_survives_restarts() -> None:
    async with named_ends() as ends:
        async with ends.join() as client:
            first = client.url
        async with ends.join() as client:
            assert client.url == first
    async with named_ends() as ends, ends.join() as client, ends.join(token=OTHER_TOKEN) as other:
        host = client.url.split("/")[2].partition(":")[0]
        assert host == first.split("/")[2].partition(":")[0] == f"{derived_name(TOKEN, DOMAIN)}.{DOMAIN}"
        assert other.url.split("/")[2].partition(":")[0] != host
        assert (await get(ends, host))[0] == 200


async def test_a_name_leads_to_its_own_client() -> None:
    async with (
        named_ends() as ends,
        ends.join(name="one", host="one.example"),
        ends.join(name="two", token=OTHER_TOKEN, host="two.example"),
    ):
        for name in ("one", "two"):
            _, _, body = await get(ends, f"{name}.{DOMAIN}")
            fields = json.loads(body)["fields"]
            assert ["Host", f"{name}.example"] in fields
            assert ["X-Forwarded-Host", f"{name}.{DOMAIN}"] in fields


async def test_on_a_names_host_no_path_is_reserved() -> None:
    targets = [
        "/_tunnel",
        "/_tunnel/poll",
        "/_health_check",
        "/_stats",
        "/_metrics",
        f"/_token/{TOKEN}/a",
        "/request",
    ]
    async with named_ends() as ends, ends.join(name="myapp"):
        for target in targets:
            for method in ("GET", "POST"):
                status, _, body = await get(ends, target=target, method=method)
                assert (status, json.loads(body)["target"], json.loads(body)["method"]) == (200, target, method)


async def test_tokens_and_names_are_combined() -> None:
    async with named_ends() as ends, ends.join(name="myapp"):
        assert (await ends.get("/echo"))[0] == 200
        assert (await get(ends, DOMAIN, X_Token=TOKEN))[0] == 200
        assert (await get(ends, "127.0.0.1", f"/_token/{TOKEN}/echo"))[0] == 200
        _, _, body = await get(ends, X_Token=OTHER_TOKEN)  # on the name's host the name decides
        assert not [value for name, value in json.loads(body)["fields"] if name.lower() == "x-token"]


@ONE_WAY
async def test_other_hosts_are_the_servers_own() -> None:
    async with named_ends() as ends, ends.join(name="myapp"):
        for host in (DOMAIN, f"127.0.0.1:{ends.port}", "[::1]:80", "localhost", "elsewhere.example", f"a.b.{DOMAIN}"):
            assert (await get(ends, host, "/_health_check"))[::2] == (200, b"WSTUNSRV RUNNING\n")
            assert (await get(ends, host, "/"))[0] == 404


@ONE_WAY
@pytest.mark.parametrize("domain", ["localhost", "localhost:8080", "127.0.0.1.nip.io", "test"])
async def test_names_below_localhost_and_others_without_public_suffixes(domain: str) -> None:
    async with named_ends(base_domain=domain) as ends, ends.join(name="myapp"):
        assert (await get(ends, f"myapp.{domain.partition(':')[0]}:{ends.port}"))[0] == 200
        assert (await get(ends, f"{domain.partition(':')[0]}:{ends.port}", "/_health_check"))[0] == 200


async def test_a_name_that_nobody_has_is_not_found() -> None:
    limits = replace(DEFAULT_LIMITS, startup_wait=0.0)
    async with named_ends(limits=limits) as ends, ends.join(name="myapp"):
        for name in ("other", "constructor", "keys"):
            answer = await get(ends, f"{name}.{DOMAIN}")
            assert problem_of(answer)["code"] == "no_tunnel"
            assert "no tunnel has this name" in problem_of(answer)["detail"]
        assert (await get(ends))[0] == 200


async def test_a_name_that_nobody_may_claim_is_not_found_at_once_though_the_server_starts() -> None:
    async with named_ends() as ends, ends.join(name="myapp"):
        for name in ("www", "WPAD", "xn--x"):
            answer = problem_of(await get(ends, f"{name}.{DOMAIN}", "/_stats", X_Token=TOKEN))
            assert (answer["status"], answer["code"]) == (404, "no_tunnel")
            assert "no tunnel can have the name of this host" in answer["detail"]
        assert ends.server.snapshot().req_pending == 0


# -- waiting -----------------------------------------------------------------------------------


async def test_a_request_waits_for_a_name_whose_client_is_away() -> None:
    async with named_ends() as ends:
        async with ends.join(name="myapp"):
            pass
        async with anyio.create_task_group() as group:
            answers: list[Answer] = []

            async def ask() -> None:
                answers.append(await get(ends))

            group.start_soon(ask)
            await ends.pending(1)
            async with ends.join(name="myapp"):
                with anyio.fail_after(10):
                    await ends.pending(0)
        assert [answer[0] for answer in answers] == [200]


async def test_a_request_waits_for_an_unknown_name_while_the_server_starts() -> None:
    async with named_ends() as ends, anyio.create_task_group() as group:
        answers: list[Answer] = []

        async def ask() -> None:
            answers.append(await get(ends))

        for count in (1, 2):
            group.start_soon(ask)
            await ends.pending(count)
        async with ends.join(name="other", token=OTHER_TOKEN):
            assert not answers
            async with ends.join(name="myapp"):
                with anyio.fail_after(10):
                    await ends.pending(0)
        assert [answer[0] for answer in answers] == [200, 200]


# -- who has a name ----------------------------------------------------------------------------


async def test_a_name_taken_by_another_is_refused() -> None:
    async with named_ends() as ends, ends.join(name="myapp", host="first.example"):
        error = await refusal(ends, name="myapp", token=OTHER_TOKEN)
        assert (error.status, error.code, error.terminal) == (409, "name_taken", True)
        assert TOKEN not in str(error)
        _, _, body = await get(ends)
        assert ["Host", "first.example"] in json.loads(body)["fields"]
        assert len(ends.server.sessions()) == 1


async def test_a_name_stays_its_owners_while_that_is_away() -> None:
    async with named_ends() as ends:
        async with ends.join(name="myapp"):
            pass
        assert (await refusal(ends, name="MyApp", token=OTHER_TOKEN)).code == "name_taken"
        async with ends.join(name="myapp"):
            assert (await get(ends))[0] == 200


async def test_the_same_owner_takes_over_at_once_after_a_drop() -> None:
    async with (
        named_ends(limits=QUICK_ASKED) as ends,
        serve_relay(ends.port) as relay,
        ends.join(name="myapp", via=relay),
    ):
        relay.refusing = True
        relay.cut()
        start = anyio.current_time()
        async with ends.join(name="myapp", host="new.example"):
            assert anyio.current_time() - start < 10
            assert [session.attached for session in ends.server.sessions()] == [True]  # the old one is superseded
            _, _, body = await get(ends)
            assert ["Host", "new.example"] in json.loads(body)["fields"]


async def test_the_same_owner_takes_over_from_a_client_that_is_silently_dead() -> None:
    async with (
        named_ends(limits=QUICK_ASKED) as ends,
        serve_relay(ends.port) as relay,
        ends.join(name="myapp", via=relay),
    ):
        relay.stall()
        async with ends.join(name="myapp"):
            assert len(ends.server.sessions()) == 1
            assert (await get(ends))[0] == 200


async def test_whoever_was_superseded_ends_and_takes_nothing_back() -> None:
    async with named_ends(limits=SHORT) as ends, serve_relay(ends.port) as relay:

        async def be_superseded() -> None:
            async with ends.join(name="myapp", via=relay):
                relay.refusing = True
                relay.cut()
                async with ends.join(name="myapp"):
                    relay.refusing = False
                    await anyio.sleep_forever()

        with pytest.raises(RegistrationRefused) as caught, anyio.fail_after(15):
            await be_superseded()
        assert caught.value.code == "superseded"


async def test_a_second_client_of_the_owner_waits_for_its_turn() -> None:
    async with named_ends() as ends, ends.join(name="myapp"), ends.join(name="myapp", ready=False) as second:
        with anyio.fail_after(10):
            async for event in second.events():
                if isinstance(event, Retrying):
                    assert "too_many_clients" in event.reason
                    break
        assert (await get(ends))[0] == 200
        assert len(ends.server.sessions()) == 1


async def test_a_client_of_the_same_token_with_another_name_is_refused() -> None:
    async with named_ends(policy="pool") as ends, ends.join(name="myapp"):
        error = await refusal(ends, name="other")
        assert error.code in ("name_taken", "too_many_clients")
        assert (await get(ends))[0] == 200


async def test_with_another_name_a_token_gives_up_the_one_before() -> None:
    async with named_ends() as ends:
        for name in ("first", "second"):
            async with ends.join(name=name):
                pass
        async with ends.join(name="first", token=OTHER_TOKEN):
            assert (await refusal(ends, name="second", token="yet-another-token-for-tests")).code == "name_taken"


@ONE_WAY
async def test_a_derived_name_can_be_claimed_by_its_token_alone() -> None:
    name = derived_name(TOKEN, DOMAIN)
    async with named_ends() as ends:
        assert (await refusal(ends, name=name, token=OTHER_TOKEN)).code == "name_taken"
        async with ends.join(name=name):
            assert (await get(ends, f"{name}.{DOMAIN}"))[0] == 200


async def test_a_name_of_the_configuration_is_its_tokens_alone() -> None:
    async with named_ends(names={"MyApp": TOKEN}) as ends:
        assert (await refusal(ends, name="myapp", token=OTHER_TOKEN)).code == "name_taken"
        for name in ("myapp", None):  # it need not ask for it
            async with ends.join(name=name):
                assert (await get(ends))[0] == 200


@ONE_WAY
async def test_a_reload_gives_a_name_to_its_token() -> None:
    names: dict[str, str] = {}
    async with named_ends(names=lambda: names, known_tokens_only=True, known_tokens=[OTHER_TOKEN]) as ends:

        async def lose_it() -> None:
            async with ends.join(name="myapp", token=OTHER_TOKEN):
                names["myapp"] = TOKEN
                await ends.server.reload()
                await anyio.sleep_forever()

        with pytest.raises(RegistrationRefused) as caught, anyio.fail_after(10):
            await lose_it()
        assert caught.value.code == "name_taken"
        async with ends.join(name="myapp"):
            assert (await get(ends))[0] == 200
        names["my.app"] = TOKEN
        with pytest.raises(ConfigError, match="names: may hold letters"):
            await ends.server.reload()
        async with ends.join(name="myapp"):
            assert (await get(ends))[0] == 200


@ONE_WAY
async def test_the_hook_may_give_a_name() -> None:
    async def authorise(registration: Registration) -> Granted:
        assert registration.name == "wanted"
        return Granted(name="given")

    async with named_ends(authorise=authorise) as ends, ends.join(name="wanted") as client:
        assert client.url == f"http://given.{DOMAIN}:{ends.port}/"
        assert (await get(ends, f"given.{DOMAIN}"))[0] == 200


async def test_with_listed_tokens_only_a_name_is_waited_for_while_the_server_starts() -> None:
    async with named_ends(known_tokens=[TOKEN], known_tokens_only=True) as ends, anyio.create_task_group() as group:
        answers: list[Answer] = []

        async def ask() -> None:
            answers.append(await get(ends))

        group.start_soon(ask)
        await ends.pending(1)
        async with ends.join(name="myapp"):
            with anyio.fail_after(10):
                await ends.pending(0)
        assert [answer[0] for answer in answers] == [200]
        assert (await ask_by_token(ends, OTHER_TOKEN))[0] == 404


async def ask_by_token(ends: Ends, token: str) -> Answer:
    return await get(ends, "127.0.0.1", X_Token=token)


async def test_the_servers_own_host_is_nobodys_name() -> None:
    async with named_ends(base_domain="example.com", public_url="https://tunnel.example.com") as ends:
        assert (await refusal(ends, name="tunnel")).code == "name_taken"
        assert (await get(ends, "tunnel.example.com", "/_health_check"))[0] == 200


# -- bad names ---------------------------------------------------------------------------------


@ONE_WAY
@pytest.mark.parametrize("name", ["", "a.b", "-a", "a_b", "www", "xn--bcher-kva", "a" * 64, "bücher", "a\nb"])
async def test_a_bad_name_is_said_at_once_and_hurts_nobody(name: str) -> None:
    async with named_ends() as ends, ends.join(name="myapp"):
        with pytest.raises(ConfigError) as caught:
            TunnelClient(ends.server.url, token=OTHER_TOKEN, origin=ends.origin.url, name=name)
        assert caught.value.field == "name"
        assert caught.value.fix
        assert (await get(ends))[0] == 200


@ONE_WAY
async def test_a_bad_name_from_somebody_elses_client_is_refused() -> None:
    async with named_ends() as ends:
        client = TunnelClient(ends.server.url, token=TOKEN, origin=ends.origin.url, name="good")
        supervisor = client._supervisor
        supervisor._announce = replace(supervisor._announce, name="a.b")
        with pytest.raises(RegistrationRefused) as caught, anyio.fail_after(10):
            await client.run()
        assert (caught.value.status, caught.value.code) == (400, "bad_request")
        assert "the name may hold letters" in caught.value.detail


async def test_a_server_without_names_says_so() -> None:
    async with open_ends() as ends:
        error = await refusal(ends, name="myapp")
        assert (error.code, error.terminal) == ("bad_request", True)
        assert "no base domain" in error.detail
        async with ends.join() as client:
            assert client.url == f"{ends.server.url}/_token/{TOKEN}/"


@ONE_WAY
@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"base_domain": "127.0.0.1"}, "base_domain"),
        ({"base_domain": "*.example.com"}, "base_domain"),
        ({"base_domain": ""}, "base_domain"),
        ({"public_url": "tunnel.example.com"}, "public_url"),
        ({"names": {"app": TOKEN}}, "names"),
        ({"base_domain": DOMAIN, "names": {"a.b": TOKEN}}, "names"),
        ({"base_domain": DOMAIN, "names": {"app": TOKEN, "App": OTHER_TOKEN}}, "names"),
        ({"base_domain": DOMAIN, "names": {derived_name(TOKEN, DOMAIN): OTHER_TOKEN}}, "names"),
        ({"base_domain": DOMAIN, "names": {"app": "short"}}, "token"),
    ],
)
def test_a_bad_base_domain_url_or_name_of_the_configuration(options: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TunnelServer("127.0.0.1:0", **options)
    assert caught.value.field == field


# -- what the client shows ---------------------------------------------------------------------


@ONE_WAY
@pytest.mark.parametrize(
    ("options", "url"),
    [
        ({}, "http://myapp.tunnel.example.com:{port}/"),
        ({"base_path": "/base"}, "http://myapp.tunnel.example.com:{port}/base/"),
        ({"base_domain": "localhost"}, "http://myapp.localhost:{port}/"),
        ({"base_domain": "localhost:80"}, "http://myapp.localhost/"),
        ({"public_url": "https://tunnel.example.com"}, "https://myapp.tunnel.example.com/"),
        ({"public_url": "https://any.example:8443/"}, "https://myapp.tunnel.example.com:8443/"),
        (
            {"public_url": "https://tunnel.example.com", "base_domain": f"{DOMAIN}:444"},
            "https://myapp.tunnel.example.com:444/",
        ),
    ],
)
async def test_the_client_knows_its_public_url(options: dict[str, Any], url: str) -> None:
    async with named_ends(**options) as ends:
        base = options.get("base_path", "")
        async with ends.join(name="myapp", url=f"http://127.0.0.1:{ends.server.url.split(':')[2]}") as client:
            port = ends.server.url.split(":")[2].removesuffix(base)
            assert client.url == client.masked_url == url.format(port=port)


async def test_behind_a_trusted_proxy_the_public_url_has_its_scheme() -> None:
    async with (
        named_ends(trusted_proxies=["127.0.0.1"]) as ends,
        proxied(ends) as url,
        ends.join(name="myapp", url=url) as client,
    ):
        assert client.url == "https://myapp.tunnel.example.com/"


@ONE_WAY
async def test_a_public_url_is_told_where_there_are_no_names_too() -> None:
    async with open_ends(public_url="https://tunnel.example.com/base") as ends, ends.join() as client:
        assert client.url == f"https://tunnel.example.com/base/_token/{TOKEN}/"
        assert client.masked_url == f"https://tunnel.example.com/base/_token/{TOKEN[:8]}.../"


@ONE_WAY
async def test_log_lines_of_a_name_show_no_token(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tunnelkit")
    async with named_ends() as ends, ends.join(name="myapp"):
        await get(ends)
    assert any(f"registered token={TOKEN[:8]}" in line and " name=myapp " in line for line in caplog.messages)
    lines = [record.getMessage() for record in caplog.records if record.name == "tunnelkit.access"]
    assert lines
    assert all("token=myapp#" in line and TOKEN[:8] not in line for line in lines)


@asynccontextmanager
async def proxied(ends: Ends) -> AsyncIterator[str]:
    """A proxy in front of the server, which adds X-Forwarded-Proto to each head that passes."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")

    async def handle(near: anyio.abc.SocketStream) -> None:
        async with near, await anyio.connect_tcp("127.0.0.1", ends.port) as far, anyio.create_task_group() as group:
            group.start_soon(copy, near, far, b"HTTP/1.1\r\n")
            await copy(far, near, b"")
            group.cancel_scope.cancel()

    async def copy(source: anyio.abc.SocketStream, sink: anyio.abc.SocketStream, mark: bytes) -> None:
        try:
            async for data in source:
                if mark and mark in data[:200]:
                    data = data.replace(mark, mark + b"X-Forwarded-Proto: https\r\n", 1)
                await sink.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return

    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, handle)
        yield f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
        group.cancel_scope.cancel()
