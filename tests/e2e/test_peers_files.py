"""The files of examples/deploy: judged by the programs that they are for where those exist, and by what they say."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import trustme

from cli.options import CLIENT, SERVER
from cli.parsing import Settings, parse

from ..examples.test_programs import TOKEN, client_flags, get, program
from . import peers
from .peers import DEPLOY, Peer, haproxy, nginx, replaced, squid

ROOT = DEPLOY.parent.parent
INSTALLED = "/opt/tunnelkit/"
PYTHON = f"{INSTALLED}.venv/bin/python"
SERVICES = ["tunnelkit-server.service", "tunnelkit-client@.service"]
EXPOSURE = 20  # of `systemd-analyze security`, which counts to 100
WAIT = 15.0
SHOWN = sorted(path.name for path in DEPLOY.iterdir() if path.is_file() and path.suffix != ".py")


# -- the document ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHOWN)
def test_the_document_shows_the_file_as_it_is(name: str) -> None:
    text = (ROOT / "docs" / "deploying.md").read_text()
    assert (DEPLOY / name).read_text() in re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


# -- what is missing -----------------------------------------------------------------------------


def test_a_missing_program_skips_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "REQUIRED", False)
    with pytest.raises(pytest.skip.Exception, match="no-such-proxy is not installed"):
        peers.program("no-such-proxy")


def test_a_missing_program_fails_where_it_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "REQUIRED", True)
    with pytest.raises(pytest.fail.Exception, match="no-such-proxy is not installed"):
        peers.program("no-such-proxy")


# -- proxies -----------------------------------------------------------------------------------


def judged(peer: Peer) -> None:
    result = peer.check()
    told = result.stdout + result.stderr
    assert result.returncode == 0, told
    assert not re.search(r"\b(warn|warning|error|obsolete|deprecated)\b", told, re.IGNORECASE), told


@pytest.mark.parametrize("make", [nginx, haproxy], ids=["nginx", "haproxy"])
def test_the_reverse_proxy_takes_its_file(
    make: Callable[[int, Mapping[str, Path]], Peer], tls_files: dict[str, Path]
) -> None:
    judged(make(8080, tls_files))


def test_squid_takes_its_file() -> None:
    judged(squid(8443))


# -- systemd -----------------------------------------------------------------------------------


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    path = shutil.which("systemd-analyze")
    if path is None:
        pytest.skip("systemd-analyze is not installed")
    return subprocess.run([path, *arguments], capture_output=True, text=True, timeout=60)


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The unit, with a Python that exists: systemd looks for it."""
    path = tmp_path / str(request.param)
    path.write_text(replaced(request.param, {PYTHON: sys.executable}))
    return path


def test_systemd_takes_the_unit(service: Path) -> None:
    result = analyze("verify", service)
    assert result.returncode == 0, result.stderr
    assert str(service) not in result.stderr, result.stderr


def test_the_unit_gives_away_little(service: Path) -> None:
    result = analyze("security", "--offline=true", f"--threshold={EXPOSURE}", service)
    assert result.returncode == 0, result.stdout[-500:]


def lines(name: str, key: str) -> list[str]:
    """The values of one key in a unit."""
    text = (DEPLOY / name).read_text().replace("\\\n", " ")
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{key}=")]


def command(name: str) -> list[str]:
    (line,) = lines(name, "ExecStart")
    python, script, *arguments = shlex.split(line)
    assert python == PYTHON
    assert (ROOT / script.removeprefix(INSTALLED)).is_file()
    return arguments


def settings(name: str, file: str) -> Settings:
    """What the program makes of its command line and of this configuration."""
    arguments = command(name)
    arguments[arguments.index("--config") + 1] = str(DEPLOY / file)
    return parse(SERVER if "server" in name else CLIENT, arguments, {})


def test_the_server_reads_its_settings() -> None:
    found = settings("tunnelkit-server.service", "server.toml")
    assert found["listen"] == ["0.0.0.0:443", "[::]:443"]
    assert (found["tls_cert"], found["tls_key"]) == tuple(
        Path("/etc/tunnelkit") / name for name in ("fullchain.pem", "privkey.pem")
    )
    behind = settings("tunnelkit-server.service", "server-behind-proxy.toml")
    assert behind["trusted_proxy"] == ["127.0.0.1"]
    for each in (found, behind):
        assert each["passwords_file"] == Path("/etc/tunnelkit/passwords")
        assert each["known_tokens_only"]


def test_the_client_reads_its_settings() -> None:
    found = settings("tunnelkit-client@.service", "client.toml")
    assert found["tunnel"] == ["wss://tunnel.example.com"]
    assert str(found["token_file"]) == "${CREDENTIALS_DIRECTORY}/token"
    assert lines("tunnelkit-client@.service", "LoadCredential") == ["token:/etc/tunnelkit/%i.token"]


@pytest.mark.parametrize("name", SERVICES)
def test_systemd_waits_until_the_program_has_drained(name: str) -> None:
    (drain,) = (option.default for option in SERVER if option.name == "drain-timeout" and hasattr(option, "default"))
    assert float(lines(name, "TimeoutStopSec")[0]) > drain


# -- certbot -----------------------------------------------------------------------------------


@pytest.fixture
def tools(tmp_path: Path) -> Callable[[int], dict[str, str]]:
    """An environment in which `systemctl` sends SIGHUP to a process, and nobody is called tunnelkit."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def environment(pid: int) -> dict[str, str]:
        (folder / "systemctl").write_text(f"#!/bin/sh\nkill -HUP {pid}\n")
        (folder / "systemctl").chmod(0o755)
        return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "RENEWED_LINEAGE": str(tmp_path / "live")}

    return environment


def write_certificate(folder: Path, certificate: trustme.LeafCert) -> str:
    """As certbot leaves it; the certificate itself."""
    folder.mkdir(exist_ok=True)
    certificate.private_key_pem.write_to_path(folder / "privkey.pem")
    (folder / "fullchain.pem").write_bytes(b"".join(pem.bytes() for pem in certificate.cert_chain_pems))
    return certificate.cert_chain_pems[0].bytes().decode()


def test_a_renewed_certificate_is_served_after_the_hook(
    tmp_path: Path, tools: Callable[[int], dict[str, str]], certificate_authority: trustme.CA
) -> None:
    etc, live = tmp_path / "etc", tmp_path / "live"
    old = write_certificate(etc, certificate_authority.issue_cert("localhost"))
    new = write_certificate(live, certificate_authority.issue_cert("localhost"))
    hook = tmp_path / "hook"
    hook.write_text(replaced("certbot-hook.sh", {"/etc/tunnelkit": str(etc), "-o tunnelkit -g tunnelkit ": ""}))
    flags = ["--tls-cert", str(etc / "fullchain.pem"), "--tls-key", str(etc / "privkey.pem")]
    with program("tunnel_server.py", "--listen", "127.0.0.1:0", *flags) as server:
        address = ("127.0.0.1", int(server.said("listening on ").rpartition(":")[2]))
        assert same(ssl.get_server_certificate(address, timeout=WAIT), old)
        subprocess.run(["sh", hook], env=tools(server.process.pid), check=True, timeout=WAIT)
        server.logged("reloaded")
        assert same(ssl.get_server_certificate(address, timeout=WAIT), new)
    assert (etc / "privkey.pem").stat().st_mode & 0o777 == 0o400


def same(one: str, other: str) -> bool:
    return ssl.PEM_cert_to_DER_cert(one) == ssl.PEM_cert_to_DER_cert(other)


# -- the container -----------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    text = (DEPLOY / "Containerfile").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def final_stage() -> dict[str, str]:
    """The last stage's instructions; one that comes twice counts as its last."""
    found = instructions()
    start = max(index for index, (word, _) in enumerate(found) if word == "FROM")
    return dict(found[start:])


def exec_form(text: str) -> list[str]:
    """Raises ValueError for a command that wants a shell."""
    found = json.loads(text)
    assert isinstance(found, list)
    return [str(each) for each in found]


def healthcheck() -> list[str]:
    options, _, rest = final_stage()["HEALTHCHECK"].partition("CMD ")
    assert all(option.startswith("--") for option in options.split())
    return exec_form(rest)


def here(arguments: list[str]) -> list[str]:
    """A command of the container's, in this checkout."""
    assert arguments[0] == PYTHON
    moved = [part.replace(INSTALLED, f"{ROOT}/") for part in arguments[1:]]
    assert Path(moved[0]).is_file()
    return moved


def test_the_container_runs_as_nobody_in_particular_and_without_a_shell() -> None:
    stage = final_stage()
    user, _, group = stage["USER"].partition(":")
    assert int(user) > 0
    assert int(group) > 0
    assert "RUN" not in stage
    for word, rest in instructions():
        assert word != "ADD"  # it unpacks and downloads
        if word in ("RUN", "ENTRYPOINT", "CMD"):
            exec_form(rest)
        if word == "FROM":
            assert re.fullmatch(r"python:3\.\d+-slim( AS \w+)?", rest)
        if word == "ENV":
            assert not re.search(r"token|password|secret", rest, re.IGNORECASE)


def test_the_container_gets_what_it_copies_and_nothing_else() -> None:
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    sources = {
        source
        for word, rest in instructions()
        if word == "COPY" and not rest.startswith("--from=")
        for source in rest.split()[:-1]
    }
    assert all((ROOT / source).exists() for source in sources)
    assert patterns[0] == "*"
    assert {pattern.removeprefix("!") for pattern in patterns if pattern.startswith("!")} == sources


def test_the_container_serves_is_healthy_and_says_when_it_drains(tmp_path: Path) -> None:
    stage = final_stage()
    script, *flags = here(exec_form(stage["ENTRYPOINT"])) + exec_form(stage["CMD"])
    assert flags[flags.index("--listen") + 1] == f"0.0.0.0:{stage['EXPOSE']}"
    assert healthcheck()[-2:] == ["127.0.0.1", stage["EXPOSE"]]
    passwords = tmp_path / "passwords"
    passwords.write_text(f"{TOKEN}:right\n")
    passwords.chmod(0o600)
    flags[flags.index("--listen") + 1] = "127.0.0.1:0"
    flags[flags.index("--passwords-file") + 1] = str(passwords)
    with program(Path(script).name, *flags) as server, socket.create_server(("127.0.0.1", 0)) as service:
        service.settimeout(WAIT)
        origin = f"http://127.0.0.1:{service.getsockname()[1]}"
        url = server.said("listening on ")
        check = [sys.executable, *here(healthcheck())[:-1], url.rpartition(":")[2]]
        assert subprocess.run(check, timeout=WAIT).returncode == 0
        with program("tunnel_client.py", *client_flags(url, origin), TUNNELKIT_PASSWORD="right") as client:
            client.said("ready ")
            caller = threading.Thread(target=get, args=(url, f"/_token/{TOKEN}/slow"))
            caller.start()
            asked, _ = service.accept()
            server.process.send_signal(getattr(signal, stage["STOPSIGNAL"]))
            server.logged("draining")
            assert subprocess.run(check, timeout=WAIT).returncode == 1
            with asked:
                asked.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                caller.join(WAIT)
            assert server.wait() == 0
        assert subprocess.run(check, timeout=WAIT).returncode == 1


# -- a phone -----------------------------------------------------------------------------------


@pytest.mark.interpreted
def test_what_is_required_needs_no_compiler() -> None:
    """A phone's terminal has none by default, and there are few wheels for it."""
    seen: set[str] = set()
    waiting = ["tunnelkit"]
    while waiting:
        distribution = importlib.metadata.distribution(waiting.pop())
        seen.add(distribution.name)
        assert not [file for file in distribution.files or [] if file.suffix in (".so", ".pyd")], distribution.name
        for requirement in distribution.requires or []:
            name, _, marker = requirement.partition(";")
            if "extra" not in marker and (word := re.match(r"[\w.-]+", name)) and installed(word[0]) - seen:
                waiting.append(word[0])
    assert {"tunnelkit", "anyio", "h11", "wsproto", "python-socks"} <= seen


def installed(name: str) -> set[str]:
    """Its name as it calls itself; nothing for what another version of Python would need."""
    try:
        return {importlib.metadata.distribution(name).name}
    except importlib.metadata.PackageNotFoundError:
        return set()
