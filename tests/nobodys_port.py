"""A port where nobody listens, for as long as a test needs it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["nobodys_port"]


@contextmanager
def nobodys_port() -> Iterator[int]:
    """Bound, and not listening: a port that was let go may be somebody else's a moment later."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]
