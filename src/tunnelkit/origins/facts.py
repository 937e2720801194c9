"""What a request says of itself, for interfaces that want it in parts: pure functions over the head.

Scheme, host and addresses are those by which the caller came to the tunnel server, as the server tells them in
X-Forwarded-*: its trust in proxies was applied there (``forwarding``), and whoever is not trusted cannot set them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from ..heads import Fields, RequestHead, effective_host, field_values

__all__ = ["RequestFacts", "request_facts"]

_AUTHORITY = re.compile(rb"[A-Za-z0-9.\-_~%]+(?::[0-9]{0,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{0,5})?")
_HOST_AND_PORT = re.compile(r"(.*?)(?::([0-9]{0,5}))?", re.DOTALL)
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class RequestFacts:
    scheme: str  # http or https
    authority: bytes  # host with its port, if it has one: what Host says to the app
    host: str  # of that, without brackets; "" where there is none
    port: int
    raw_path: bytes  # as sent, without the query
    path: bytes  # percent-decoded
    query: bytes
    caller: str  # its address; "" if it is not known
    fields: Fields  # with the caller's Host


def request_facts(head: RequestHead, host: str | None = None, caller: str = "") -> RequestFacts:
    """``host`` is what Host is to say instead of the caller's. ``caller`` is its address by the server's word, which
    has one where there are trusted proxies; "" where its peer is the caller."""
    raw_path, _, query = head.target.partition(b"?")
    scheme = _scheme(head.fields)
    authority = _authority(head) if host is None else host.encode("ascii")
    name, port = _split(authority.decode("ascii", "replace"))
    return RequestFacts(
        scheme=scheme,
        authority=authority,
        host=name,
        port=port or _DEFAULT_PORTS[scheme],
        raw_path=raw_path,
        path=unquote_to_bytes(raw_path),
        query=query,
        caller=caller or _peer(head.fields),
        fields=_with_host(head.fields, authority),
    )


def _items(fields: Fields, name: bytes) -> list[bytes]:
    return [item.strip() for value in field_values(fields, name) for item in value.split(b",") if item.strip()]


def _scheme(fields: Fields) -> str:
    """What the first hop was made by, when several are told."""
    told = _items(fields, b"x-forwarded-proto")[:1]
    return "https" if told and told[0].lower() in (b"https", b"wss") else "http"


def _authority(head: RequestHead) -> bytes:
    told = _items(head.fields, b"x-forwarded-host")[:1]
    return told[0] if told and _AUTHORITY.fullmatch(told[0]) else effective_host(head)


def _split(authority: str) -> tuple[str, int]:
    """The host, and the port or 0."""
    match = _HOST_AND_PORT.fullmatch(authority)
    assert match is not None  # it takes anything
    name, port = (authority, "") if authority.endswith("]") else match.groups("")
    number = int(port) if port else 0
    return name.removeprefix("[").removesuffix("]"), number if number < 65_536 else 0


def _peer(fields: Fields) -> str:
    """The tunnel server's own: X-Forwarded-For ends with it, and what stands before that may be anybody's word."""
    chain = _items(fields, b"x-forwarded-for")
    return chain[-1].decode("ascii", "replace") if chain else ""


def _with_host(fields: Fields, authority: bytes) -> Fields:
    return [(name, authority if name.lower() == b"host" else value) for name, value in fields]
