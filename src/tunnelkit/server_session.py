"""One session, as the server knows it: plain facts, and the words that stand for it in pages and logs."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence

from .core.tokens import mask_token, token_digest, token_tag
from .handshake import Handshake
from .link import Link
from .logs import quoted
from .net.peer import Peer
from .net.timers import Timer
from .registration import Permit

__all__ = ["ServerSession", "log_attached", "warn_of_stranger"]

logger = logging.getLogger("tunnelkit.server")


class ServerSession:
    """One client at the server, attached or in grace. ``server.sessions()`` lists them. What can be read are facts of
    now; what becomes of it, but for ``close``, is not for its reader to say."""

    def __init__(
        self,
        session_id: str,
        handshake: Handshake,
        peer: Peer,
        link: Link,
        resume_key: bytes,
        permit: Permit,
        *,
        started: float,
        end: Callable[[ServerSession, str], None],
    ) -> None:
        self.id = session_id
        self.short_id = session_id[:8]  # for log lines
        self.started = started
        self._end = end
        self.permit = permit
        self.name = ""  # below the base domain, where there is one
        self.replaces = False  # when it attaches, all others of its token are superseded
        self.digest = token_digest(handshake.token)
        self.masked = mask_token(handshake.token)  # the token, as ``tunnelkit.mask_token`` shows it
        self.tag = token_tag(handshake.token)  # for logs: masked, with 6 hex digits of its digest
        self.token_prefix = handshake.token[:8]
        self.instance = handshake.instance  # of the ``TunnelClient`` object, or as it was configured
        self.client_version = handshake.client_version
        self.peer = peer
        self.host_name = ""  # reverse DNS, when it is known
        self.link = link
        self.resume_key = resume_key
        self.epoch = 0
        self.attachments = 0  # counts connections, so that a fenced one knows that it is over
        self.lost_at: float | None = None
        self.grace: Timer | None = None
        self.ended: str | None = None

    @property
    def public_id(self) -> str:
        """What names it to people and programs: nobody resumes a session by that."""
        return hashlib.sha256(b"tunnelkit public id " + self.id.encode()).hexdigest()[:16]

    def close(self, code: str = "closed_by_server") -> None:
        """End it at once: its requests fail truthfully, and its client, which is told, opens another session. To keep
        a client out, withdraw its token, or refuse it by ``authorise``."""
        self._end(self, code)

    @property
    def attached(self) -> bool:
        """Whether it has a connection now."""
        return self.link.connection is not None

    @property
    def host(self) -> str:
        """The client's address, after trusted proxies."""
        return self.peer.forwarded_for or self.peer.address

    @property
    def address(self) -> str:
        """The client's, with the port where the socket itself is the client's."""
        peer = self.peer
        if peer.forwarded_for and peer.forwarded_for != peer.address:
            return peer.forwarded_for
        host = f"[{peer.address}]" if ":" in peer.address else peer.address
        return f"{host}:{peer.port}"

    @property
    def transport(self) -> str:
        """The name of the transport that it is connected by; "" without a connection."""
        connection = self.link.connection
        return connection.transport if connection is not None else ""

    def idle(self, now: float) -> float:
        """Seconds since the client was last heard."""
        connection = self.link.connection
        last = connection.last_received if connection is not None else self.lost_at
        return now - last if last is not None else 0.0

    @property
    def label(self) -> str:
        """What stands for the session in log lines."""
        return f"{self.whose} session={self.short_id}..."

    @property
    def whose(self) -> str:
        """The token, and the name where there is one, in log lines."""
        return f"token={self.tag} name={self.name}" if self.name else f"token={self.tag}"

    def __repr__(self) -> str:
        state = "gone" if self.ended else "attached" if self.attached else "detached"
        return f"<ServerSession {self.id[:8]}... token={self.tag} {state} epoch={self.epoch}>"


# -- log lines ---------------------------------------------------------------------------------


def log_attached(session: ServerSession, transport: str, *, is_first: bool) -> None:
    logger.info(
        "%s %s addr=%s transport=%s client=%s session=%s...",
        "registered" if is_first else "resumed",
        session.whose,
        session.host,
        transport,
        quoted(session.client_version),
        session.id[:8],
    )


def warn_of_stranger(newcomer: ServerSession, others: Sequence[ServerSession]) -> None:
    """Of a token that somebody uses from elsewhere too (design, section 8): it may have been stolen."""
    elsewhere = next((other.host for other in others if other.host != newcomer.host), None)
    if elsewhere is not None:
        logger.warning(
            "a client registers beside one from another address: addr=%s other=%s %s",
            newcomer.host,
            elsewhere,
            newcomer.label,
        )
