"""What a stream's socket is told, and asked, past all that reads and writes it."""

from __future__ import annotations

import select
import socket
import struct
import sys
from typing import Final

__all__ = ["RESET_ON_CLOSE", "nothing_came"]

# Linger for 0 seconds: close sends RST and drops what the kernel holds.
RESET_ON_CLOSE: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)

_POLLS: Final = hasattr(select, "poll")  # Windows has none


def nothing_came(sock: socket.socket) -> bool:
    """Nothing waits in the kernel: of what came in the batch of events that a loop is at, no stream has heard."""
    if not _POLLS:
        return not select.select([sock], [], [], 0)[0]
    polled = select.poll()  # a third of what it takes to peek and be told by an exception
    polled.register(sock, select.POLLIN)
    return not polled.poll(0)
