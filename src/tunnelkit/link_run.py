"""One connection's time on a link: what is known of it, and why it ended."""

from __future__ import annotations

import anyio

from .net.doorbell import Doorbell
from .transports.base import TURN, Connection

__all__ = ["LinkRun"]


class LinkRun:
    """See the module. The connection is served by the tasks of ``group``; ``end`` cancels them."""

    __slots__ = ("began", "bell", "connection", "failure", "farewell", "group", "held", "spoilt", "turn")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.began = anyio.current_time()
        # There may be something for the writer to send. Its own: that of the run before may still wait for a turn in
        # which this one's has not begun, and nothing must leave before the greeting.
        self.bell = Doorbell()
        self.farewell = b""  # the message to close with
        self.held = False  # nothing but a farewell goes out
        self.spoilt = False  # a send was cancelled: the connection is only good for abort
        self.group = anyio.create_task_group()
        self.failure: Exception | None = None
        self.turn = TURN  # the last that the connection was told; a change may mean work

    @property
    def was_alive(self) -> bool:
        """Whether a liveness of its own heard the peer after ATTACH; of others the session's pings tell."""
        return not self.connection.wants_pings and self.connection.last_received > self.began

    def end(self, failure: Exception) -> None:
        if self.failure is None:
            self.failure = failure
            self.group.cancel_scope.cancel()
