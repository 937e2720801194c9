"""What the client knows of its session: the grant, checked before it is believed, and the proofs that resume it."""

from __future__ import annotations

from dataclasses import replace

from .config import Limits
from .core.opening import ClientOpening
from .errors import RemoteProtocolError
from .handshake import Grant, Resume
from .link import Link
from .proof import FIRST_EPOCH, KEY_SIZE, Prover, Purpose, attach_tag, epoch_key, proof
from .transports.base import Connection

__all__ = ["STREAMS_LIMIT", "ClientSession", "agreed_limits", "checked_key", "first_prover"]

# Seconds: no server keeps a session longer than a day.
GRACE_LIMIT = 86_400.0
# Streams that a server may have or grant, as far as we are ready to answer for them: resets are owed for each.
STREAMS_LIMIT = 100_000


class ClientSession:
    """One session, as the client knows it. ``lost_at``: when it lost its last connection, if it ever had one."""

    def __init__(self, grant: Grant, link: Link) -> None:
        self.id = grant.session_id
        self.grant = grant
        self.link = link
        self.lost_at: float | None = None
        self._resume_key = checked_key(grant)
        self._epoch = FIRST_EPOCH - 1

    def next_epoch(self) -> int:
        """A new one for every try: one that failed may have taken over all the same."""
        self._epoch += 1
        return self._epoch

    def resume(self, epoch: int) -> Resume:
        """Names the session, with proof, as the one to go on with."""
        return Resume(session_id=self.id, epoch=epoch, proof=self._tag(epoch))

    def farewell(self) -> Resume:
        """Names the session, with proof, as one that is given up."""
        epoch = self.next_epoch()
        tag = proof(epoch_key(self._resume_key, epoch), Purpose.GIVE_UP, self.id, epoch)
        return Resume(session_id=self.id, epoch=epoch, proof=tag)

    def prover(self, epoch: int) -> Prover:
        """Of the requests of that epoch's connection."""
        return Prover(self._resume_key, self.id, epoch)

    def opening(self, epoch: int, connection: Connection) -> ClientOpening:
        """Of that epoch's connection."""
        return ClientOpening(epoch, self._tag(epoch), self.link.limits, ordered=connection.ordered)

    def _tag(self, epoch: int) -> bytes:
        return attach_tag(self._resume_key, self.id, epoch)


def first_prover(grant: Grant) -> Prover:
    """Of the first connection of the session that is granted. Raises ``RemoteProtocolError``."""
    return Prover(checked_key(grant), grant.session_id, FIRST_EPOCH)


def checked_key(grant: Grant) -> bytes:
    """The resume key of a new session's grant, all of which is checked: any transport may have brought it.

    Raises ``RemoteProtocolError`` for a grant that cannot be.
    """
    key = grant.resume_key
    if key is None or len(key) != KEY_SIZE:
        raise RemoteProtocolError("the server granted a session without a proper key", code="bad_grant")
    if not 0 <= grant.grace <= GRACE_LIMIT:  # false for NaN too
        raise RemoteProtocolError(f"the server granted a grace of {grant.grace} s", code="bad_grant")
    if grant.max_streams < 1:
        raise RemoteProtocolError("the server granted no stream", code="bad_grant")
    return key


def agreed_limits(limits: Limits, grant: Grant) -> Limits:
    """The floor is one number for both ends: what either grants without a word is what the other counts on.
    The budget stays our own: it may hold fewer of the server's floors. Raises ``RemoteProtocolError``."""
    floor = grant.stream_floor
    if not 0 < floor <= min(limits.stream_max_window, limits.receive_budget):
        raise RemoteProtocolError(f"the server granted a floor of {floor} bytes a stream", code="bad_grant")
    return replace(
        limits,
        stream_floor=floor,
        stream_first_window=max(limits.stream_first_window, floor),
        max_streams=min(limits.max_streams, limits.receive_budget // floor),
    )
