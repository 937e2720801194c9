"""The three messages that open or resume a session: plain data."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Grant", "Handshake", "Refusal", "Resume"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Resume:
    """Names a session, with proof (HMAC, see ``proof``) for one epoch."""

    session_id: str
    epoch: int
    proof: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Handshake:
    """The client's announcement. Secrets never appear in ``repr``."""

    token: str = field(repr=False)
    password: str | None = field(default=None, repr=False)
    authorization: str | None = field(default=None, repr=False)  # from the tunnel URL's userinfo, "Basic ..."
    version_min: int = 1  # of the wire, from this
    version_max: int = 1  # to this
    features: frozenset[str] = frozenset()
    client_version: str = ""
    instance: str = ""  # of the client's object, or as it was configured
    name: str | None = None  # the public name that it asks for
    policy: str | None = None  # how it would share its token
    resume: Resume | None = None  # this opening continues a session
    gives_up: Resume | None = None  # a session of ours that is over, closed before this one opens


@dataclass(frozen=True, kw_only=True, slots=True)
class Grant:
    """The server's yes."""

    session_id: str  # with a routing tag: "<node>-<random>"
    resume_key: bytes | None = field(default=None, repr=False)  # None when a session is resumed: it stays the same
    version: int = 1
    features: frozenset[str] = frozenset()
    replay_window: int = 0  # the server's R: how far the client may send beyond what was received
    stream_floor: int = 0  # the acceptor's first limit on every stream
    max_streams: int = 0
    grace: float = 0.0
    public_url: str = ""  # of the client's name; or "http://host:8080/_token/", to which its token is to be added


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """The server's no, given before anything is upgraded. ``code`` is tunnelkit's own, lower case letters and ``_``:
    bad_request, unauthorized, forbidden, version, superseded and name_taken end a client; it tries again for others.
    """

    status: int
    code: str
    detail: str
    retry_after: float | None = None
