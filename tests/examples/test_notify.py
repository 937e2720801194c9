"""What the programs tell the service manager, on the socket that it gives them (sd_notify(3))."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli import notify
from cli.files import open_to_others

from .test_programs import TOKEN, WAIT, client_flags, program

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no unix sockets on this system")


class Manager:
    """The service manager's end."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.settimeout(WAIT)

    def told(self) -> dict[str, str]:
        """The next notification."""
        return dict(line.split("=", 1) for line in self._socket.recv(4096).decode().split("\n"))

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "notify")


@pytest.fixture
def manager(path: str) -> Iterator[Manager]:
    manager = Manager(path)
    yield manager
    manager.close()


def test_the_server_tells_of_its_start_a_reload_and_its_end(manager: Manager, path: str, tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text(f"{TOKEN}:right\n")
    passwords.chmod(0o600)
    flags = ["--listen", "127.0.0.1:0", "--passwords-file", str(passwords)]
    with program("tunnel_server.py", *flags, NOTIFY_SOCKET=path) as server:
        url = server.said("listening on ")
        assert manager.told() == {"READY": "1", "STATUS": f"listening on {url}"}
        before = time.monotonic_ns() // 1000
        server.process.send_signal(signal.SIGHUP)
        told = manager.told()
        assert told.pop("RELOADING") == "1"
        assert before <= int(told.pop("MONOTONIC_USEC")) <= time.monotonic_ns() // 1000
        assert not told
        assert manager.told() == {"READY": "1", "STATUS": f"listening on {url}"}
        passwords.write_text("nonsense")
        server.process.send_signal(signal.SIGHUP)
        assert "RELOADING" in manager.told()
        told = manager.told()
        assert told["READY"] == "1"
        assert told["STATUS"].startswith("reload failed")
        server.process.send_signal(signal.SIGTERM)
        assert manager.told() == {"STOPPING": "1", "STATUS": "draining"}
        assert server.wait() == 0


def test_the_client_is_ready_when_it_dials(manager: Manager, path: str) -> None:
    """A service whose server is away has started well."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with program("tunnel_client.py", *client_flags(url, "http://127.0.0.1:9"), NOTIFY_SOCKET=path) as client:
        assert manager.told() == {"READY": "1"}
        client.process.send_signal(signal.SIGTERM)
        assert manager.told() == {"STOPPING": "1", "STATUS": "draining"}
        assert client.wait() == 0


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="abstract addresses are Linux's")
def test_an_abstract_address(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"tunnelkit-test-{os.getpid()}"
    manager = Manager(f"\0{name}")
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
    notify.ready("up")
    assert manager.told() == {"READY": "1", "STATUS": "up"}
    manager.close()


def test_nothing_is_told_where_nobody_asks(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify.ready()
    assert not caplog.records


def test_a_manager_that_is_gone_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    notify.ready()
    assert "cannot be told of READY=1" in caplog.text


def test_credentials_of_systemd_are_not_open_to_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Their mode shows the access list's mask where the group's right stands otherwise."""
    secret = tmp_path / "token"
    secret.touch()
    secret.chmod(0o440)
    assert open_to_others(secret) is not None
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert open_to_others(secret) is None
    (tmp_path / "below").mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "below"))
    assert open_to_others(secret) is not None
