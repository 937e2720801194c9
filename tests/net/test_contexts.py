"""TLS contexts from files: what is checked, and errors that name the file and the fix."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from tunnelkit.errors import ConfigError
from tunnelkit.net.contexts import ClientCertificate, TlsFiles, client_context


def test_a_server_context(tls_files: dict[str, Path]) -> None:
    context = TlsFiles(cert=tls_files["cert"], key=tls_files["key"]).load()
    assert context.verify_mode is ssl.CERT_NONE
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    demanding = TlsFiles(cert=tls_files["cert"], key=tls_files["key"], client_ca=tls_files["ca"]).load()
    assert demanding.verify_mode is ssl.CERT_REQUIRED


def test_a_client_context_verifies_unless_told_otherwise(tls_files: dict[str, Path]) -> None:
    context = client_context(cafile=tls_files["ca"], certificate=ClientCertificate(cert=tls_files["client"]))
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    careless = client_context(insecure=True)
    assert careless.verify_mode is ssl.CERT_NONE
    assert not careless.check_hostname


def test_a_missing_file_is_named(tls_files: dict[str, Path], tmp_path: Path) -> None:
    missing = tmp_path / "nothing.pem"
    with pytest.raises(ConfigError, match=r"tls_cert: cannot read .*nothing\.pem"):
        TlsFiles(cert=tls_files["cert"], key=missing).load()
    with pytest.raises(ConfigError, match=r"client_ca: cannot use .*nothing\.pem: No such file"):
        TlsFiles(cert=tls_files["cert"], key=tls_files["key"], client_ca=missing).load()
    with pytest.raises(ConfigError, match=r"cafile: cannot use .*nothing\.pem"):
        client_context(cafile=missing)


def test_garbage_and_foreign_keys_are_told(tls_files: dict[str, Path], tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("this is no certificate\n")
    with pytest.raises(ConfigError, match=r"tls_cert: cannot use .*garbage\.pem"):
        TlsFiles(cert=garbage).load()
    with pytest.raises(ConfigError, match="cafile: cannot use"):
        client_context(cafile=garbage)
    foreign = tmp_path / "foreign.pem"
    trustme.CA().issue_cert("other.example").private_key_pem.write_to_path(foreign)
    with pytest.raises(ConfigError, match=r"tls_cert: cannot use .*: it does not hold both .* or as tls_key"):
        TlsFiles(cert=tls_files["cert"]).load()
    with pytest.raises(ConfigError, match=r"tls_cert: cannot use .*key values mismatch"):
        TlsFiles(cert=tls_files["cert"], key=foreign).load()
    with pytest.raises(ConfigError, match="client_cert: "):
        client_context(certificate=ClientCertificate(cert=garbage))


def test_an_encrypted_key_never_asks_on_the_terminal(tls_files: dict[str, Path], tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(tls_files["key"].read_bytes(), password=None)
    encrypted = tmp_path / "encrypted.pem"
    encrypted.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(ConfigError, match="encrypted with a passphrase"):
        TlsFiles(cert=tls_files["cert"], key=encrypted).load()
