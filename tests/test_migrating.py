"""docs/migrating.md maps every flag, key and variable of the tunnels before this one, to flags that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cli.options import CLIENT, RULE, SERVER, TOKEN, TUNNEL

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "migrating.md").read_text(encoding="utf-8")

# What their programs read.
OF_OTHERS = {
    "WStunnel": """-port -host -base-path -wstimeout -httptimeout -passwords -max-requests-per-tunnel
        -max-clients-per-token -robowhois -pidfile -logfile -syslog -log-level -log-pretty -token -tunnel
        -server -timeout -regexp -insecure -certfile -proxy -client-ports -statusfile
        HTTP_PROXY HTTPS_PROXY WSTUNNEL_PASSWORD X-Token X-Host _token _health_check _stats monitoring auditing""",
    "wsp": """-config host port timeout idletimeout secretkey whitelist blacklist id targets poolidlesize poolmaxsize
        poolminsize poolminidlesize method url headers X-PROXY-DESTINATION /register /status /request""",
    "socket-tunnel": "--hostname -h --port -p --subdomain -s --server -sub",
    "localtunnel": """--port -p --host -h --subdomain -s --local-host -l --local-https --local-cert --local-key
        --local-ca --allow-invalid-cert --open -o --print-requests --address --domain --secure --max-sockets
        DEBUG .env PORT HOST /api/status""",
}


def section(title: str) -> str:
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("tunnel", OF_OTHERS)
def test_everything_of_others_is_mapped(tunnel: str) -> None:
    words = set(re.findall(r"[\w./<>-]+", section(tunnel)))
    pieces = words | {piece for word in words for piece in re.split("[/<>]", word)}
    missing = [name for name in OF_OTHERS[tunnel].split() if name not in pieces]
    assert not missing


def test_flags_that_are_named_as_ours_exist() -> None:
    ours = {f"--{name}" for option in (*SERVER, *CLIENT) for name in (option.name, *getattr(option, "aliases", ()))}
    rows = [line.split(" | ", 1)[1] for line in TEXT.splitlines() if line.startswith("| `") and " | " in line]
    named = {
        flag for row in rows for code in re.findall(r"`([^`]+)`", row) for flag in re.findall(r"--[a-z-]+", code)
    }
    assert named
    assert named <= ours


def test_keys_that_are_named_as_ours_exist() -> None:
    tables = "".join(re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL))
    keys = {option.key for option in (*RULE, *TOKEN, *TUNNEL)}
    assert {line.split(" = ")[0] for line in tables.splitlines() if " = " in line} <= keys
