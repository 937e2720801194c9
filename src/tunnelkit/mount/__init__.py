"""A tunnel server under an ASGI server, in the place of a front of its own."""

from __future__ import annotations

from .app import MountedServer

__all__ = ["MountedServer"]
