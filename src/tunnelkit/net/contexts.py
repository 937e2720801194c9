"""TLS contexts from files, with errors that name the file. Verification is on unless somebody turns it off."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from os import PathLike
from typing import TypeAlias

from ..errors import ConfigError

__all__ = ["ClientCertificate", "TlsFiles", "client_context"]

Path: TypeAlias = "str | PathLike[str]"


@dataclass(frozen=True, kw_only=True, slots=True)
class TlsFiles:
    """The files of a server's TLS: PEM certificate chain, its key, and the CA that client certificates must have.

    They are read by ``load``, and again at a reload.
    """

    cert: Path  # the server's own first, then those that lead to the CA
    key: Path | None = None  # None: in the certificate's file
    client_ca: Path | None = None  # given: every TLS peer must show a certificate of this CA

    def load(self) -> ssl.SSLContext:
        """A new server context. Raises ConfigError naming the file that could not be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        _load_chain(context, "tls_cert", self.cert, self.key, key_field="tls_key")
        if self.client_ca is not None:
            _load_ca(context, "client_ca", self.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientCertificate:
    """The PEM files of a certificate that a client shows to the server: the chain, and its key. They are read when
    the ``TunnelClient`` is made."""

    cert: Path
    key: Path | None = None  # None: in the certificate's file


def client_context(
    *,
    cafile: Path | None = None,
    insecure: bool = False,
    certificate: ClientCertificate | None = None,
    field: str = "cafile",
) -> ssl.SSLContext:
    """A client context that verifies certificate and name against the system's CAs, or ``cafile`` beside them.

    ``insecure`` turns both checks off. Raises ConfigError naming ``field`` when a file cannot be used.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if cafile is not None:
        _load_ca(context, field, cafile)
    if certificate is not None:
        _load_chain(context, "client_cert", certificate.cert, certificate.key)
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _load_chain(
    context: ssl.SSLContext, field: str, cert: Path, key: Path | None, *, key_field: str = "a file of its own"
) -> None:
    try:
        context.load_cert_chain(cert, key, password=_no_passphrase)
    except FileNotFoundError as error:
        missing = [str(path) for path in (cert, key) if path is not None and not _readable(path)]
        raise ConfigError(
            field, f"cannot read {', '.join(missing) or cert}", "give the path of a PEM file"
        ) from error
    except (OSError, ssl.SSLError, ValueError) as error:
        # OpenSSL does not say which of the two it missed.
        nameless = isinstance(error, ssl.SSLError) and not error.reason and key is None
        raise ConfigError(
            field,
            f"cannot use {cert}: {'it does not hold both a certificate and its key' if nameless else _reason(error)}",
            f"give a PEM certificate chain, and its key in the same file or as {key_field}",
        ) from error


def _load_ca(context: ssl.SSLContext, field: str, cafile: Path) -> None:
    try:
        context.load_verify_locations(cafile)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            field, f"cannot use {cafile}: {_reason(error)}", "give the path of a PEM file with CA certificates"
        ) from error


def _readable(path: Path) -> bool:
    try:
        with open(path, "rb"):
            return True
    except OSError:
        return False


def _no_passphrase() -> str:
    # Without this OpenSSL asks on the terminal, which would stop an unattended program for ever.
    raise ValueError("the key is encrypted with a passphrase")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not a PEM file").lower().replace("_", " ")
    return getattr(error, "strerror", None) or str(error)
