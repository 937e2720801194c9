"""What the flags become: arguments of TunnelServer and TunnelClient. WStunnel's own lines first."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

import tunnel_client
import tunnel_server
from cli import tokens
from cli.options import CLIENT, RULES, SERVER, TOKEN, TUNNEL
from cli.origin import origin_of
from cli.parsing import Settings, UsageError, parse
from cli.rules import rules
from cli.running import in_flags, log_start, warn_of_open_files
from tunnelkit import ConfigError, RegistrationRefused, Rule, TunnelClient, TunnelServer, accelerators
from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.core.addresses import is_public
from tunnelkit.core.balance import at_random
from tunnelkit.legacy.wsp import PoolSize, WspTransport
from tunnelkit.origins.url import OriginUrl, UrlOrigin
from tunnelkit.transports.websocket.masking import mask_by_wsproto

from ..conftest import COMPILED

LINES = json.loads((Path(__file__).parent.parent / "data" / "readme_lines.json").read_text())["lines"]
TOKEN_TEXT = "my_b!g_$secret!!"
TUNNEL_FLAGS = ["--tunnel", "ws://127.0.0.1:1", "--server", "http://127.0.0.1:2", "--token", TOKEN_TEXT]


def server(*arguments: str, **environment: str) -> Settings:
    return parse(SERVER, arguments, environment, {"token": TOKEN, **RULES})


def client(*arguments: str, **environment: str) -> Settings:
    return parse(CLIENT, arguments, environment, {"tunnel": TUNNEL, **RULES})


@pytest.mark.parametrize("line", LINES, ids=lambda line: " ".join([line["program"], *line["arguments"]])[:60])
def test_the_lines_of_wstunnels_readmes(line: dict[str, Any]) -> None:
    """Each builds the object that the library then runs, or gets exactly the message in the data file."""
    arguments = [*line["arguments"], *line.get("added", [])]
    environment = line.get("environment", {})

    def build() -> TunnelServer | TunnelClient:
        if line["program"] == "srv":
            return tunnel_server.make_server(server(*arguments, **environment))
        return tunnel_client.make_client(client(*arguments, **environment), environment)

    if line["error"] is None:
        assert build() is not None
    else:
        with pytest.raises(UsageError) as raised:
            build()
        assert str(raised.value) == line["error"]


# -- the server -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "addresses"),
    [
        ([], ["127.0.0.1:8080"]),
        (["--listen", "[::1]:0", "--listen", "127.0.0.1:0"], ["[::1]:0", "127.0.0.1:0"]),
        (["--port", "8080"], ["0.0.0.0:8080"]),
        (["--host", "10.0.0.1"], ["10.0.0.1:80"]),
        (["--host", "::", "--port", "0"], ["[::]:0"]),
    ],
)
def test_where_the_server_listens(arguments: list[str], addresses: list[str]) -> None:
    assert tunnel_server.listen_addresses(server(*arguments)) == addresses


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--listen", "127.0.0.1:1", "--port", "2"], "--listen: contradicts --host and --port"),
        (["--tls-key", "k"], "--tls-key: is of no use without --tls-cert; add it"),
        (["--client-ca", "k"], "--client-ca: is of no use without --tls-cert; add it"),
        (["--known-tokens-only"], "--known-tokens-only: no token is listed; add --passwords-file"),
        (["--passwords-file", "/none"], "--passwords-file: cannot read /none"),
        (["--admin-password-file", "/none"], "--admin-password-file: cannot read /none"),
    ],
)
def test_settings_of_the_server_that_do_not_go_together(arguments: list[str], text: str) -> None:
    with pytest.raises(UsageError) as raised:
        tunnel_server.make_server(server(*arguments))
    assert str(raised.value).startswith(text)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--base-domain", "127.0.0.1"], "--base-domain: '127.0.0.1' is an address"),
        (["--base-domain", "*.example.com"], "--base-domain: '*.example.com' is no domain; give one such as"),
        (["--public-url", "tunnel.example.com"], "--public-url: is no http:// or https:// URL"),
    ],
)
def test_names_of_the_server_that_cannot_be(arguments: list[str], text: str) -> None:
    settings = server(*arguments)
    with pytest.raises(ConfigError) as raised:
        tunnel_server.make_server(settings)
    assert in_flags(raised.value, settings).startswith(text)


def test_names_of_tokens(tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    tables = '[[token]]\ntoken = "the-first-of-tokens"\nname = "one"\n[[token]]\ntoken = "the-other-of-tokens"\n'
    path.write_text(f'base_domain = "localhost:8080"\n{tables}')
    settings = server("--config", str(path))
    assert tokens.names(settings) == {"one": "the-first-of-tokens"}
    assert tunnel_server.make_server(settings) is not None
    path.write_text(f'base_domain = "localhost:8080"\n{tables}name = "one"\n')
    with pytest.raises(UsageError, match=r"\[\[token\]\] 2: name: another token has this name; choose another"):
        tunnel_server.make_server(server("--config", str(path)))
    path.write_text(f"{tables}")
    with pytest.raises(ConfigError, match="give base_domain too") as raised:
        tunnel_server.make_server(server("--config", str(path)))
    assert "--base-domain" in in_flags(raised.value, settings)


def complaint(*arguments: str) -> str:
    """What the user of a server is told of these settings."""
    try:
        settings = server(*arguments)
        tunnel_server.make_server(settings)
    except UsageError as error:
        return str(error)
    except ConfigError as error:
        return in_flags(error, settings)
    return ""


WSP = """
[[blacklist]]
url = '.*/admin'

[[whitelist]]
method = 'GET'
headers = ['X-Team: blue', 'X-Other: (?:)']
"""


def test_rules_of_both_ends(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(WSP)
    for settings in (server("--config", str(path)), client(*TUNNEL_FLAGS, "--config", str(path))):
        assert rules(settings, "blacklist") == [Rule(url=".*/admin")]
        assert rules(settings, "whitelist") == [Rule(method="GET", headers={"X-Team": "blue", "X-Other": "(?:)"})]
    assert tunnel_server.make_server(server("--config", str(path)))._state.rules
    made = tunnel_client.make_client(client("--config", str(path), *TUNNEL_FLAGS[:2], "--token", TOKEN_TEXT), {})
    assert "blacklist=1 whitelist=1" in repr(made._agent._guard)


def test_the_servers_rules_are_read_again(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(WSP)
    settings = server("--config", str(path))
    made = tunnel_server.make_server(settings)
    for text, shown in [("[[blacklist]]\nmethod = 'DELETE'\n" * 3, "=3 whitelist=0"), ("", "=0 whitelist=0")]:
        path.write_text(text)
        anyio.run(made.reload)
        assert shown in repr(made._state.rules)
    path.write_text("[[whitelist]]\nmethod = 'GET'\n[[whitelist]]\nurl = '('\n")
    with pytest.raises(ConfigError) as caught:
        anyio.run(made.reload)
    assert in_flags(caught.value, settings).startswith(f"{path}: [[whitelist]] 2: url: '(' is no regular")
    assert "=0 whitelist=0" in repr(made._state.rules)


def test_rules_hold_for_all_tunnels(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(f'{WSP}\n[[tunnel]]\ntoken = "the-first-of-tokens"\n[[tunnel]]\ntoken = "the-other-of-tokens"\n')
    made = tunnel_client.make_tunnels(client("--config", str(path), *TUNNEL_FLAGS[:4]))
    assert ["blacklist=1 whitelist=1" in repr(one.client._agent._guard) for one in made] == [True, True]


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        ("tunnel = 'wss://tunnel.example.com'", False),
        ("tunnel = 'wss://me:word@tunnel.example.com'", True),
        ("proxy = 'http://proxy:3128'", False),
        ("password = 'word'", True),
        ("[[tunnel]]\ntunnel = 'wss://tunnel.example.com'\ntoken_file = 'token'", False),
        ("[[tunnel]]\nserver = 'http://localhost'\n[[tunnel]]\ntoken = 'a-token-of-16-characters'", True),
    ],
)
def test_a_configuration_with_secrets_that_others_can_read(
    tmp_path: Path, text: str, warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "client.toml"
    path.write_text(text)
    path.chmod(0o644)
    warn_of_open_files(client("--config", str(path)), [*CLIENT, *TUNNEL])
    assert (f"warning: {path} holds secrets" in capsys.readouterr().err) is warned


def test_the_exit_status_of_several_tunnels() -> None:
    superseded = RegistrationRefused(409, "superseded", "another client has taken this one's place")
    refused = RegistrationRefused(403, "forbidden", "no")
    for failed, status in [([], 0), ([superseded], 3), ([superseded, superseded], 3), ([superseded, refused], 1)]:
        assert tunnel_client.exit_status(failed) == status


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("[[blacklist]]\nurl = '('", "{path}: [[blacklist]] 1: url: '(' is no regular expression"),
        ("[[whitelist]]\nmethod='GET'\n[[whitelist]]", "{path}: [[whitelist]] 2: is empty, and would match every"),
        ("[[whitelist]]\nheaders = ['a b: c']", "{path}: [[whitelist]] 1: headers: 'a b' is no name of a field"),
        ("[[whitelist]]\nheaders = ['a: b', 'a: c']", "{path}: [[whitelist]] 1: headers: a is there twice"),
        ("[[whitelist]]\nheaders = ['b']", "{path}: [[whitelist]] 1: headers: must be NAME: PATTERN"),
        ("[[whitelist]]\nurls = 'b'", "{path}: [[whitelist]] 1: there is no setting 'urls'; did you mean 'url'?"),
        ("[whitelist]\nurl = 'b'", "{path}: whitelist: write its settings under [[whitelist]]"),
    ],
)
def test_bad_rules_name_file_list_number_and_part(tmp_path: Path, rule: str, text: str) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(rule + "\n")

    assert complaint("--config", str(path)).startswith(text.format(path=path))


def test_wsps_settings_of_the_server(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("ThisIsASecret\n")
    made = tunnel_server.make_server(
        server("--wsp-path", "fetch", "--wsp-token", TOKEN_TEXT, "--secretkey-file", str(path), "--balance", "random")
    )
    assert made._state.routing.wsp_path == "/fetch"
    assert made._state.routing.wsp_token == TOKEN_TEXT
    assert made._state.balance is at_random
    assert made._state.admission.credentials.required_of_all
    assert tunnel_server.make_server(server("--wsp-path", ""))._state.routing.wsp_path is None
    plain = tunnel_server.make_server(server())
    assert (plain._state.routing.wsp_path, plain._state.routing.wsp_token) == ("/request", None)
    assert not plain._state.admission.credentials.required_of_all
    assert "wsp" not in plain._state.transports
    made = tunnel_server.make_server(server("--wsp-token", TOKEN_TEXT, "--wsp-register", "register"))
    assert made._state.transports["wsp"].own_path() == "/register"


@pytest.mark.parametrize(
    ("arguments", "queue", "head"),
    [([], 60, 60), (["--queue-timeout", "1s"], 1, 60), (["--httptimeout", "9", "--queue-timeout", "1"], 1, 9)],
)
def test_the_wait_for_a_client(arguments: list[str], queue: float, head: float) -> None:
    limits = tunnel_server.limits(server(*arguments))
    assert (limits.queue_timeout, limits.response_head_timeout) == (queue, head)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--wsp-token", "my-secret"], "--wsp-token: can be no token"),
        (["--secretkey", "x", "--secretkey-file", "/none"], "--secretkey-file: contradicts --secretkey"),
        (["--secretkey-file", "/none"], "--secretkey-file: cannot read /none"),
        (["--secretkey", "scrypt$my-secret"], "--secretkey: it: a hash must read"),
        (["--wsp-path", "/a b"], "--wsp-path: must be a plain path"),
        (["--wsp-register", "/register"], "--wsp-register: needs --wsp-token"),
        (["--wsp-register", "/register", "--wsp-token", "my-secret"], "--wsp-token: can be no token"),
        (["--balance", "fair"], "--balance: must be least-load or random"),
    ],
)
def test_wsps_settings_that_cannot_be(arguments: list[str], text: str) -> None:
    assert complaint(*arguments).startswith(text)
    assert "my-secret" not in complaint(*arguments)


def test_the_secret_key_is_a_password() -> None:
    flags = ("--secretkey", "ThisIsASecret")
    assert tunnel_client.credentials(client(*TUNNEL_FLAGS, *flags), {}) == (TOKEN_TEXT, "ThisIsASecret")
    assert tunnel_client.credentials(client(*TUNNEL_FLAGS, *flags, "--password", "own"), {}) == (TOKEN_TEXT, "own")


@pytest.mark.parametrize("name", ["a.b", "www", ""])
def test_names_of_the_client_that_cannot_be(name: str) -> None:
    with pytest.raises((ConfigError, UsageError), match="name: "):
        tunnel_client.make_client(client(*TUNNEL_FLAGS, "--name", name), {})


def test_the_name_of_the_client() -> None:
    made = tunnel_client.make_client(client(*TUNNEL_FLAGS, "--name", "MyApp"), {})
    assert made._supervisor._announce.name == "myapp"


@pytest.mark.parametrize(
    ("flags", "served"),
    [([], ["websocket", "longpoll", "wstunnel"]), (["--no-wstunnel"], ["websocket", "longpoll"])],
)
def test_whose_clients_are_served(flags: list[str], served: list[str]) -> None:
    assert list(tunnel_server.make_server(server(*flags))._state.transports) == served


@pytest.mark.parametrize(
    ("flags", "tried", "guessed"),
    [
        ([], ["websocket", "longpoll"], frozenset()),
        (["--allow-legacy"], ["websocket", "longpoll", "wstunnel"], frozenset({"wstunnel"})),
        (["--allow-legacy", "--transport", "longpoll"], ["longpoll"], frozenset()),
        (["--transport", "wstunnel"], ["wstunnel"], frozenset()),
    ],
)
def test_whose_servers_are_tried(flags: list[str], tried: list[str], guessed: frozenset[str]) -> None:
    way = tunnel_client.make_client(client(*TUNNEL_FLAGS, *flags), {})._supervisor._way
    assert (list(way.transports), way.guessed) == (tried, guessed)


def test_a_wsp_server_is_shown_a_key_and_no_token() -> None:
    flags = ["--tunnel", "ws://127.0.0.1:1/register", "--server", "http://127.0.0.1:2", "--transport", "wsp"]
    variables = {"TUNNELKIT_SECRETKEY": "a key", "WSTUNNEL_PASSWORD": "not theirs", "TUNNELKIT_POOLIDLESIZE": "3"}
    settings = client(*flags, "--poolmaxsize", "7", **variables)
    token, password = tunnel_client.credentials(settings, variables)
    assert (len(token) >= 16, password) == (True, "a key")
    transport = tunnel_client.transport_of(settings, DEFAULT_LIMITS)
    assert isinstance(transport, WspTransport)
    assert transport.size == PoolSize(poolidlesize=3, poolmaxsize=7)


def test_a_pool_that_is_none_names_its_flag() -> None:
    flags = [*TUNNEL_FLAGS, "--transport", "wsp", "--poolidlesize", "5", "--poolmaxsize", "4"]
    with pytest.raises(UsageError, match=r"--poolmaxsize: must be from 5 to 1000"):
        tunnel_client.make_tunnels(client(*flags))


def test_a_certificate_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "cert.pem"
    path.write_text("no certificate")
    with pytest.raises(ConfigError, match=r"cert\.pem"):
        tunnel_server.make_server(server("--tls-cert", str(path)))


def test_tls_files(tls_files: dict[str, Path]) -> None:
    flags = ["--tls-cert", str(tls_files["cert"]), "--tls-key", str(tls_files["key"])]
    assert tunnel_server.make_server(server(*flags, "--client-ca", str(tls_files["ca"]))) is not None


@pytest.mark.parametrize(
    ("seconds", "used", "warned"), [("30", 30, False), ("1", 3, True), ("6", 6, False), ("3600", 600, True)]
)
def test_wstimeout(seconds: str, used: float, warned: bool, capsys: pytest.CaptureFixture[str]) -> None:
    limits = tunnel_server.limits(server("--wstimeout", seconds))
    assert limits.ping_idle_silence == pytest.approx(used * 2 / 3)
    assert limits.ping_idle_timeout == pytest.approx(used / 3)
    assert limits.detection_active == min(10, used)
    assert ("--wstimeout: " in capsys.readouterr().err) is warned


def test_other_limits() -> None:
    limits = tunnel_server.limits(
        server("--httptimeout", "1200", "--max-requests-per-tunnel", "7", "--max-clients-per-token", "2")
    )
    assert (limits.queue_timeout, limits.response_head_timeout) == (1200, 1200)
    assert (limits.max_requests_per_tunnel, limits.max_clients_per_token) == (7, 2)
    assert tunnel_server.limits(server("--drain-timeout", "5")).drain_timeout == 5


def test_passwords_are_read_again(tmp_path: Path) -> None:
    passwords, config = tmp_path / "passwords", tmp_path / "server.toml"
    passwords.write_text(f"{TOKEN_TEXT}:one\n")
    config.write_text(
        f'[[token]]\ntoken = "{TOKEN_TEXT}2:two"\n[[token]]\ntoken = "{TOKEN_TEXT}3"\npassword = "three"\n'
    )
    settings = server(
        "--config", str(config), "--passwords-file", str(passwords), "--passwords", f"{TOKEN_TEXT}4:four"
    )
    read = tokens.password_source(settings)
    assert read is not None
    assert read() == {
        TOKEN_TEXT: "one",
        f"{TOKEN_TEXT}2": "two",
        f"{TOKEN_TEXT}3": "three",
        f"{TOKEN_TEXT}4": "four",
    }
    passwords.write_text("")
    config.write_text("")
    assert read() == {f"{TOKEN_TEXT}4": "four"}
    passwords.write_text("nonsense")
    with pytest.raises(UsageError, match=r"--passwords-file: .*line 1 has no colon"):
        read()


def test_the_admin_password_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "admin"
    path.write_text("one\n")
    read = tunnel_server.admin_password_source(server("--admin-password-file", str(path)))
    assert read is not None
    assert read() == "one"
    path.write_text("two\n")
    assert read() == "two"
    assert tunnel_server.admin_password_source(server()) is None


def test_tokens_without_passwords(tmp_path: Path) -> None:
    config = tmp_path / "server.toml"
    config.write_text(f'known_tokens_only = true\n[[token]]\ntoken = "{TOKEN_TEXT}"\n')
    settings = server("--config", str(config))
    assert tokens.known_tokens(settings) == [TOKEN_TEXT]
    read = tokens.password_source(settings)
    assert read is not None, "at a reload there may be passwords"
    assert read() == {}
    config.write_text(f'[[token]]\ntoken = "{TOKEN_TEXT}2"\n')  # at a reload
    assert tokens.known_tokens(settings) == [f"{TOKEN_TEXT}2"]
    assert tunnel_server.make_server(settings) is not None


# -- the client -------------------------------------------------------------------------------------


def test_policies_and_callers_of_tokens(tmp_path: Path) -> None:
    config, users = tmp_path / "c.toml", tmp_path / "callers"
    config.write_text(f"[[token]]\ntoken = '{TOKEN_TEXT}'\npolicy = 'reject'\ncallers = ['alice:a:b', 'bob:c']\n")
    users.write_text(f"{TOKEN_TEXT}:carol:d\nname:myapp:dave:e\n")
    settings = server("--config", str(config), "--callers-file", str(users), "--policy", "standby")
    assert tokens.policy_source(settings)() == {TOKEN_TEXT: "reject"}
    read = tokens.caller_source(settings)
    assert read() == {TOKEN_TEXT: {"carol": "d", "alice": "a:b", "bob": "c"}, "name:myapp": {"dave": "e"}}
    users.write_text("")
    assert read() == {TOKEN_TEXT: {"alice": "a:b", "bob": "c"}}
    assert tunnel_server.make_server(settings)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--policy", "first"], "--policy: must be pool, replace, reject or standby"),
        (["--policy", "replace"], "--policy: 'replace' needs a registration secret"),
        (["--callers-file", "/none"], "--callers-file: cannot read /none"),
    ],
)
def test_bad_policies_and_callers_are_named(arguments: list[str], text: str) -> None:
    with pytest.raises((UsageError, ConfigError)) as raised:
        tunnel_server.make_server(server(*arguments))
    told = in_flags(raised.value, server(*arguments)) if isinstance(raised.value, ConfigError) else str(raised.value)
    assert told.startswith(text)


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ("policy = 'replace'", "[[token]]: policy: of token 1: 'replace' needs a registration secret"),
        (
            "callers = ['a:scrypt$1']",
            "--callers-file or [[token]]: callers: the password of entry 1: a hash must read",
        ),
    ],
)
def test_a_mistake_in_a_token_table_names_its_key(tmp_path: Path, lines: str, text: str) -> None:
    config = tmp_path / "c.toml"
    config.write_text(f"[[token]]\ntoken = '{TOKEN_TEXT}'\n{lines}\n")
    settings = server("--config", str(config))
    with pytest.raises(ConfigError) as raised:
        tunnel_server.make_server(settings)
    assert in_flags(raised.value, settings).startswith(text)


def test_a_bad_line_of_the_callers_file_is_named_and_not_shown(tmp_path: Path) -> None:
    users = tmp_path / "callers"
    users.write_text(f"# users\n{TOKEN_TEXT}:alice\n")
    with pytest.raises(UsageError) as raised:
        tunnel_server.make_server(server("--callers-file", str(users)))
    assert str(raised.value).startswith(f"--callers-file: {users}: line 2 is not complete; give TOKEN:USER:PASSWORD")
    assert TOKEN_TEXT not in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "--tunnel: is missing"),
        (TUNNEL_FLAGS[:2], "--token: is missing; give --token or --token-file"),
        ([*TUNNEL_FLAGS[:2], *TUNNEL_FLAGS[4:]], "--server: is missing"),
        ([*TUNNEL_FLAGS[:4], "--token-file", "/none"], "--token-file: cannot read /none"),
        ([*TUNNEL_FLAGS, "--ask-password"], "--ask-password: there is no terminal to ask on"),
    ],
)
def test_settings_that_the_client_misses(arguments: list[str], text: str) -> None:
    with pytest.raises(UsageError) as raised:
        tunnel_client.make_client(client(*arguments), {})
    assert str(raised.value).startswith(text)


@pytest.mark.parametrize(
    ("token", "variables", "password"),
    [
        (TOKEN_TEXT, {}, None),
        (TOKEN_TEXT, {"WSTUNNEL_PASSWORD": "old"}, "old"),
        (TOKEN_TEXT, {"WSTUNNEL_PASSWORD": "old", "TUNNELKIT_PASSWORD": "new"}, "new"),
        (f"{TOKEN_TEXT}:own", {"WSTUNNEL_PASSWORD": "old", "TUNNELKIT_PASSWORD": "new"}, "own"),
    ],
)
def test_where_the_password_comes_from(token: str, variables: dict[str, str], password: str | None) -> None:
    settings = client("--token", token, **variables)
    assert tunnel_client.credentials(settings, variables) == (TOKEN_TEXT, password)


def test_a_token_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN_TEXT}:word\n")
    assert tunnel_client.credentials(client("--token-file", str(path)), {}) == (TOKEN_TEXT, "word")


@pytest.mark.parametrize(("flags", "judge"), [([], None), (["--refuse-private"], is_public)])
def test_private_addresses_are_refused_on_request(flags: list[str], judge: object) -> None:
    made = tunnel_client.make_client(client(*TUNNEL_FLAGS, "--regexp", ".*", *flags), {})
    assert made._named._make(OriginUrl("http", "a.test", 80))._permits is judge
    assert made._origin is not None
    assert getattr(made._origin, "_permits", None) is None, "--server is not judged"


def test_several_tunnels(tmp_path: Path) -> None:
    config = tmp_path / "client.toml"
    config.write_text(
        f'[[tunnel]]\ntoken = "{TOKEN_TEXT}"\nserver = "http://127.0.0.1:1"\n'
        f'[[tunnel]]\ntoken = "{TOKEN_TEXT}2"\nserver = "http://127.0.0.1:2"\ntunnel = "wss://other.example.com/base"\n'
    )
    each = tunnel_client.tunnels(client("--config", str(config), "--tunnel", "ws://one.example.com"))
    made = [tunnel_client.make_client(settings, {}) for settings in each]
    assert [one.masked_url for one in made] == [
        "http://one.example.com/_token/my_b!g_$.../",
        "https://other.example.com/base/_token/my_b!g_$.../",
    ]


def test_one_tunnel_to_each_of_several_servers() -> None:
    settings = client("--tunnel", "ws://one.test", "--tunnel", "wss://u:p@two.test/base", *TUNNEL_FLAGS[2:])
    made = tunnel_client.make_tunnels(settings)
    assert [one.client.masked_url for one in made] == [
        "http://one.test/_token/my_b!g_$.../",
        "https://two.test/base/_token/my_b!g_$.../",
    ]


def test_a_table_may_have_several_servers(tmp_path: Path) -> None:
    config = tmp_path / "client.toml"
    config.write_text(
        '[[tunnel]]\ntunnel = ["ws://one.test", "ws://two.test"]\n[[tunnel]]\ntunnel = "ws://three.test"'
    )
    settings = client("--config", str(config), *TUNNEL_FLAGS[2:])
    assert [each["tunnel"] for each in tunnel_client.tunnels(settings)] == [
        ["ws://one.test"],
        ["ws://two.test"],
        ["ws://three.test"],
    ]


@pytest.mark.parametrize(
    ("arguments", "url"),
    [
        (["--port", "3000"], "http://localhost:3000"),
        (["--port", "3000", "--local-host", "dev.test"], "http://dev.test:3000"),
        (["--server", "https://localhost:8443/base", "--local-host", "dev.test"], "https://dev.test:8443/base"),
        (["--server", "http://localhost", "--local-host", "::1"], "http://[::1]"),
        (["--server", "unix:/run/app.sock"], "unix:/run/app.sock"),
        (["--regexp", ".*"], None),
    ],
)
def test_where_the_origin_is(arguments: list[str], url: str | None) -> None:
    assert origin_of(client(*arguments)) == url


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--port", "1", "--server", "http://a"], "--port: contradicts --server; leave one of them out"),
        (["--local-host", "a"], "--local-host: is of no use alone; add --port or --server"),
        (["--server", "unix:/a", "--local-host", "a"], "--local-host: a unix socket has no host; use --host-header"),
        ([], "--server: is missing"),
    ],
)
def test_origins_that_contradict_themselves(arguments: list[str], text: str) -> None:
    with pytest.raises(UsageError) as raised:
        origin_of(client(*arguments))
    assert str(raised.value).startswith(text)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--local-host", "a:80"], "--local-host: must be a host name or an IP address, without a port"),
        (["--local-host", "http://a"], "--local-host: must be a host name"),
        (["--origin-wait", "-1"], "--origin-wait: must be a number of seconds"),
        (["--port", "0"], "--port: must be a whole number from 1 to 65535"),
    ],
)
def test_conveniences_that_are_malformed(arguments: list[str], text: str) -> None:
    with pytest.raises(UsageError) as raised:
        client(*arguments)
    assert str(raised.value).startswith(text)


def test_what_the_origin_is_sent_and_how_long_it_is_waited_for() -> None:
    made = tunnel_client.make_client(client(*TUNNEL_FLAGS, "--host-header", "preserve", "--origin-wait", "0"), {})
    assert isinstance(made._origin, UrlOrigin)
    assert made._origin._host == "preserve"
    assert made.limits.origin_wait == 0


@pytest.mark.parametrize(
    ("second", "problem"),
    [
        ('server = "http://127.0.0.1:2"', "[[tunnel]] 2: token: is missing; "),
        (f'token = "{TOKEN_TEXT}2"', "[[tunnel]] 2: server: is missing; "),
        (f'token = "{TOKEN_TEXT}2"\nserver = "unix:"', "[[tunnel]] 2: server: 'unix:' names no socket; "),
        (f'token = "{TOKEN_TEXT}2"\nregexp = "("', "[[tunnel]] 2: regexp: '(' is no regular expression: "),
        ('token_file = "/none"\nserver = "http://127.0.0.1:2"', "[[tunnel]] 2: token_file: cannot read /none"),
    ],
)
def test_a_mistake_names_its_table(tmp_path: Path, second: str, problem: str) -> None:
    config = tmp_path / "client.toml"
    config.write_text(f'[[tunnel]]\ntoken = "{TOKEN_TEXT}"\nserver = "http://127.0.0.1:1"\n[[tunnel]]\n{second}\n')
    with pytest.raises(UsageError) as raised:
        tunnel_client.make_tunnels(client("--config", str(config), "--tunnel", "ws://127.0.0.1:3"))
    assert str(raised.value).startswith(f"{config}: {problem}")


def test_a_mistake_outside_the_tables_names_the_flag(tmp_path: Path) -> None:
    config = tmp_path / "client.toml"
    config.write_text(f'[[tunnel]]\ntoken = "{TOKEN_TEXT}"\nserver = "http://127.0.0.1:1"\n')
    with pytest.raises(UsageError, match=r"^--cafile: cannot use /none: "):
        tunnel_client.make_tunnels(client("--config", str(config), "--tunnel", "ws://a.test", "--cafile", "/none"))


def test_one_tunnel_without_tables() -> None:
    settings = client(*TUNNEL_FLAGS)
    assert tunnel_client.tunnels(settings) == [settings]


# -- accelerators ------------------------------------------------------------------------------------


def test_a_parser_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httptools", None)
    monkeypatch.delitem(sys.modules, "tunnelkit.http.httptools_codec", raising=False)
    for make in (
        lambda: tunnel_server.make_server(server("--parser", "httptools")),
        lambda: tunnel_client.make_client(client("--parser", "httptools", *TUNNEL_FLAGS), {}),
    ):
        with pytest.raises(ConfigError, match=r"^parser: httptools is not installed"):
            make()


AND_COMPILED = "; its modules are compiled" if COMPILED else ""


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "runs on asyncio with uvloop; heads are read by httptools, frames masked by websockets"),
        (["--no-uvloop"], "runs on asyncio; heads are read by httptools, frames masked by websockets"),
        (
            ["--backend", "trio", "--parser", "h11"],
            "runs on trio; heads are read by h11, frames masked by websockets",
        ),
    ],
)
def test_what_it_runs_on(arguments: list[str], text: str, caplog: pytest.LogCaptureFixture) -> None:
    for module in ("httptools", "uvloop", "websockets"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    caplog.set_level(logging.INFO, "tunnelkit")
    log_start(server(*arguments))
    assert [record.message for record in caplog.records] == [text + AND_COMPILED]


def test_what_it_runs_on_without_any(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "httptools", None)
    monkeypatch.delitem(sys.modules, "tunnelkit.http.httptools_codec", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(accelerators, "DEFAULT_MASK", mask_by_wsproto)
    caplog.set_level(logging.INFO, "tunnelkit")
    log_start(server())
    assert [record.message for record in caplog.records] == [
        "runs on asyncio; heads are read by h11, frames masked by wsproto" + AND_COMPILED
    ]
