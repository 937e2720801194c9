"""The table of flags and the ways to set them: arguments, environment, configuration file."""

from __future__ import annotations

import logging
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cli import kinds
from cli.files import check_status_file, open_to_others, pidfile, read_secret, write_status
from cli.logs import syslog_handler
from cli.options import CLIENT, SERVER, TOKEN, TUNNEL, Option
from cli.parsing import Settings, UsageError, help_text, parse

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
TOKEN_TEXT = "my_b!g_$secret!!"
TUNNEL_FLAGS = ["--tunnel", "ws://127.0.0.1:1", "--server", "http://127.0.0.1:2", "--token", TOKEN_TEXT]


def server(line: str = "", **environment: str) -> Settings:
    return parse(SERVER, shlex.split(line), environment, {"token": TOKEN})


def client(line: str = "", **environment: str) -> Settings:
    return parse(CLIENT, shlex.split(line), environment, {"tunnel": TUNNEL})


def mistake(line: str, program: str = "server", **environment: str) -> str:
    with pytest.raises(UsageError) as raised:
        (server if program == "server" else client)(line, **environment)
    text = str(raised.value)
    assert "\n" not in text
    return text


# -- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["-port 8080", "--port 8080", "-port=8080", "--port=8080"])
def test_one_dash_or_two(line: str) -> None:
    assert server(line)["port"] == 8080


@pytest.mark.parametrize(
    ("line", "on"),
    [("", False), ("-insecure", True), ("--insecure", True), ("-insecure=true", True), ("-insecure=false", False)],
)
def test_switches(line: str, on: bool) -> None:
    assert client(line)["insecure"] is on


def test_a_switch_takes_no_value_from_the_next_argument() -> None:
    settings = client("-insecure -timeout 9")
    assert (settings["insecure"], settings["timeout"]) == (True, 9.0)


def test_a_value_may_begin_with_a_dash() -> None:
    assert client("--token -abcdefghijklmnopqrs")["token"] == ("-abcdefghijklmnopqrs", None)


def test_repeated_flags() -> None:
    assert server("--listen 127.0.0.1:1 --listen [::1]:2")["listen"] == ["127.0.0.1:1", "[::1]:2"]
    assert server("--port 1 --port 2")["port"] == 2


def test_aliases() -> None:
    assert client("-certfile /tmp/ca.pem")["cafile"] == Path("/tmp/ca.pem")


def test_defaults() -> None:
    settings = server()
    assert (settings["listen"], settings["port"], settings["wstimeout"]) == ([], None, None)
    assert (settings["max_requests_per_tunnel"], settings["max_clients_per_token"]) == (20, 0)
    assert settings.given == set()


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("--prt 1", "--prt: there is no such flag; did you mean --port?"),
        ("--por 1", "--por: there is no such flag; did you mean --port?"),
        ("--zzz", "--zzz: there is no such flag; --help lists the flags"),
        ("--port", "--port: a value is missing; write --port PORT"),
        ("--port abc", "--port: must be a whole number from 0 to 65535 (it is 'abc')"),
        ("--port 65536", "--port: must be a whole number from 0 to 65535 (it is '65536')"),
        ("--known-tokens-only=perhaps", "--known-tokens-only: must be true or false (it is 'perhaps')"),
        ("--wstimeout 0", "--wstimeout: must be a number of seconds greater than 0 (it is '0')"),
        ("--wstimeout nan", "--wstimeout: must be a number of seconds greater than 0 (it is 'nan')"),
        ("--backend twisted", "--backend: must be asyncio or trio (it is 'twisted')"),
        ("--listen 8080", "--listen: must be HOST:PORT, as in 127.0.0.1:8080 or [::1]:8080 (it is '8080')"),
        ("--listen ::1:80", "--listen: an IPv6 address stands in brackets, as in [::1]:8080 (it is '::1:80')"),
        (
            "--trusted-proxy here",
            "--trusted-proxy: must be an IP address or network, as in 10.0.0.0/8 (it is 'here')",
        ),
        ("--pidfile ''", "--pidfile: must not be empty"),
        ("--max-requests-per-tunnel 0", "--max-requests-per-tunnel: must be a whole number, at least 1 (it is '0')"),
        (
            "--config /does/not/exist",
            "--config: cannot read /does/not/exist: No such file or directory; give the path",
        ),
        ("srv --port 80", "every argument is a flag (--name value), and one is not; --help lists the flags"),
        ("- --port", "every argument is a flag (--name value), and one is not; --help lists the flags"),
        (
            "-robowhois x",
            "--robowhois is not supported: the service behind it does not exist any more; leave the flag out",
        ),
    ],
)
def test_mistakes_of_the_server(line: str, text: str) -> None:
    assert mistake(line).startswith(text)


SWAPPED = (
    "--server: is the origin's URL and begins with http:// or https://; the tunnel server's ws:// URL belongs to "
    "--tunnel: are the two swapped?"
)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("--server ws://tunnel.example.com --tunnel http://localhost", SWAPPED),
        ("--server localhost:80", "--server: must begin with http:// or https://, as in http://localhost:8000"),
        ("--server http://h:port", "--server: must be http://host[:port] or https://host[:port]"),
        ("--tunnel h:80", "--tunnel: must begin with ws:// or wss:// (http:// and https:// mean the same)"),
        ("--tunnel ws://", "--tunnel: must be ws[s]://[user:password@]host[:port][/base], without '?' and '#'"),
        ("--tunnel ws://h/?a=b", "--tunnel: must be ws[s]://[user:password@]host[:port][/base], without '?' and '#'"),
        ("--proxy ftp://h", "--proxy: must be a URL with one of the schemes http, https, socks4"),
        ("--client-ports 90..80", "--client-ports: the range 90..80 runs backwards"),
        ("--client-ports 0", "--client-ports: must be a whole number from 1 to 65535"),
        ("--token short", "--token: the token is too short: it must have at least 16 characters; make one with"),
        ("--token 'my_b!g_$secret!!:'", "--token: the password after ':' is empty"),
    ],
)
def test_mistakes_of_the_client(line: str, text: str) -> None:
    assert mistake(line, "client").startswith(text)


@pytest.mark.parametrize(
    ("line", "program"),
    [
        ("--token sesame", "client"),
        ("--passwords sesame", "server"),
        ("--tunnel ws://user:sesame@h:port/", "client"),
        ("--proxy http://user:sesame@h:port/", "client"),
        ("sesame", "client"),
    ],
)
def test_no_mistake_shows_a_secret(line: str, program: str) -> None:
    assert "sesame" not in mistake(line, program)


# -- environment and file ---------------------------------------------------------------------------


def test_argument_over_environment_over_file(tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    path.write_text('port = 1\nhost = "file"\nbase_path = "/file"\n')
    settings = server(f"--config {path} --port 3", TUNNELKIT_PORT="2", TUNNELKIT_HOST="environment")
    assert (settings["port"], settings["host"], settings["base_path"]) == (3, "environment", "/file")
    assert settings.given == {"config", "port", "host", "base_path"}
    assert settings.from_file == {"port", "host", "base_path"}


def test_every_flag_but_a_few_can_be_set_in_the_environment() -> None:
    settings = client(TUNNELKIT_INSECURE="1", TUNNELKIT_LOG_LEVEL="DEBUG", TUNNELKIT_REGEXP="http://a,http://b")
    assert (settings["insecure"], settings["log_level"]) == (True, "debug")
    assert settings["regexp"] == ["http://a", "http://b"]
    assert client(TUNNELKIT_HELP="1")["help"] is False


def test_the_environment_may_name_the_file(tmp_path: Path) -> None:
    named, argued = tmp_path / "named.toml", tmp_path / "argued.toml"
    named.write_text("port = 1\n")
    argued.write_text("port = 2\n")
    assert server(TUNNELKIT_CONFIG=str(named))["port"] == 1
    assert server(f"--config {argued}", TUNNELKIT_CONFIG=str(named))["port"] == 2


def test_mistakes_in_the_environment_name_the_variable() -> None:
    assert mistake("", TUNNELKIT_PORT="x") == "TUNNELKIT_PORT: must be a whole number from 0 to 65535 (it is 'x')"


def test_file_with_tables(tmp_path: Path) -> None:
    path = tmp_path / "client.toml"
    path.write_text(
        'insecure = true\nlog-level = "warning"\n'
        f'[[tunnel]]\ntoken = "{TOKEN_TEXT}"\nserver = "http://localhost:1"\n'
        f'[[tunnel]]\ntoken = "{TOKEN_TEXT}2"\nserver = "http://localhost:2"\nregexp = ["http://a", "http://b"]\n'
    )
    settings = client(f"--config {path}", TUNNELKIT_TUNNEL="wss://tunnel.example.com")
    first, second = (settings.over(table) for table in settings.tables["tunnel"])
    assert first["tunnel"] == second["tunnel"] == ["wss://tunnel.example.com"]
    assert (first["token"][0], first["server"], first["regexp"]) == (TOKEN_TEXT, "http://localhost:1", [])
    assert (second["token"][0], second["server"]) == (f"{TOKEN_TEXT}2", "http://localhost:2")
    assert second["regexp"] == ["http://a", "http://b"]
    assert settings["log_level"] == "warning"


def test_a_tunnel_without_a_table(tmp_path: Path) -> None:
    path = tmp_path / "client.toml"
    path.write_text('tunnel = "wss://tunnel.example.com"\n')
    settings = client(f"--config {path}")
    assert settings["tunnel"] == ["wss://tunnel.example.com"]
    assert settings.tables == {}
    path.write_text('tunnel = ["wss://one.example.com", "wss://two.example.com"]\n')
    settings = client(f"--config {path}")
    assert settings["tunnel"] == ["wss://one.example.com", "wss://two.example.com"]
    assert settings.tables == {}
    path.write_text('tunnel = ["wss://one.example.com", {}]\n')
    assert mistake(f"--config {path}", "client").startswith(f"{path}: tunnel: write its settings under")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 1", "{path}: there is no setting 'prot'; did you mean 'port'?"),
        ("port = 1.5", "{path}: port: must be a whole number from 0 to 65535 (it is '1.5')"),
        ("port = [1, 2]", "{path}: port: must be one value"),
        ("listen = [[1]]", "{path}: listen: must be one value or a list of values"),
        ("port", "--config: {path} is not TOML: "),
        ("help = true", "{path}: there is no setting 'help'"),
        ("config = 'other.toml'", "{path}: there is no setting 'config'"),
        ("token = {}", "{path}: token: write its settings under [[token]]"),
        ("[[token]]\ntokn = 1", "{path}: [[token]] 1: there is no setting 'tokn'; did you mean 'token'?"),
        ("[[token]]\ntoken = 'short'", "{path}: [[token]] 1: token: the token is too short"),
        ("[[tunnel]]\n", "{path}: there is no setting 'tunnel'"),
    ],
)
def test_mistakes_in_the_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "server.toml"
    path.write_text(text)
    assert mistake(f"--config {path}").startswith(message.format(path=path))


def test_an_empty_list_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    path.write_text("listen = []\nknown_tokens_only = true\n")
    settings = server(f"--config {path}")
    assert (settings["listen"], settings["known_tokens_only"]) == ([], True)


@pytest.mark.parametrize("options", [SERVER, CLIENT])
def test_help_names_every_flag_with_its_default(options: list[Option]) -> None:
    text = help_text("name", "purpose", options)
    for option in options:
        assert not isinstance(option, Option) or f"--{option.name}" in text
    assert "(default: info)" in text
    assert max(map(len, text.splitlines())) < 130


# -- values -----------------------------------------------------------------------------------------


def test_values() -> None:
    assert kinds.seconds("30s") == 30.0
    assert kinds.ports("8000..8002,8500,8001") == [8000, 8001, 8002, 8500]
    assert kinds.base_path("/a/b/") == "/a/b"
    assert kinds.base_path("/") == ""
    assert kinds.token(f"{TOKEN_TEXT}:pass:word") == (TOKEN_TEXT, "pass:word")
    assert kinds.network("10.0.0.0/8") == "10.0.0.0/8"
    assert kinds.origin_url("unix:/run/app.sock") == "unix:/run/app.sock"
    assert kinds.facility("LOCAL0") == "local0"
    assert kinds.proxy_url("socks5h://h:1") == "socks5h://h:1"


@pytest.mark.parametrize("path", ["/a/../b", "/a?b", "/a%20", "/" + "x" * 256, "/a\n"])
def test_base_paths_that_are_none(path: str) -> None:
    with pytest.raises(ValueError, match="must be a plain path"):
        kinds.base_path(path)


def test_facilities_that_are_none() -> None:
    with pytest.raises(ValueError, match="syslog facility"):
        kinds.facility("nonsense")


def test_passwords() -> None:
    pairs = {TOKEN_TEXT: "a:b", f"{TOKEN_TEXT}2": "c"}
    assert kinds.passwords(f"{TOKEN_TEXT}:a:b,{TOKEN_TEXT}2:c") == pairs
    assert kinds.password_lines(f"# list\n\n{TOKEN_TEXT}:a:b\n  {TOKEN_TEXT}2:c\n") == pairs


# -- files ------------------------------------------------------------------------------------------


def test_secrets_that_others_can_read(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    assert open_to_others(path) is None
    path.write_text("x")
    path.chmod(0o600)
    assert open_to_others(path) is None
    path.chmod(0o640)
    warning = open_to_others(path)
    assert warning is not None
    assert warning == f"{path} holds secrets and others can read it (mode 640): chmod 600 {path}"


def test_reading_a_secret(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN_TEXT}:word\n")
    assert read_secret(path, "--token-file", kinds.token) == (TOKEN_TEXT, "word")
    path.write_text("short")
    with pytest.raises(UsageError, match=r"--token-file: .*: the token is too short"):
        read_secret(path, "--token-file", kinds.token)
    path.write_bytes(b"\xff")
    with pytest.raises(UsageError, match="is not UTF-8 text"):
        read_secret(path, "--token-file", kinds.token)
    with pytest.raises(UsageError, match="cannot read"):
        read_secret(tmp_path / "none", "--token-file", kinds.token)


def test_pidfile(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with pidfile(path):
        assert int(path.read_text()) > 0
    assert not path.exists()
    with pidfile(path):
        path.write_text("another's\n")
    assert path.read_text() == "another's\n"
    with pidfile(None):
        pass
    with pytest.raises(UsageError, match="--pidfile: cannot write"), pidfile(tmp_path / "none" / "pid"):
        pass


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_pidfile_on_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.symlink_to("/dev/full")
    with pytest.raises(UsageError, match=r"--pidfile: cannot write .*: No space left on device"), pidfile(path):
        pass
    assert path.is_symlink()


def test_statusfile(tmp_path: Path) -> None:
    path = tmp_path / "status"
    write_status(path)
    first, second = path.read_text().splitlines()
    assert int(first.removeprefix("Unix: ")) > 1_700_000_000
    assert second.startswith("Time: 20")
    assert list(tmp_path.iterdir()) == [path]


def test_a_statusfile_that_cannot_be_written(tmp_path: Path) -> None:
    check_status_file(tmp_path / "status")
    for path in (tmp_path, tmp_path / "none" / "status"):
        with pytest.raises(UsageError, match=f"--statusfile: cannot write {path}; "):
            check_status_file(path)


def test_there_may_be_no_syslog(tmp_path: Path) -> None:
    """The standard library's handler would show a traceback for every line."""
    with pytest.raises(UsageError, match=r"--syslog: there is no syslog at .*; use --logfile"):
        syslog_handler("daemon", tmp_path / "log")


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="syslog listens on a unix socket")
def test_syslog_names_the_program(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(tmp_path / "log"))
        handler = syslog_handler("daemon", tmp_path / "log")
        handler.emit(logging.LogRecord("tunnelkit", logging.INFO, "", 0, "hello", None, None))
        handler.close()
        line = syslog.recv(1000)
    assert line.startswith(b"<30>")
    assert line.endswith(f"[{os.getpid()}]: hello\0".encode())


# -- the programs themselves ------------------------------------------------------------------------


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("script", ["tunnel_server.py", "tunnel_client.py"])
def test_help_and_version(script: str) -> None:
    shown = run(script, "-h")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith(f"usage: {script} ")
    version = run(script, "--version")
    assert (version.returncode, version.stdout.split()[0], version.stderr) == (0, "tunnelkit", "")


@pytest.mark.parametrize(
    ("script", "arguments", "text"),
    [
        ("tunnel_server.py", ["--prot", "1"], "--prot: there is no such flag; did you mean --port?"),
        (
            "tunnel_client.py",
            [],
            "--tunnel: is missing; give the tunnel server's URL, as in wss://tunnel.example.com",
        ),
        ("tunnel_server.py", ["--log-pretty", "--log-format", "json"], "--log-pretty: contradicts --log-format json"),
        ("tunnel_server.py", ["--logfile", "/no/such/file"], "--logfile: cannot write /no/such/file"),
        ("tunnel_client.py", [*TUNNEL_FLAGS, "--statusfile", "/no/such/file"], "--statusfile: cannot write /no/such"),
        ("tunnel_client.py", [*TUNNEL_FLAGS, "--regexp", "("], "--regexp: '(' is no regular expression: "),
        ("tunnel_client.py", [*TUNNEL_FLAGS, "--server", "unix:"], "--server: 'unix:' names no socket"),
        (
            "tunnel_server.py",
            ["--host", "nowhere.invalid"],
            "--host and --port: the name 'nowhere.invalid'",
        ),
    ],
)
def test_a_mistake_is_one_line_and_status_2(script: str, arguments: list[str], text: str) -> None:
    result = run(script, *arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(f"{script}: error: {text}")
