"""Telling a service manager how the program is: what systemd's ``Type=notify`` needs (sd_notify(3)), and no more.

Where nobody asks for it (no ``NOTIFY_SOCKET`` in the environment) each function does nothing.
"""

from __future__ import annotations

import logging
import os
import socket
import time

__all__ = ["ready", "reloading", "stopping"]

logger = logging.getLogger("tunnelkit")

# A datagram waits only while the manager is behind with reading.
PATIENCE = 1.0


def ready(status: str = "") -> None:
    """It runs: at the start, and after a reload. ``status`` is one line for people."""
    _notify("READY=1", *([f"STATUS={status}"] if status else []))


def reloading() -> None:
    """It reads its files again, until it is ``ready``. The time tells the manager which reload that is."""
    _notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping(status: str) -> None:
    _notify("STOPPING=1", f"STATUS={status}")


def _notify(*assignments: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(PATIENCE)
            # "@" is how the environment writes the NUL of an abstract address.
            sock.sendto("\n".join(assignments).encode(), f"\0{address[1:]}" if address[0] == "@" else address)
    except OSError as error:
        logger.warning("the service manager cannot be told of %s: %s", assignments[0], error)
