"""The commonest mistakes, as their user meets them: each has one clear line that says what is wrong."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trustme

from .test_programs import TOKEN, WAIT, Program, client_flags, get, origin, program

__all__ = ["origin"]

NO_ORIGIN = "http://127.0.0.1:9"


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A server that gives the same answer to everything, whatever it is asked."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    stream, _ = listener.accept()
                    with stream, suppress(OSError):
                        stream.recv(65536)
                        stream.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(WAIT)


def complaint(url: str, *flags: str | Path, text: str) -> str:
    """The client's line that holds ``text``."""
    with program("tunnel_client.py", *client_flags(url, NO_ORIGIN), *flags) as client:
        return client.logged(text)


def test_ws_to_a_tls_port(tls_files: dict[str, Path]) -> None:
    tls = ["--tls-cert", str(tls_files["cert"]), "--tls-key", str(tls_files["key"])]
    with program("tunnel_server.py", "--listen", "127.0.0.1:0", *tls) as server:
        url = server.said("listening on ").replace("https", "http")
        assert "wss://" in complaint(url, text="TLS")


def test_wss_to_a_plain_port() -> None:
    with program("tunnel_server.py", "--listen", "127.0.0.1:0") as server:
        url = server.said("listening on ").replace("http", "https")
        assert "ws://" in complaint(url, text="TLS")


def test_a_certificate_without_its_key(tls_files: dict[str, Path]) -> None:
    with program("tunnel_server.py", "--listen", "127.0.0.1:0", "--tls-cert", str(tls_files["cert"])) as server:
        assert server.wait() == 2
        error = server.errors[-1]
        assert error.startswith(f"tunnel_server.py: error: --tls-cert: cannot use {tls_files['cert']}: ")
        assert error.endswith("; give a PEM certificate chain, and its key in the same file or as --tls-key")


def test_a_certificate_of_another_name(
    tls_files: dict[str, Path], certificate_authority: trustme.CA, tmp_path: Path
) -> None:
    path = tmp_path / "other.pem"
    certificate_authority.issue_cert("other.example.com").private_key_and_cert_chain_pem.write_to_path(path)
    with program("tunnel_server.py", "--listen", "127.0.0.1:0", "--tls-cert", path) as server:
        url = server.said("listening on ")
        line = complaint(url, "--cafile", tls_files["ca"], text="certificate")
        assert "127.0.0.1" in line
        assert "name" in line or "not valid for" in line


def test_a_proxy_that_wants_a_password() -> None:
    with answering(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n") as proxy:
        line = complaint("http://tunnel.example.com", "--proxy", proxy.replace("//", "//user:sesame@"), text="407")
    assert "proxy" in line
    assert "sesame" not in line


def test_a_captive_portal() -> None:
    page = b"<html>Welcome to our hotel</html>"
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(page), page)) as url:
        line = complaint(url, text="200")
    assert "tunnel server" in line


@pytest.mark.programs
def test_an_origin_that_does_not_listen(anyio_backend_name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with program("tunnel_server.py", "--listen", "127.0.0.1:0", "--backend", anyio_backend_name) as server:
        url = server.said("listening on ")
        flags = [*client_flags(url, f"http://127.0.0.1:{port}", anyio_backend_name), "--check-origin"]
        with program("tunnel_client.py", *flags) as client:
            client.said("ready ")
            assert str(port) in client.logged("--check-origin: the origin does not answer")
            status, body = get(url, f"/_token/{TOKEN}/")
    assert status == 502
    assert str(port).encode() not in body
    assert b"127.0.0.1" not in body


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_addresses_of_both_families(host: str, origin: str) -> None:
    with program("tunnel_server.py", "--listen", f"{host}:0") as server:
        url = server.said("listening on ")
        with program("tunnel_client.py", *client_flags(url, origin)) as client:
            assert client.said("ready ") == f"{url}/_token/my_b!g_$.../"


def test_an_address_without_brackets() -> None:
    with program("tunnel_server.py", "--listen", "::1:8080") as server:
        expect_one_line(server, "--listen: an IPv6 address stands in brackets, as in [::1]:8080")


def test_swapped_ends() -> None:
    flags = ["--server", "ws://tunnel.example.com", "--tunnel", "http://localhost", "--token", TOKEN]
    with program("tunnel_client.py", *flags) as client:
        expect_one_line(client, "are the two swapped?")


def expect_one_line(running: Program, text: str) -> None:
    assert running.wait() == 2
    assert len(running.errors) == 1
    assert text in running.errors[0]
