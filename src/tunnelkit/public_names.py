"""The names that the server gives out: whose they are, and the URLs by which callers reach them (design, section 8).

A name is a public way to the tunnel of its token: what is said of the token's sessions and its queue goes for it too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import anyio

from .config import Limits
from .core.name_table import NameTable
from .core.naming import BaseDomain, PublicAddress, check_name, derived_name, is_derived
from .errors import ConfigError
from .handshake import Refusal
from .net.peer import Peer

__all__ = ["PublicNames"]


class PublicNames:
    """``base``: what names stand in front of; None: there are none. ``public``: where callers come to, if that was
    said; ``bound``: names that the configuration gives to tokens (their digests)."""

    def __init__(
        self,
        *,
        limits: Limits,
        base: BaseDomain | None,
        public: PublicAddress | None,
        bound: Mapping[str, bytes],
        base_path: str,
    ) -> None:
        self._base = base
        self._public = public
        self._base_path = base_path
        self._table = NameTable(limits, bound=bound)
        self.listener: PublicAddress | None = None  # where callers come to if nothing else was said, once it is known

    def owner(self, name: str) -> bytes | None:
        """The digest of the token that has ``name``."""
        return self._table.owner(name, anyio.current_time())

    def claim(self, token: str, digest: bytes, wanted: str | None, beside: Iterable[str]) -> str | Refusal:
        """The name of a new session, "" where there are none; it is the token's until as many ``release`` as claims.
        The one that is ``wanted``; None: the one that the configuration gives to the token, or one made from it.
        ``beside``: the names of the token's other clients, which must be the same, because requests for a name go to
        all of them."""
        if self._base is None:
            return "" if wanted is None else _NO_NAMES
        own = derived_name(token, self._base.host)
        name = self._chosen(wanted, own, self._base) if wanted is not None else self._table.bound_to(digest) or own
        if isinstance(name, Refusal):
            return name
        if name != own and not {name, own, ""}.issuperset(beside):
            return _ANOTHER_NAME
        return name if self._table.claim(name, digest, anyio.current_time()) else _taken(name)

    def _chosen(self, wanted: str, own: str, base: BaseDomain) -> str | Refusal:
        try:
            name = check_name(wanted)
        except ConfigError as error:
            return Refusal(status=400, code="bad_request", detail=f"the name {error.problem}")
        servers_own = self._public is not None and base.name_of(self._public.host) == name
        return _taken(name) if servers_own or (is_derived(name) and name != own) else name

    def serve(self, name: str) -> None:
        """A session that claimed ``name`` is attached."""
        if name:
            self._table.serve(name)

    def release(self, name: str) -> None:
        """A session that claimed ``name`` is over, or never came to life."""
        if name:
            self._table.release(name, anyio.current_time())

    def bind(self, bound: Mapping[str, bytes]) -> None:
        """The configuration was read again. Sessions with names that are others' now are to be ended."""
        self._table.bind(bound)

    def withdraw(self, digest: bytes) -> None:
        """The token is not served any more, and its sessions were ended."""
        self._table.withdraw(digest)

    def url(self, name: str, peer: Peer) -> str:
        """What a client may show as its address: the URL of its name; for one without, the URL to which its token is
        to be added, or "" where only the client knows by which way it came."""
        if name and self._base is not None:
            address = self._public or self._seen_by(peer)
            return address.at(f"{name}.{self._base.host}", self._base.port) if address is not None else ""
        return f"{self._public.at(self._public.host)}_token/" if self._public is not None else ""

    def _seen_by(self, peer: Peer) -> PublicAddress | None:
        """By the word of a trusted proxy, which knows the scheme, or as the server listens."""
        if peer.scheme:
            return PublicAddress(peer.scheme, "", 443 if peer.scheme == "https" else 80, self._base_path)
        return self.listener


def _taken(name: str) -> Refusal:
    return Refusal(status=409, code="name_taken", detail=f"the name {name!r} belongs to another tunnel")


_ANOTHER_NAME = Refusal(
    status=409, code="name_taken", detail="another client of this token has another name: a tunnel has one"
)
_NO_NAMES = Refusal(status=400, code="bad_request", detail="this server gives no names: it has no base domain")
