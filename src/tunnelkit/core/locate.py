"""Where a token or a session lives: today always here. The one seam for a directory shared by several servers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from ..errors import ConfigError

__all__ = ["HERE", "Directory", "Here", "Location", "Node", "OneNode", "make_session_id", "routing_tag"]

_NODE = re.compile(r"[A-Za-z0-9_]{1,32}")
_SESSION_ID = re.compile(r"([A-Za-z0-9_]{1,32})-[A-Za-z0-9_]{16,64}")


@dataclass(frozen=True, slots=True)
class Here:
    """On this server."""


@dataclass(frozen=True, slots=True)
class Node:
    """On another server, known by its routing tag."""

    name: str


Location: TypeAlias = Here | Node
HERE = Here()


class Directory(Protocol):
    """Says where a caller's request, a resume or a poll is to go."""

    def locate(self, key: bytes | str) -> Location:
        """``key``: a token's digest (bytes) or a session id (str)."""
        ...


class OneNode:
    """The directory of a server that stands alone: all is here, or nowhere."""

    def locate(self, key: bytes | str) -> Location:
        return HERE


def make_session_id(node: str, random: str) -> str:
    """``<node>-<random>``: the routing tag in front lets any node tell whose session it is, without a look-up."""
    if _NODE.fullmatch(node) is None:
        raise ConfigError("node", "must be 1 to 32 letters, digits or '_'")
    session_id = f"{node}-{random}"
    if _SESSION_ID.fullmatch(session_id) is None:
        raise ValueError("random must be 16 to 64 letters, digits or '_'")
    return session_id


def routing_tag(session_id: str) -> str | None:
    """The node's name in a session id; None when it is no id of ours."""
    match = _SESSION_ID.fullmatch(session_id)
    return match[1] if match else None
