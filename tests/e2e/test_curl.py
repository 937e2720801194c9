"""What a caller sees with curl, against both ends as processes of their own: sizes up to 1 GB, sized and chunked."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from .origin import BLOCK, pattern_digest
from .processes import TOKEN, Tunnel, open_processes
from .ways import Way

CURL = shutil.which("curl")
pytestmark = [pytest.mark.programs, pytest.mark.skipif(CURL is None, reason="curl is not installed")]

SMALL = [0, 1, 65_535, 65_536, 65_537]
GB = 1_000_000_000

SIZES = [
    pytest.param([*SMALL, 5_000_000], id="short"),
    pytest.param([GB], id="full", marks=[pytest.mark.full, pytest.mark.timeout(300)]),
]


@pytest.fixture(scope="module")
def tunnel(anyio_backend: tuple[str, dict[str, Any]], way: Way) -> Iterator[Tunnel]:
    with open_processes(anyio_backend[0]) as processes:
        yield processes


def curl(tunnel: Tunnel, target: str, *options: str, stdin: IO[bytes] | None = None) -> bytes:
    """The standard output of a curl that must succeed, even where the status is an error's."""
    url = f"http://127.0.0.1:{tunnel.port}/_token/{TOKEN}{target}"
    assert CURL is not None
    command = [CURL, "-sS", "--max-time", "200", *options, url]
    done = subprocess.run(command, stdin=stdin, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def curl_digest(tunnel: Tunnel, target: str) -> str:
    """SHA-256 of a body that may be too large to hold."""
    url = f"http://127.0.0.1:{tunnel.port}/_token/{TOKEN}{target}"
    assert CURL is not None
    digest = hashlib.sha256()
    with subprocess.Popen([CURL, "-sS", "--max-time", "200", url], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while piece := process.stdout.read(1 << 20):
            digest.update(piece)
    assert process.returncode == 0
    return digest.hexdigest()


@pytest.mark.parametrize("coding", ["", "/chunked"])
@pytest.mark.parametrize("sizes", SIZES)
def test_downloads(tunnel: Tunnel, sizes: list[int], coding: str) -> None:
    for size in sizes:
        assert curl_digest(tunnel, f"/bytes/{size}{coding}") == pattern_digest(size)


@pytest.mark.parametrize("source", ["", "-"], ids=["sized", "chunked"])  # from standard input curl sends chunks
@pytest.mark.parametrize("sizes", SIZES)
def test_uploads(tunnel: Tunnel, sizes: list[int], source: str, tmp_path: Path) -> None:
    for size in sizes:
        file = tmp_path / "body"
        with file.open("wb") as body:
            for start in range(0, size, len(BLOCK)):
                body.write(BLOCK[: size - start])
        with file.open("rb") as body:
            answer = json.loads(curl(tunnel, "/sink", "-T", source or str(file), stdin=body))
        assert answer == {"size": size, "sha256": pattern_digest(size)}
        file.unlink()


def test_pages_errors_redirects_and_head(tunnel: Tunnel) -> None:
    assert json.loads(curl(tunnel, "/a/page?q=1"))["target"] == "/a/page?q=1"
    write_out = ("-o", "/dev/null", "-w", "%{http_code} %{num_redirects} %{redirect_url}")
    assert curl(tunnel, "/status/404", *write_out) == b"404 0 "
    assert curl(tunnel, "/status/302", *write_out) == b"302 0 http://elsewhere.example/"
    head = curl(tunnel, "/bytes/12345", "--head").decode()
    assert head.startswith("HTTP/1.1 200")
    assert "Content-Length: 12345" in head


def test_500_requests_over_64_kept_alive_connections(tunnel: Tunnel, tmp_path: Path) -> None:
    """All defaults: only 200."""
    assert CURL is not None
    url = f"http://127.0.0.1:{tunnel.port}/_token/{TOKEN}/status/200"
    config = tmp_path / "urls"
    config.write_text(f'url = "{url}"\noutput = "/dev/null"\n' * 500)
    done = subprocess.run(
        [
            CURL,
            "-sS",
            "--parallel",
            "--parallel-max",
            "64",
            "-w",
            "%{http_code} %{num_connects}\n",
            "-K",
            str(config),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [status for status, _ in lines] == ["200"] * 500
    assert sum(int(connects) for _, connects in lines) <= 64
