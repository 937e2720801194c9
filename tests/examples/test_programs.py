"""The command lines as processes: lines on stdout, signals, files, exit statuses."""

from __future__ import annotations

import http.client
import http.server
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

pytestmark = pytest.mark.programs

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
TOKEN = "my_b!g_$secret!!"
WAIT = 45.0  # for a hang: a busy machine may take long to start a program


class Program:
    """A running command line, and what it says."""

    def __init__(self, script: str, *arguments: str | Path, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-u", str(EXAMPLES / script), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self._errors: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self._errors.append(line.rstrip("\n"))
                self._news.notify_all()

    def said(self, start: str) -> str:
        """The next line on stdout, which must begin with ``start``; the rest of it."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().rstrip("\n")
        assert line.startswith(start), (line, self._errors)
        return line.removeprefix(start)

    def logged(self, text: str) -> str:
        """The first line on stderr that holds ``text``, once it is there."""

        def line() -> str | None:
            return next((line for line in self._errors if text in line), None)

        with self._news:
            found = self._news.wait_for(line, WAIT)
        assert found is not None, self._errors
        return found

    @property
    def errors(self) -> list[str]:
        return self._errors

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        status = self.process.wait(WAIT)
        self._reader.join(WAIT)
        return status

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


@contextmanager
def program(script: str, *arguments: str | Path, **environment: str) -> Iterator[Program]:
    running = Program(script, *arguments, **environment)
    try:
        yield running
    finally:
        running.close()


@contextmanager
def quiet_program(script: str, *arguments: str) -> Iterator[None]:
    """All that it says goes to where nothing can be written. It must run to the end of the block."""
    with open("/dev/full", "wb") as full:
        process = subprocess.Popen([sys.executable, str(EXAMPLES / script), *arguments], stdout=full, stderr=full)
    try:
        yield
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


class Origin(http.server.BaseHTTPRequestHandler):
    """Answers at once; below /slow only when the test says so."""

    asked = threading.Event()
    answer = threading.Event()

    def do_GET(self) -> None:
        if self.path == "/slow":
            self.asked.set()
            self.answer.wait(WAIT)
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        with suppress(OSError):  # a cut
            self.wfile.write(b"hello")

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def origin() -> Iterator[str]:
    Origin.asked.clear()
    Origin.answer.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Origin) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        Origin.answer.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def server(anyio_backend_name: str) -> Iterator[Program]:
    with program("tunnel_server.py", "--listen", "127.0.0.1:0", "--backend", anyio_backend_name) as running:
        yield running


def client_flags(url: str, origin: str, backend: str = "asyncio") -> list[str]:
    tunnel = url.replace("http", "ws", 1)
    return ["--tunnel", tunnel, "--server", origin, "--token", TOKEN, "--backend", backend]


def served(url: str, path: str) -> None:
    """Wait until this is answered by the origin."""
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        with suppress(OSError):
            if get(url, path)[0] == 200:
                return
        time.sleep(0.05)  # beside refused connections
    raise AssertionError("not served")


def get(url: str, path: str, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=WAIT)
    try:
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_a_request_goes_through(server: Program, origin: str, anyio_backend_name: str, tmp_path: Path) -> None:
    url = server.said("listening on ")
    pid, status = tmp_path / "pid", tmp_path / "status"
    flags = [*client_flags(url, origin, anyio_backend_name), "--pidfile", str(pid), "--statusfile", str(status)]
    with program("tunnel_client.py", *flags, "--check-origin") as client:
        assert client.said("ready ") == f"{url}/_token/my_b!g_$.../"
        assert int(pid.read_text()) == client.process.pid
        assert get(url, f"/_token/{TOKEN}/") == (200, b"hello")
        assert get(url, "/", X_Token=TOKEN) == (200, b"hello")
        assert client.end() == 0
        assert not pid.exists()
        assert status.read_text().startswith("Unix: ")
    for event in ("HTTP RCV", "WS   SND", "WS   RCV", "HTTP RET"):
        assert " INFO " in server.logged(event)
    assert server.end() == 0
    assert not any(TOKEN in line for line in server.errors)


def test_sigterm_lets_running_requests_finish(server: Program, origin: str) -> None:
    url = server.said("listening on ")
    with program("tunnel_client.py", *client_flags(url, origin)) as client:
        client.said("ready ")
        answers: list[tuple[int, bytes]] = []
        caller = threading.Thread(target=lambda: answers.append(get(url, f"/_token/{TOKEN}/slow")))
        caller.start()
        assert Origin.asked.wait(WAIT)
        server.process.send_signal(signal.SIGTERM)
        Origin.answer.set()
        caller.join(WAIT)
        assert answers == [(200, b"hello")]
        assert server.wait() == 0
        client.logged("session over: server_closing")  # the server's word, not a broken connection


def test_a_second_sigterm_cuts(server: Program, origin: str) -> None:
    url = server.said("listening on ")
    with program("tunnel_client.py", *client_flags(url, origin)) as client:
        client.said("ready ")
        statuses: list[int] = []
        caller = threading.Thread(target=lambda: statuses.append(get(url, f"/_token/{TOKEN}/slow")[0]))
        caller.start()
        assert Origin.asked.wait(WAIT)
        server.process.send_signal(signal.SIGTERM)
        server.logged("draining")
        assert server.end() == 0
        caller.join(WAIT)
        assert statuses == [502]


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no SIGHUP on this system")
def test_sighup_reads_the_passwords_again(origin: str, tmp_path: Path, anyio_backend_name: str) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text(f"{TOKEN}:right\n")
    passwords.chmod(0o644)
    flags = ["--listen", "127.0.0.1:0", "--passwords-file", str(passwords), "--backend", anyio_backend_name]
    with program("tunnel_server.py", *flags) as server:
        url = server.said("listening on ")
        assert f"warning: {passwords} holds secrets" in server.logged("warning: ")
        with program("tunnel_client.py", *client_flags(url, origin), TUNNELKIT_PASSWORD="sesame") as client:
            assert client.wait() == 1
            assert len([line for line in client.errors if line.startswith("tunnel_client.py: error: ")]) == 1
            assert "unauthorized" in client.errors[-1]
            assert "sesame" not in client.errors[-1]
        passwords.write_text("nonsense")
        server.process.send_signal(signal.SIGHUP)
        failed = server.logged("reload failed")
        assert f"everything stays as it was: --passwords-file: {passwords}: line 1 has no colon" in failed
        with program("tunnel_client.py", *client_flags(url, origin), WSTUNNEL_PASSWORD="right") as client:
            client.said("ready ")
            passwords.write_text("")
            server.process.send_signal(signal.SIGHUP)
            server.logged("reloaded")
            client.logged("token_withdrawn")


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no SIGHUP on this system")
def test_sighup_ends_the_client_in_order(server: Program, origin: str) -> None:
    """It has nothing to read again, and a terminal that is closed sends it: the server hears of the end at once."""
    url = server.said("listening on ")
    with program("tunnel_client.py", *client_flags(url, origin)) as client:
        client.said("ready ")
        assert client.end(signal.SIGHUP) == 0
        server.logged("session ended: closed")


def test_tls_and_a_wrong_scheme(origin: str, tls_files: dict[str, Path]) -> None:
    flags = ["--listen", "127.0.0.1:0", "--tls-cert", str(tls_files["cert"]), "--tls-key", str(tls_files["key"])]
    with program("tunnel_server.py", *flags) as server:
        url = server.said("listening on ")
        assert url.startswith("https://")
        with program("tunnel_client.py", *client_flags(url, origin), "--cafile", tls_files["ca"]) as client:
            assert client.said("ready ").startswith(f"{url}/_token/")
        with program("tunnel_client.py", *client_flags(url, origin), "--insecure") as client:
            client.said("ready ")
            client.logged("--insecure: no certificate is verified")


def test_a_port_in_use(anyio_backend_name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with program("tunnel_server.py", "--listen", address, "--backend", anyio_backend_name) as server:
            assert server.wait() == 2
            assert len(server.errors) == 1
            assert server.errors[0].startswith("tunnel_server.py: error: --listen: ")
            assert address in server.errors[0]


def test_the_admin_listener_tells_its_address() -> None:
    with program("tunnel_server.py", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0") as server:
        url = server.said("listening on ")
        admin = server.said("admin listening on ")
        assert admin != url
        assert get(admin, "/_stats")[0] == 200


def test_logs_as_json_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    flags = ["--listen", "127.0.0.1:0", "--log-format", "json", "--logfile", str(path), "--log-level", "debug"]
    with program("tunnel_server.py", *flags) as server:
        url = server.said("listening on ")
        assert get(url, "/_health_check") == (200, b"WSTUNSRV RUNNING\n")
        assert server.end() == 0
        assert server.errors == []
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_standard_output_and_error_on_a_full_disk_end_nothing(origin: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    flags = ["--listen", f"127.0.0.1:{port}", "--log-level", "debug"]
    with quiet_program("tunnel_server.py", *flags), quiet_program("tunnel_client.py", *client_flags(url, origin)):
        served(url, f"/_token/{TOKEN}/page")


def test_the_client_keeps_dialling(origin: str) -> None:
    """A server that is not there yet is no mistake: the client says so, and comes when the server does."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with program("tunnel_client.py", *client_flags(f"http://127.0.0.1:{port}", origin)) as client:
        client.logged(f"127.0.0.1:{port}")
        with program("tunnel_server.py", "--listen", f"127.0.0.1:{port}") as server:
            server.said("listening on ")
            client.said("ready ")


def test_the_four_lines_of_a_request(server: Program, origin: str) -> None:
    """As docs/logs.md shows them, with every field in its place."""
    url = server.said("listening on ")
    with program("tunnel_client.py", *client_flags(url, origin)) as client:
        client.said("ready ")
        get(url, f"/_token/{TOKEN}/page")
        lines = [server.logged(event) for event in ("HTTP RCV", "WS   SND", "WS   RCV", "HTTP RET")]
    token = r"token=my_b!g_\$\.\.\.#[0-9a-f]{6}"
    patterns = [
        rf"HTTP RCV      pkg=tunnelkit\.server {token} id=1 verb=GET url=/_token/my_b!g_\$\.\.\./page "
        r"addr=127\.0\.0\.1 x-host= try=$",
        rf'WS   SND      pkg=tunnelkit\.server {token} id=1 info="GET /page" ws=\S+ try=$',
        rf"WS   RCV      pkg=tunnelkit\.server {token} id=1 ws=\S+ len=5$",
        rf"HTTP RET      pkg=tunnelkit\.server {token} id=1 status=200 bytes=5 ms=\d+ outcome=answered$",
    ]
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.search(pattern, line), line


def test_names_on_the_command_line(origin: str, anyio_backend_name: str) -> None:
    backend = ("--backend", anyio_backend_name)
    with program("tunnel_server.py", "--listen", "127.0.0.1:0", "--base-domain", "localhost", *backend) as server:
        url = server.said("listening on ")
        port = url.rpartition(":")[2]
        flags = client_flags(url, origin, anyio_backend_name)
        with program("tunnel_client.py", *flags, "--name", "MyApp") as client:
            assert client.said("ready ") == f"http://myapp.localhost:{port}/"
            assert get(url, "/anything", Host=f"myapp.localhost:{port}") == (200, b"hello")
            assert get(url, "/_health_check", Host=f"localhost:{port}") == (200, b"WSTUNSRV RUNNING\n")
            others = [*flags[:-4], "--token", "another-of-the-tokens", *backend]
            with program("tunnel_client.py", *others, "--name", "myapp") as other:
                assert other.wait() == 1
                assert "belongs to another tunnel (status 409, code name_taken)" in other.errors[-1]


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no SIGHUP on this system")
def test_wsps_way_on_the_command_line(origin: str, tmp_path: Path, anyio_backend_name: str) -> None:
    backend = ("--backend", anyio_backend_name)
    config = tmp_path / "rules.toml"
    config.write_text("[[blacklist]]\nurl = '.*/forbidden'\n")
    flags = ["--listen", "127.0.0.1:0", "--wsp-token", TOKEN, "--secretkey", "ThisIsASecret", "--config", str(config)]
    with program("tunnel_server.py", *flags, *backend) as server:
        url = server.said("listening on ")
        with program("tunnel_client.py", *client_flags(url, origin), TUNNELKIT_SECRETKEY="ThisIsASecret") as client:
            client.said("ready ")
            assert get(url, "/request", X_PROXY_DESTINATION=f"{origin}/a") == (200, b"hello")
            assert get(url, "/request", X_PROXY_DESTINATION=f"{origin}/forbidden")[0] == 403
            assert get(url, "/request", X_PROXY_DESTINATION="http://127.0.0.1:1/")[0] == 403
            config.write_text("[[blacklist]]\nurl = '('\n")
            server.process.send_signal(signal.SIGHUP)
            assert f"stays as it was: {config}: [[blacklist]] 1: url: '(' is no" in server.logged("reload failed")
            assert get(url, "/request", X_PROXY_DESTINATION=f"{origin}/forbidden")[0] == 403
            config.write_text("[[blacklist]]\nurl = '.*/a'\n")
            server.process.send_signal(signal.SIGHUP)
            server.logged("reloaded:")
            assert get(url, "/request", X_PROXY_DESTINATION=f"{origin}/forbidden") == (200, b"hello")
            assert get(url, "/request", X_PROXY_DESTINATION=f"{origin}/a")[0] == 403


def test_one_tunnel_that_fails_does_not_end_the_others(server: Program, origin: str, anyio_backend_name: str) -> None:
    transport = "websocket" if anyio_backend_name == "asyncio" else "longpoll"
    with program("tunnel_server.py", "--listen", "127.0.0.1:0", "--passwords", f"{TOKEN}:right") as strict:
        good, bad = server.said("listening on "), strict.said("listening on ")
        flags = ["--server", origin, "--token", TOKEN, "--password", "wrong", "--print-requests"]
        flags += ["--transport", transport, "--backend", anyio_backend_name]
        with program("tunnel_client.py", "--tunnel", bad, "--tunnel", good, *flags) as client:
            told = client.logged("error: ")
            assert bad in told
            assert "wrong or missing password" in told
            assert client.said("ready ").startswith(good)
            assert get(good, f"/_token/{TOKEN}/a")[0] == 200
            assert client.said("GET /a 200 ").endswith(" ms")
            assert client.end() == 1


def test_a_client_that_was_replaced_ends_with_a_status_of_its_own(origin: str, anyio_backend_name: str) -> None:
    flags = ["--policy", "replace", "--secretkey", "ThisIsASecret", "--backend", anyio_backend_name]
    with program("tunnel_server.py", "--listen", "127.0.0.1:0", *flags) as server:
        url = server.said("listening on ")
        arguments = [*client_flags(url, origin, anyio_backend_name), "--secretkey", "ThisIsASecret"]
        with program("tunnel_client.py", *arguments) as first:
            first.said("ready ")
            with program("tunnel_client.py", *arguments) as second:
                assert first.wait() == 3
                second.said("ready ")
                assert get(url, f"/_token/{TOKEN}/a") == (200, b"hello")
    unit = (EXAMPLES / "deploy" / "tunnelkit-client@.service").read_text(encoding="utf-8")
    assert re.search(r"^RestartPreventExitStatus=.*\b3\b", unit, re.MULTILINE)


def test_each_table_is_a_tunnel_of_its_own(
    server: Program, origin: str, tmp_path: Path, anyio_backend_name: str
) -> None:
    url, config = server.said("listening on "), tmp_path / "client.toml"
    config.write_text(
        f'server = "{origin}"\nbackend = "{anyio_backend_name}"\n'
        '[[tunnel]]\ntoken = "the-first-of-two-tokens"\ntransport = "websocket"\n'
        '[[tunnel]]\ntoken = "the-other-of-two-tokens"\ntransport = "longpoll"\nregexp = ["http://other[.]test"]\n'
    )
    config.chmod(0o600)
    with program("tunnel_client.py", "--config", config, "--tunnel", url) as client:
        assert {client.said("ready "), client.said("ready ")} == {
            f"{url}/_token/the-firs.../",
            f"{url}/_token/the-othe.../",
        }
        for token in ("the-first-of-two-tokens", "the-other-of-two-tokens"):
            assert get(url, f"/_token/{token}/a") == (200, b"hello")
        assert get(url, "/_token/the-first-of-two-tokens/a", X_Host="http://other.test")[0] == 403
        _, stats = get(url, "/_metrics")
        assert b'tunnelkit_sessions{transport="websocket"} 1' in stats
        assert b'tunnelkit_sessions{transport="longpoll"} 1' in stats
        assert client.end() == 0
