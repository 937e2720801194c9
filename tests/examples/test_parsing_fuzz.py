"""Any arguments, environment and configuration file become settings, or one line that says what is wrong and shows no
secret."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cli.options import CLIENT, SERVER, TOKEN, TUNNEL, Option
from cli.parsing import Settings, UsageError, parse

SECRET = "s3cr3t"
PROGRAMS = {"server": (SERVER, {"token": TOKEN}), "client": (CLIENT, {"tunnel": TUNNEL})}
OPTIONS = [option for option in (*SERVER, *CLIENT, *TOKEN, *TUNNEL) if isinstance(option, Option)]
SECRETS = {option.key for option in OPTIONS if option.secret}

KEYS = st.sampled_from(sorted({option.key for option in OPTIONS} | {"token", "tunnel", "nonsense"})) | st.text(
    max_size=8
)
# A userinfo is shown nowhere, whatever the setting; the value of a secret setting neither.
USERINFO = st.sampled_from(
    [f"http://u:{SECRET}@[x", f"http://u:{SECRET}@a:x", f"ftp://u:{SECRET}@a", f"ws://u:{SECRET}@a/?b"]
)
SECRET_TEXTS = USERINFO | st.sampled_from(
    [SECRET, f"{SECRET}-that-is-long-enough:{SECRET}", f"{SECRET}:{SECRET},{SECRET}", f"http://{SECRET}\u2100"]
)
TEXTS = (
    st.text(max_size=30)
    | USERINFO
    | st.sampled_from(
        [
            *("", "true", "1", "-1", "1e999", "nan", "127.0.0.1:1", "[::1]:0", "10.0.0.0/33", "8000..8001"),
            *("a:b,c:d", "http://a\u2100", "ws://a", "unix:"),
        ]
    )
)
VALUES = st.recursive(
    TEXTS | st.booleans() | st.integers() | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=2),
    max_leaves=3,
)
WITH_SECRETS = st.dictionaries(st.sampled_from(sorted(SECRETS)), SECRET_TEXTS | st.lists(SECRET_TEXTS, max_size=2))
DOCUMENTS = WITH_SECRETS | st.dictionaries(
    KEYS, VALUES | st.lists(st.dictionaries(KEYS, VALUES, max_size=4), max_size=3), max_size=5
)


def as_toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(key)} = {as_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    return quoted(value) if isinstance(value, str) else str(value).lower()


def quoted(text: str) -> str:
    """JSON's strings are TOML's, but for surrogates, which TOML cannot hold."""
    plain = text.encode("utf-8", "replace").decode()
    return re.sub("\x7f", r"\\u007f", json.dumps(plain, ensure_ascii=False))


def read(
    program: str, arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Settings | None:
    options, tables = PROGRAMS[program]
    try:
        return parse(options, arguments, environment or {}, tables)
    except UsageError as error:
        text = str(error)
        assert SECRET not in text
        assert "\n" not in text
        return None


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "config.toml"


@given(st.sampled_from(sorted(PROGRAMS)), DOCUMENTS)
def test_any_document(config: Path, program: str, document: dict[str, Any]) -> None:
    lines = [f"{quoted(key)} = {as_toml(value)}" for key, value in document.items()]
    config.write_text("\n".join(lines), encoding="utf-8")
    found = read(program, ["--config", str(config)])
    if found is not None:
        assert found.from_file <= {key.replace("-", "_") for key in document}


@given(
    st.sampled_from(sorted(PROGRAMS)), st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode())
)
@example("server", b"a = " + b"[" * 3000)
@example("server", b'passwords = "' + SECRET.encode())
@example("client", b"[[tunnel]]\n[[tunnel.x]]")
@example("client", b"[tunnel]\na = 1")
@example("client", b"token = 1979-05-27T07:32:00Z")
def test_any_file(config: Path, program: str, data: bytes) -> None:
    config.write_bytes(data)
    read(program, ["--config", str(config)])


FLAGS = KEYS.map(lambda key: "--" + key.replace("_", "-")).filter(lambda flag: flag != "--config")


SECRET_FLAGS = st.tuples(
    st.sampled_from([f"--{key.replace('_', '-')}" for key in sorted(SECRETS)]), SECRET_TEXTS
).map("=".join)


@given(
    st.sampled_from(sorted(PROGRAMS)),
    st.lists(FLAGS | TEXTS | st.tuples(FLAGS, TEXTS).map("=".join) | SECRET_FLAGS, max_size=6),
    st.dictionaries(KEYS.map(lambda key: f"TUNNELKIT_{key.upper()}"), TEXTS, max_size=3),
)
@example("client", ["--\n"], {})
def test_any_arguments_and_environment(program: str, arguments: list[str], environment: dict[str, str]) -> None:
    environment.pop("TUNNELKIT_CONFIG", None)
    read(program, [text for text in arguments if not text.startswith("--config")], environment)
