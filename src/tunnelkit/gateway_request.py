"""What becomes of a caller's request on its way into the tunnel: whom it is for, and its head as it goes out."""

from __future__ import annotations

import re

from .core.known_heads import KnownRequest
from .core.routing import without_token
from .forwarding import forward_request, upgrade_of
from .heads import RequestHead
from .http.request import CallerRequest
from .net.peer import Peer
from .tunnel_stream import OpenField

__all__ = ["Addressed", "Prepared", "open_fields", "preferred_wait", "prepare"]


class Addressed:
    """Whose tunnel a request is for, and what it asks for there. Those that repeat it share it: not to be changed."""

    __slots__ = ("by_destination", "digest", "name", "tag", "target", "unknown", "x_host")

    def __init__(
        self,
        *,
        digest: bytes,
        tag: str,
        target: bytes,
        x_host: bytes | None = None,
        name: str | None = None,
        by_destination: bool = False,
        unknown: str = "",
    ) -> None:
        self.digest = digest  # of the token, or the key of a name that nobody has
        self.tag = tag  # what stands for it in log lines
        self.target = target
        self.x_host = x_host
        self.name = name  # by which it came
        self.by_destination = by_destination  # wsp's way
        self.unknown = unknown  # what the caller is told when there is no such tunnel, if not the usual

    def __repr__(self) -> str:  # the target may hold secrets
        return f"<Addressed {self.tag}>"


class Prepared:
    """What follows from a request's head. Shared by those that repeat it: not to be changed."""

    __slots__ = ("known", "upgrade", "wait")

    def __init__(self, known: KnownRequest, *, upgrade: bool, wait: float | None) -> None:
        self.known = known  # as it goes out
        self.upgrade = upgrade  # it asks for another protocol
        self.wait = wait  # how long its caller is ready to wait

    def __repr__(self) -> str:
        return f"<Prepared upgrade={self.upgrade}>"


def prepare(request: CallerRequest, target: bytes, *, trusted: bool, base_path: str) -> Prepared:
    """``target`` is what routing left of the request's. Raises ``HeadError`` for one that runs in a loop."""
    head = forward_request(
        request.head, peer_address=request.peer.address, scheme=request.scheme, trusted=trusted, target=target
    )
    head.fields = without_token(head.fields, base_path)
    return Prepared(
        KnownRequest.outgoing(head),
        upgrade=upgrade_of(request.head) is not None,
        wait=preferred_wait(request.head),
    )


def open_fields(where: Addressed, peer: Peer) -> dict[int, bytes]:
    """What the tunnel client is told of a caller's request beside its head."""
    fields: dict[int, bytes] = {}
    if where.x_host is not None:
        fields[OpenField.X_HOST] = where.x_host
        if where.by_destination:
            fields[OpenField.BY_DESTINATION] = b""
    if peer.forwarded_for not in ("", peer.address):
        fields[OpenField.CALLER] = peer.forwarded_for.encode("ascii", "replace")
    return fields


_SECONDS = re.compile(rb"[0-9]{1,9}")  # int() refuses thousands of digits, and takes signs and underscores


def preferred_wait(head: RequestHead) -> float | None:
    """``Prefer: wait=N`` (RFC 7240 4.3): how many seconds the caller is ready to wait; None when it does not say."""
    for name, value in head.fields:
        if name.lower() == b"prefer":
            for item in value.split(b","):
                key, _, number = item.partition(b";")[0].partition(b"=")
                if key.strip().lower() == b"wait" and _SECONDS.fullmatch(number.strip()):
                    return float(min(int(number), 86_400))
    return None
