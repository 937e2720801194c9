"""The operator's own word on who may register: what an authorisation hook sees, and what it answers.

    async def authorise(registration: Registration) -> Granted | Refusal:
        if await directory.knows(registration.token, registration.certificate):
            return Granted()
        return Refusal(status=403, code="forbidden", detail="not in the directory")

It is asked at each registration and again at each resume, after the password was found right; it is cancelled when
the client's connection goes. What it raises is logged and costs the client a 503, after which it tries again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from .core.naming import check_name
from .core.policies import Policy, policy_named
from .handshake import Handshake, Refusal
from .net.peer import Peer

__all__ = ["Authorise", "Granted", "Permit", "Refusal", "Registration", "checked"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Registration:
    """Who wants to register, or to resume a session."""

    token: str = field(repr=False)  # in the clear: what a directory looks it up by
    address: str  # the client's, after trusted proxies
    certificate: Mapping[str, object] | None = field(default=None, repr=False)  # as ``ssl.SSLSocket.getpeercert()``
    instance: str = ""  # of the ``TunnelClient`` object, or as it was configured
    name: str | None = None  # the public name that it asks for
    policy: str | None = None  # how it would share its token
    client_version: str = ""  # what it calls itself, as "tunnelkit/1.0"
    resumes: bool = False  # it was granted before, and only its connection is new

    @classmethod
    def of(cls, handshake: Handshake, peer: Peer) -> Registration:
        return cls(
            token=handshake.token,
            address=peer.forwarded_for or peer.address,
            certificate=peer.certificate,
            instance=handshake.instance,
            name=handshake.name,
            policy=handshake.policy,
            client_version=handshake.client_version,
            resumes=handshake.resume is not None,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Granted:
    """It may. ``policy``: how the clients of its token share it from now on, in place of what the server's
    configuration says ("pool", "replace", "reject", "standby"). ``name``: the public name that it gets, in place of
    the one that it asked for. Raises ``ConfigError`` for another policy, and for what cannot be a name."""

    policy: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if self.policy is not None:
            policy_named(self.policy)
        if self.name is not None:
            check_name(self.name)


Authorise: TypeAlias = Callable[[Registration], Awaitable[Granted | Refusal]]

_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")


def checked(answer: object) -> Granted | Refusal:
    """What a hook answered. Raises TypeError for anything else (an end forgotten is no permission), and ValueError
    for a refusal that no client would take for the server's."""
    if isinstance(answer, Granted):
        return answer
    if not isinstance(answer, Refusal):
        raise TypeError(f"an authorisation hook must answer with Granted or Refusal, not {answer!r:.40}")
    if not 400 <= answer.status <= 599:
        raise ValueError(f"a refusal's status must be from 400 to 599, not {answer.status}")
    if _CODE.fullmatch(answer.code) is None:
        raise ValueError(f"a refusal's code must be a word such as forbidden, not {answer.code!r:.40}")
    if answer.retry_after is not None and not 0 <= answer.retry_after < math.inf:
        raise ValueError("a refusal's retry_after must be a number of seconds")
    return answer


@dataclass(frozen=True, kw_only=True, slots=True)
class Permit:
    """The outcome of an admission: a registration that may go on. ``policy`` and ``name`` are what the hook granted;
    ``secret`` tells that the client showed more than the token, which callers know too."""

    policy: Policy | None = None
    name: str | None = None
    secret: bool = False
