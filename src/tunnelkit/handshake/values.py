"""The one table of a handshake's fields, and the way from messages to values and back.

Both encodings hold these values: each at most once and within its grammar. Names and keys are the wire's
(docs/wire-format.md, "Handshake"): never changed, only added to. What is not in the table is ignored.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ..errors import LocalProtocolError, RemoteProtocolError
from .messages import Grant, Handshake, Refusal, Resume

__all__ = [
    "BY_KEY",
    "BY_LOWER_NAME",
    "FIELDS",
    "GRANT",
    "HANDSHAKE",
    "REFUSAL",
    "VERSION",
    "Values",
    "grant_values",
    "handshake_values",
    "printable",
    "refusal_values",
    "to_grant",
    "to_handshake",
    "to_refusal",
]

VERSION: Final = 1  # the one version of the wire that this end speaks
DETAIL_LIMIT: Final = 500  # characters of a detail that are shown

# -- the table of fields -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Field:
    """One value: its name as an HTTP field, its key in the binary form, and what it must match."""

    key: int
    grammar: re.Pattern[bytes]
    rule: str


def _rule(key: int, grammar: bytes, rule: str) -> _Field:
    return _Field(key, re.compile(grammar), rule)


def _text(key: int, limit: int) -> _Field:
    return _rule(key, rb"[!-~](?:[ -~]{0,%d}[!-~])?" % (limit - 2), f"must be at most {limit} visible characters")


def _number(key: int, digits: int) -> _Field:
    return _rule(key, rb"0|[1-9][0-9]{0,%d}" % (digits - 1), f"must be a whole number of at most {digits} digits")


def _seconds(key: int) -> _Field:
    return _rule(key, rb"[0-9]{1,9}(?:\.[0-9]{1,3})?", "must be seconds, with at most 3 decimals")


_SESSION = rb"[A-Za-z0-9_-]{1,128}"
_HEX32 = rb"[0-9a-f]{64}"

FIELDS: Final[Mapping[str, _Field]] = {
    "Tunnelkit-Version": _rule(1, rb"[0-9]{1,5}(?:-[0-9]{1,5})?", "must be a version, or a range such as 1-1"),
    # The grammar of core.tokens, which the handshake, a leaf, does not reach.
    "Tunnelkit-Token": _rule(
        2, rb"[!-+\--9;-~]{16,256}", "must be 16 to 256 visible ASCII characters without ':' and ','"
    ),
    "Tunnelkit-Password": _text(3, 2048),
    "Authorization": _text(4, 4096),
    "Tunnelkit-Features": _rule(
        5, rb"[a-z0-9_.-]{1,32}(?:, ?[a-z0-9_.-]{1,32}){0,31}", "must be at most 32 names, separated by commas"
    ),
    "Tunnelkit-Client": _text(6, 256),
    "Tunnelkit-Instance": _rule(7, rb"[A-Za-z0-9_.-]{1,64}", "must be 1 to 64 letters, digits, '_', '.' or '-'"),
    "Tunnelkit-Name": _text(8, 256),
    "Tunnelkit-Policy": _rule(9, rb"[a-z0-9_-]{1,32}", "must be 1 to 32 lower case letters, digits, '_' or '-'"),
    "Tunnelkit-Session": _rule(10, _SESSION, "must be a session id"),
    "Tunnelkit-Epoch": _number(11, 10),
    "Tunnelkit-Proof": _rule(12, _HEX32, "must be 32 bytes in lower case hexadecimal"),
    "Tunnelkit-Gives-Up": _rule(13, _SESSION, "must be a session id"),
    "Tunnelkit-Gives-Up-Epoch": _number(14, 10),
    "Tunnelkit-Gives-Up-Proof": _rule(15, _HEX32, "must be 32 bytes in lower case hexadecimal"),
    "Tunnelkit-Resume-Key": _rule(16, _HEX32, "must be 32 bytes in lower case hexadecimal"),
    "Tunnelkit-Replay-Window": _number(17, 15),
    "Tunnelkit-Stream-Floor": _number(18, 15),
    "Tunnelkit-Max-Streams": _number(19, 9),
    "Tunnelkit-Grace": _seconds(20),
    "Tunnelkit-Public-Url": _rule(21, rb"[!-~]{1,512}", "must be a URL of at most 512 characters"),
    # These four have names in the binary form alone: over HTTP they are the status and a problem body.
    "status": _rule(22, rb"[45][0-9]{2}", "must be a status from 400 to 599"),
    "code": _rule(23, rb"[a-z][a-z0-9_]{0,63}", "must be a code of at most 64 characters"),
    "detail": _text(24, 4096),
    "retry-after": _seconds(25),
}
BY_KEY: Final = {rule.key: name for name, rule in FIELDS.items()}
BY_LOWER_NAME: Final = {name.lower().encode(): name for name, rule in FIELDS.items() if rule.key < 22}

HANDSHAKE: Final = frozenset(name for name, rule in FIELDS.items() if rule.key <= 15)
GRANT: Final = frozenset({"Tunnelkit-Version", "Tunnelkit-Features", "Tunnelkit-Session"}) | frozenset(
    name for name, rule in FIELDS.items() if 16 <= rule.key <= 21
)
REFUSAL: Final = frozenset({"status", "code", "detail", "retry-after"})


class Values:
    """The values of one message by name: within their grammar, each once."""

    def __init__(self, code: str) -> None:
        self._code = code  # of the error, should one be wrong
        self._values: dict[str, bytes] = {}

    def add(self, name: str, value: bytes) -> None:
        if name in self._values:
            raise self.wrong(name, "is given twice")
        if FIELDS[name].grammar.fullmatch(value) is None:
            raise self.wrong(name, FIELDS[name].rule)
        self._values[name] = value

    def wrong(self, name: str, problem: str) -> RemoteProtocolError:
        return RemoteProtocolError(f"{name} {problem}", code=self._code)

    def get(self, name: str) -> str | None:
        value = self._values.get(name)
        return None if value is None else value.decode("ascii")

    def need(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise self.wrong(name, "is missing")
        return value

    def text(self, name: str) -> str | None:
        value = self.get(name)
        if value is None or not value.startswith(":"):
            return value
        try:
            if len(value) < 2 or not value.endswith(":"):
                raise ValueError
            return base64.b64decode(value[1:-1], validate=True).decode("utf-8", "surrogatepass")
        except (binascii.Error, ValueError):
            raise self.wrong(name, "must be plain, or UTF-8 in base64 between colons") from None

    def number(self, name: str, default: int = 0) -> int:
        value = self.get(name)
        return default if value is None else int(value)

    def features(self) -> frozenset[str]:
        value = self.get("Tunnelkit-Features")
        return frozenset(re.split(", ?", value)) if value else frozenset()


def _encode_text(text: str) -> bytes:
    """As it is where HTTP carries it unharmed, else a byte sequence (RFC 9651 3.3.5) of its UTF-8."""
    if re.fullmatch(r"[!-9;-~](?:[ -~]*[!-~])?", text):
        return text.encode("ascii")
    return b":" + base64.b64encode(_raw(text)) + b":"


def _encode_seconds(seconds: float) -> bytes:
    return f"{seconds:.3f}".rstrip("0").rstrip(".").encode()


def _checked(values: dict[str, bytes]) -> dict[str, bytes]:
    for name, value in values.items():
        if FIELDS[name].grammar.fullmatch(value) is None:
            raise LocalProtocolError(f"{name} {FIELDS[name].rule}")
    return values


# -- messages to values and back -----------------------------------------------------------------


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # what is not ASCII is in no grammar: _checked says where


def handshake_values(handshake: Handshake) -> dict[str, bytes]:
    values = {
        "Tunnelkit-Version": b"%d-%d" % (handshake.version_min, handshake.version_max),
        "Tunnelkit-Token": _raw(handshake.token),
    }
    if handshake.password is not None:
        values["Tunnelkit-Password"] = _encode_text(handshake.password)
    if handshake.authorization is not None:
        values["Authorization"] = _raw(handshake.authorization)
    if handshake.features:
        values["Tunnelkit-Features"] = _raw(",".join(sorted(handshake.features)))
    if handshake.client_version:
        values["Tunnelkit-Client"] = _encode_text(handshake.client_version)
    if handshake.instance:
        values["Tunnelkit-Instance"] = _raw(handshake.instance)
    if handshake.name is not None:
        values["Tunnelkit-Name"] = _encode_text(handshake.name)
    if handshake.policy is not None:
        values["Tunnelkit-Policy"] = _raw(handshake.policy)
    values |= _resume_values(handshake.resume, "Tunnelkit-Session", "Tunnelkit-")
    values |= _resume_values(handshake.gives_up, "Tunnelkit-Gives-Up", "Tunnelkit-Gives-Up-")
    return _checked(values)


def _resume_values(resume: Resume | None, session: str, prefix: str) -> dict[str, bytes]:
    if resume is None:
        return {}
    return {
        session: _raw(resume.session_id),
        f"{prefix}Epoch": b"%d" % resume.epoch,
        f"{prefix}Proof": resume.proof.hex().encode(),
    }


def to_handshake(values: Values) -> Handshake:
    version_min, version_max = _versions(values)
    return Handshake(
        token=values.need("Tunnelkit-Token"),
        password=values.text("Tunnelkit-Password"),
        authorization=values.get("Authorization"),
        version_min=version_min,
        version_max=version_max,
        features=values.features(),
        client_version=values.text("Tunnelkit-Client") or "",
        instance=values.get("Tunnelkit-Instance") or "",
        name=values.text("Tunnelkit-Name"),
        policy=values.get("Tunnelkit-Policy"),
        resume=_resume(values, "Tunnelkit-Session", "Tunnelkit-"),
        gives_up=_resume(values, "Tunnelkit-Gives-Up", "Tunnelkit-Gives-Up-"),
    )


def _versions(values: Values) -> tuple[int, int]:
    """Looked at first: what another version means by the other fields is not ours to judge."""
    low, dash, high = values.need("Tunnelkit-Version").partition("-")
    version_min, version_max = int(low), int(high if dash else low)
    if version_min > version_max:
        raise values.wrong("Tunnelkit-Version", "must be a range such as 1-1")
    if not version_min <= VERSION <= version_max:
        raise RemoteProtocolError(
            f"this server speaks version {VERSION}, the client {version_min} to {version_max}", code="version"
        )
    return version_min, version_max


def _resume(values: Values, session: str, prefix: str) -> Resume | None:
    names = (session, f"{prefix}Epoch", f"{prefix}Proof")
    if all(values.get(name) is None for name in names):
        return None
    session_id, epoch, proof = (values.need(name) for name in names)
    if not 1 <= int(epoch) < 2**32:
        raise values.wrong(names[1], "must be from 1 to 4294967295")
    return Resume(session_id=session_id, epoch=int(epoch), proof=bytes.fromhex(proof))


def grant_values(grant: Grant) -> dict[str, bytes]:
    values = {
        "Tunnelkit-Session": _raw(grant.session_id),
        "Tunnelkit-Version": b"%d" % grant.version,
        "Tunnelkit-Replay-Window": b"%d" % grant.replay_window,
        "Tunnelkit-Stream-Floor": b"%d" % grant.stream_floor,
        "Tunnelkit-Max-Streams": b"%d" % grant.max_streams,
        "Tunnelkit-Grace": _encode_seconds(grant.grace),
    }
    if grant.resume_key is not None:
        values["Tunnelkit-Resume-Key"] = grant.resume_key.hex().encode()
    if grant.features:
        values["Tunnelkit-Features"] = _raw(",".join(sorted(grant.features)))
    if grant.public_url:
        values["Tunnelkit-Public-Url"] = _raw(grant.public_url)
    return _checked(values)


def to_grant(values: Values) -> Grant:
    if values.need("Tunnelkit-Version") != str(VERSION):
        raise values.wrong("Tunnelkit-Version", f"must be {VERSION}, which was asked for")
    resume_key = values.get("Tunnelkit-Resume-Key")
    return Grant(
        session_id=values.need("Tunnelkit-Session"),
        resume_key=None if resume_key is None else bytes.fromhex(resume_key),
        version=VERSION,
        features=values.features(),
        replay_window=values.number("Tunnelkit-Replay-Window"),
        stream_floor=values.number("Tunnelkit-Stream-Floor"),
        max_streams=values.number("Tunnelkit-Max-Streams"),
        grace=float(values.get("Tunnelkit-Grace") or 0),
        public_url=values.get("Tunnelkit-Public-Url") or "",
    )


def refusal_values(refusal: Refusal) -> dict[str, bytes]:
    values = {
        "status": b"%d" % refusal.status,
        "code": _raw(refusal.code),
        "detail": _encode_text(refusal.detail[:DETAIL_LIMIT]),
    }
    if refusal.retry_after is not None:
        values["retry-after"] = _encode_seconds(refusal.retry_after)
    return _checked(values)


def to_refusal(values: Values) -> Refusal:
    retry_after = values.get("retry-after")
    return Refusal(
        status=int(values.need("status")),
        code=values.need("code"),
        detail=printable(values.text("detail") or ""),
        retry_after=None if retry_after is None else float(retry_after),
    )


def printable(text: str) -> str:
    """It ends in logs and on terminals."""
    return "".join(char if char.isprintable() else "?" for char in text[:DETAIL_LIMIT])
