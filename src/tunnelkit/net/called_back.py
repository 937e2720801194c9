"""What a thread's event loop is at, for ``loop``."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Here"]


class Here(threading.local):
    called_back = False
    after: list[Callable[[], None]] | None = None  # what follows the batch of calls that is under way
