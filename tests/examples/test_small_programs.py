"""The small examples, each run as it is, on both backends: what they print is what they say they show."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
import trustme

import byte_streams
import call_a_device
import client_certificates
import custom_authorisation
import embedded
import several_tunnels

from ..e2e.peers import program

pytestmark = pytest.mark.anyio

EXAMPLES = Path(embedded.__file__).parent
SMALL = (
    "app_without_port",
    "byte_streams",
    "call_a_device",
    "client_certificates",
    "custom_authorisation",
    "custom_transport",
    "embedded",
    "mounted_server",
    "several_tunnels",
)


@pytest.mark.parametrize("name", SMALL)
def test_each_is_small_and_says_what_it_shows_and_how_to_run_it(name: str) -> None:
    text = (EXAMPLES / f"{name}.py").read_text("utf-8")
    assert len(text.splitlines()) < 100
    docstring = ast.get_docstring(ast.parse(text)) or ""
    assert f"python {name}.py" in " ".join(docstring.split()) or f"uvicorn {name}:app" in docstring


@pytest.mark.parametrize("document", ["README.md", "docs/embedding.md"])
def test_the_documents_list_them(document: str) -> None:
    text = (EXAMPLES.parent / document).read_text("utf-8")
    assert not [name for name in SMALL if f"examples/{name}.py" not in text]


async def test_embedded(capsys: pytest.CaptureFixture[str]) -> None:
    await embedded.main()
    assert capsys.readouterr().out == "hello from behind the firewall\n"


def test_embedded_as_a_program() -> None:
    """As all of them begin: the backend is the last argument."""
    command = [sys.executable, str(EXAMPLES / "embedded.py"), "trio"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert result.stdout == "hello from behind the firewall\n"


async def test_call_a_device(capsys: pytest.CaptureFixture[str]) -> None:
    await call_a_device.main()
    temperature, firmware, late = capsys.readouterr().out.splitlines()
    assert (temperature, firmware) == ("21.5 degrees", "took 1000000 bytes of firmware")
    assert late.startswith("503 ")
    assert "no_client" in late


async def test_byte_streams(capsys: pytest.CaptureFixture[str]) -> None:
    await byte_streams.main()
    assert capsys.readouterr().out == "OPEN SESAME\n"


async def test_custom_authorisation(capsys: pytest.CaptureFixture[str]) -> None:
    await custom_authorisation.main()
    assert capsys.readouterr().out.splitlines() == [
        "therm-08... was refused: forbidden",
        "therm-07... is connected",
        "therm-07... was refused: forbidden",
    ]


async def test_several_tunnels(capsys: pytest.CaptureFixture[str]) -> None:
    await several_tunnels.main()
    lines = capsys.readouterr().out.splitlines()
    assert {f"{name}: up by websocket" for name in ("wiki", "printer", "camera")} < set(lines)
    camera = [line for line in lines if line.startswith("camera")]
    assert "given up" in camera[0]
    assert "unauthorized" in camera[0]


async def test_client_certificates(
    capsys: pytest.CaptureFixture[str], certificate_authority: trustme.CA, tmp_path: Path
) -> None:
    certificate_authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name, host in (("server", "127.0.0.1"), ("device", "device-7.example"), ("caller", "caller-1.example")):
        blob = certificate_authority.issue_cert(host).private_key_and_cert_chain_pem
        blob.write_to_path(tmp_path / f"{name}.pem")
    await client_certificates.main(tmp_path)
    out = capsys.readouterr().out
    assert out.splitlines() == ["without a certificate: no way in", "with one: 21.5 degrees"]


def test_the_openssl_commands_of_client_certificates_make_its_folder(tmp_path: Path) -> None:
    program("openssl")
    _, _, commands = (client_certificates.__doc__ or "").partition("by openssl:\n")
    subprocess.run(
        ["bash", "-eu"], input=commands, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True
    )
    anyio.run(client_certificates.main, tmp_path)
