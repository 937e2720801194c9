"""What a failed TLS handshake of ours as client means, in words that help."""

from __future__ import annotations

import ssl

from ..errors import DialError
from .tls import TlsFailure

__all__ = ["tls_dial_error"]

_NO_TLS = "the server does not speak TLS here: use ws:// or http://"
_UNKNOWN_CA = "the certificate's authority is not trusted here: give its certificate as the CA file"
_OTHER_NAME = "the certificate is for another name: check the host in the URL"
_CLIENT_CERTIFICATE = "the server wants a client certificate that it trusts"

# OpenSSL's X509_V_ERR_* numbers.
_VERIFY_HINTS = {
    9: "the certificate is not valid yet: check this machine's clock",
    10: "the certificate has expired: the server needs a new one (or this machine's clock is wrong)",
    18: f"the certificate is self-signed; {_UNKNOWN_CA}",
    19: _UNKNOWN_CA,
    20: _UNKNOWN_CA,
    21: _UNKNOWN_CA,
    62: _OTHER_NAME,
    64: _OTHER_NAME,
}

_REASON_HINTS = {
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "HTTP_REQUEST": _NO_TLS,
    "PACKET_LENGTH_TOO_LONG": _NO_TLS,
    "RECORD_LAYER_FAILURE": _NO_TLS,
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": _CLIENT_CERTIFICATE,
    "TLSV1_ALERT_UNKNOWN_CA": _CLIENT_CERTIFICATE,
    "SSLV3_ALERT_BAD_CERTIFICATE": _CLIENT_CERTIFICATE,
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the two ends agree on no TLS version, cipher or certificate",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the server speaks only TLS versions that this side refuses, or the reverse",
    "UNSUPPORTED_PROTOCOL": "the server speaks only TLS versions that this side refuses",
    "TLSV1_UNRECOGNIZED_NAME": _OTHER_NAME,
}


def tls_dial_error(failure: TlsFailure, host: str) -> DialError:
    """The ``DialError`` (stage ``tls``) for a handshake with ``host`` that failed."""
    return DialError("tls", f"no TLS with {host}: {failure}", hint=_hint(failure.error))


def _hint(error: ssl.SSLError | None) -> str:
    if error is None:
        return "something on the way, or a server without TLS here, closed the connection"
    if isinstance(error, ssl.SSLCertVerificationError):
        return _VERIFY_HINTS.get(error.verify_code, "")
    return _REASON_HINTS.get(error.reason or "", "")
