"""What callers may say, and what of it origins believe: X-Host and the forwarding fields (design, sections 8, 9)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .origin import serve_origin
from .tunnel import TOKEN, Ends, ask, exchange, open_ends, open_tunnel, problem_of

pytestmark = pytest.mark.anyio

LOOPBACK = r"http://127\.0\.0\.1:\d+"
DOMAIN = r"http://.*\.example\.com"


async def echoed(ends: Ends, **fields: str) -> dict[str, list[str]]:
    """The fields that reached the origin, by their names in lower case."""
    _, _, body = await exchange(ends.port, "GET", ends.path("/echo"), fields=fields)
    seen: dict[str, list[str]] = {}
    for name, value in json.loads(body)["fields"]:
        seen.setdefault(name.lower(), []).append(value)
    return seen


# -- X-Host ------------------------------------------------------------------------------------


async def test_x_host_picks_another_origin() -> None:
    async with open_tunnel(client_options={"allow": [LOOPBACK]}) as tunnel, serve_origin() as other:
        for spelling in (other.url, other.url.replace("http", "HTTP")):
            status, _, body = await tunnel.get("/echo/x?y=1", X_Host=spelling)
            assert status == 200
            assert json.loads(body)["target"] == "/echo/x?y=1"
            assert not any(name.lower() == "x-host" for name, _ in json.loads(body)["fields"])
        assert len(other.requests) == 2
        assert not tunnel.origin.requests


async def test_x_host_alone_without_an_origin() -> None:
    async with open_tunnel(client_options={"allow": [LOOPBACK], "origin": None}) as tunnel, serve_origin() as other:
        assert (await tunnel.get("/echo", X_Host=other.url))[0] == 200
        problem = problem_of(await ask(tunnel.port, tunnel.path("/echo")))
        assert (problem["status"], problem["code"]) == (403, "x_host_refused")


async def test_without_an_allowlist_no_x_host_is_allowed() -> None:
    async with open_tunnel() as tunnel:
        problem = problem_of(await ask(tunnel.port, tunnel.path("/echo"), X_Host=tunnel.origin.url))
        assert (problem["status"], problem["code"]) == (403, "x_host_refused")
        assert not tunnel.origin.requests


@pytest.mark.parametrize("x_host", ["http://10.0.0.1:80", "https://127.0.0.1:443", "http://localhost:80"])
async def test_an_x_host_off_the_list_is_403(x_host: str) -> None:
    async with open_tunnel(client_options={"allow": [LOOPBACK]}) as tunnel:
        problem = problem_of(await ask(tunnel.port, tunnel.path("/echo"), X_Host=x_host))
        assert (problem["status"], problem["code"]) == (403, "x_host_refused")


@pytest.mark.parametrize(
    "x_host",
    ["", "127.0.0.1", "http://", "ftp://a.example.com", "http://a.example.com:0", "http://a.example.com:99999"],
)
async def test_a_malformed_x_host_is_400(x_host: str) -> None:
    async with open_tunnel(client_options={"allow": [".*"]}) as tunnel:
        problem = problem_of(await ask(tunnel.port, tunnel.path("/echo"), X_Host=x_host))
        assert (problem["status"], problem["code"]) == (400, "bad_x_host")


@pytest.mark.parametrize(
    "spelling",
    [
        "http://127.0.0.1:{port}#.example.com",
        "http://127.0.0.1:{port}?.example.com",
        "http://127.0.0.1:{port}/.example.com",
        "http://127.0.0.1:{port}\\.example.com",
        "http://a.example.com@127.0.0.1:{port}",
        "http://a.example.com:x@127.0.0.1:{port}",
        "http://127.0.0.1:{port}%23.example.com",
        "http://127.0.0.1:{port}\t.example.com",
        "http://127.0.0.1:{port} http://a.example.com",
    ],
)
async def test_no_spelling_jumps_out_of_the_host(spelling: str) -> None:
    async with open_tunnel(client_options={"allow": [DOMAIN]}) as tunnel:
        answer = await ask(tunnel.port, tunnel.path("/echo"), X_Host=spelling.format(port=tunnel.origin.port))
        assert answer[0] in (400, 403)
        assert not tunnel.origin.requests


async def test_two_x_hosts_are_400() -> None:
    async with open_tunnel(client_options={"allow": [LOOPBACK]}) as tunnel:
        fields = {"X-Host": tunnel.origin.url, "x-host": tunnel.origin.url}
        assert (await exchange(tunnel.port, "GET", tunnel.path("/echo"), fields=fields))[0] == 400
        assert not tunnel.origin.requests


# -- the forwarding fields ---------------------------------------------------------------------


async def test_without_trusted_peers_forwarding_fields_are_made_anew() -> None:
    async with open_tunnel() as tunnel:
        seen = await echoed(
            tunnel,
            **{
                "X-Forwarded-For": "192.0.2.1",
                "X-Forwarded-Proto": "https",
                "X-Forwarded-Host": "elsewhere.example",
                "X-Forwarded-Anything": "made up",
                "X-Real-IP": "192.0.2.1",
                "Forwarded": "for=192.0.2.1",
            },
        )
        assert seen["x-forwarded-for"] == ["127.0.0.1"]
        assert seen["x-forwarded-proto"] == ["http"]
        assert seen["x-forwarded-host"] == ["tunnel.test"]
        assert not {"x-forwarded-anything", "x-real-ip", "forwarded"} & seen.keys()
        assert seen["via"] == ["1.1 tunnelkit"]


async def test_trusted_peers_are_believed_and_added_to_the_chain() -> None:
    async with open_tunnel(server_options={"trusted_proxies": ["127.0.0.0/8"]}) as tunnel:
        seen = await echoed(
            tunnel,
            **{
                "X-Forwarded-For": "192.0.2.1, 192.0.2.2",
                "X-Forwarded-Proto": "https",
                "X-Forwarded-Host": "public.example",
                "X-Real-IP": "192.0.2.1",
            },
        )
        assert seen["x-forwarded-for"] == ["192.0.2.1, 192.0.2.2, 127.0.0.1"]
        assert seen["x-forwarded-proto"] == ["https"]
        assert seen["x-forwarded-host"] == ["public.example"]
        assert seen["x-real-ip"] == ["192.0.2.1"]


@pytest.mark.parametrize(
    ("host", "expected"), [(None, "origin"), ("preserve", "tunnel.test"), ("fixed.example", "fixed.example")]
)
async def test_the_host_that_the_origin_gets(host: str | None, expected: str) -> None:
    options: dict[str, Any] = {"host": host}
    async with open_tunnel(client_options=options) as tunnel:
        seen = await echoed(tunnel)
        assert seen["host"] == [tunnel.origin.url.removeprefix("http://") if expected == "origin" else expected]


async def test_the_tunnels_own_fields_reach_no_origin() -> None:
    async with open_tunnel() as tunnel:
        seen = await echoed(
            tunnel,
            **{
                "X-Token": TOKEN,
                "Tunnelkit-Token": TOKEN,
                "Tunnelkit-Password": "x",
                "Keep-Alive": "a",
                "Proxy-Authorization": "b",
                "TE": "gzip",
            },
        )
        assert not {name for name in seen if name.startswith("tunnelkit") or name == "x-token"}
        assert not {"keep-alive", "proxy-authorization", "te"} & seen.keys()


async def test_the_prefix_of_an_origins_url() -> None:
    async with open_ends() as ends, ends.join(origin=ends.origin.url + "/echo/below"):
        _, _, body = await ends.get("/x?y")
        assert json.loads(body)["target"] == "/echo/below/x?y"
