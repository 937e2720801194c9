from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tunnelkit.stats import ServerSnapshot, TokenClients, TunnelRow, prefers_json, render_stats

# The sample of WStunnel's README, with the lines that its code adds after it.
SNAPSHOT = ServerSnapshot(
    tunnels=2,
    total_clients=2,
    max_requests_per_tunnel=20,
    max_clients_per_token=1,
    req_pending=1,
    token_clients=[
        TokenClients(prefix="my_token", digest="aaaaaa", clients=1),
        TokenClients(prefix="another_", digest="bbbbbb", clients=1),
    ],
    rows=[
        TunnelRow(
            token="my_token...",
            req_pending=0,
            tun_addr="192.168.1.100:54321",
            tun_dns="client.example.com",
            client_version="tunnelkit 1.0.0",
            idle_secs=5.24,
        ),
        TunnelRow(
            token="another_...",
            req_pending=1,
            tun_addr="10.0.0.5:12345",
            client_version="wstunnel v1.0.0",
            idle_secs=120.4567,
            cli_addr="10.1.1.1",
        ),
    ],
)

TEXT = """\
tunnels=2
max_requests_per_tunnel=20
max_clients_per_token=1
token_clients_my_token=1
token_clients_another_=1
total_clients=2

tunnel00_token=my_token...
tunnel00_req_pending=0
tunnel00_tun_addr=192.168.1.100:54321
tunnel00_tun_dns=client.example.com
tunnel00_client_version=tunnelkit 1.0.0
tunnel00_idle_secs=5.2

tunnel01_token=another_...
tunnel01_req_pending=1
tunnel01_tun_addr=10.0.0.5:12345
tunnel01_client_version=wstunnel v1.0.0
tunnel01_idle_secs=120.5
tunnel01_cli_addr=10.1.1.1

req_pending=1
dead_tunnels=1
"""


def text(snapshot: ServerSnapshot, *, details: bool = True) -> str:
    kind, body = render_stats(snapshot, details=details)
    assert kind == "text/plain; charset=utf-8"
    return body.decode()


def test_the_sample() -> None:
    assert text(SNAPSHOT) == TEXT


def test_strangers_learn_totals_only() -> None:
    assert text(SNAPSHOT, details=False) == (
        "tunnels=2\nmax_requests_per_tunnel=20\nmax_clients_per_token=1\ntotal_clients=2\n"
        "More stats available when called from localhost...\n"
    )


def test_no_clients_of_tokens_without_a_limit() -> None:
    assert "token_clients_" not in text(replace(SNAPSHOT, max_clients_per_token=0))


def test_equal_prefixes_get_digits_of_their_digests() -> None:
    clients = [
        TokenClients(prefix="my_token", digest="aaaaaa", clients=1),
        TokenClients(prefix="my_token", digest="bbbbbb", clients=2),
        TokenClients(prefix="another_", digest="cccccc", clients=3),
    ]
    lines = text(replace(SNAPSHOT, token_clients=clients)).splitlines()
    assert lines[3:6] == [
        "token_clients_my_token_aaaaaa=1",
        "token_clients_my_token_bbbbbb=2",
        "token_clients_another_=3",
    ]


def test_a_token_cannot_break_its_line() -> None:
    clients = [TokenClients(prefix="a=b\nc=d", digest="aaaaaa", clients=1)]
    assert text(replace(SNAPSHOT, token_clients=clients)).splitlines()[3] == r"token_clients_a%3Db\x0ac%3Dd=1"


def test_what_a_client_says_of_itself_stays_on_its_line() -> None:
    row = replace(SNAPSHOT.rows[0], client_version="x\ndead_tunnels=9")
    lines = text(replace(SNAPSHOT, rows=[row])).splitlines()
    assert r"tunnel00_client_version=x\x0adead_tunnels=9" in lines


def test_what_is_not_known_is_left_out() -> None:
    row = TunnelRow(token="my_token...", req_pending=0, tun_addr="10.0.0.5:1")
    lines = text(replace(SNAPSHOT, rows=[row])).splitlines()
    assert [line.partition("=")[0] for line in lines if line.startswith("tunnel00_")] == [
        "tunnel00_token",
        "tunnel00_req_pending",
        "tunnel00_tun_addr",
        "tunnel00_idle_secs",
    ]


def test_numbers_beyond_two_digits() -> None:
    rows = [replace(SNAPSHOT.rows[0]) for _ in range(101)]
    assert "\ntunnel100_token=" in text(replace(SNAPSHOT, rows=rows))


def test_json() -> None:
    kind, body = render_stats(SNAPSHOT, accept="application/json", details=True)
    assert kind == "application/json"
    document = json.loads(body)
    assert document["tunnels"] == 2
    assert document["token_clients"] == {"my_token": 1, "another_": 1}
    assert document["sessions"][1] == {
        "token": "another_...",
        "req_pending": 1,
        "tun_addr": "10.0.0.5:12345",
        "tun_dns": "",
        "client_version": "wstunnel v1.0.0",
        "idle_secs": 120.5,
        "cli_addr": "10.1.1.1",
    }
    assert document["dead_tunnels"] == 1


def test_json_for_strangers() -> None:
    _, body = render_stats(SNAPSHOT, accept="application/json", details=False)
    assert json.loads(body) == {
        "tunnels": 2,
        "total_clients": 2,
        "max_requests_per_tunnel": 20,
        "max_clients_per_token": 1,
    }


@pytest.mark.parametrize(
    ("accept", "json_wins"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/json", True),
        ("APPLICATION/JSON", True),
        ("application/*", True),
        ("application/json, text/plain", False),
        ("application/json;q=0.5, text/plain;q=0.4", True),
        ("application/json;q=0.5, */*", False),
        ("text/html, application/json;q=0.9, */*;q=0.8", True),
        ("application/json;q=0", False),
        ("application/json;q=zero", False),
        ("application/json;charset=utf-8", True),
        (";;,,", False),
    ],
)
def test_accept(accept: str, json_wins: bool) -> None:
    assert prefers_json(accept) is json_wins
