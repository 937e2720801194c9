"""``/_sessions``: what the admin credential lists and closes over HTTP.

For programs. A browser that remembers the password could be made to send it by any page, among them those of the
origins behind this very host, so that what a browser's script sends is refused.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable

import anyio

from .admin_access import Access, AdminAccess
from .gateway import Gateway
from .heads import ResponseHead
from .http.own_answers import refuse, respond, send_whole
from .http.request import CallerRequest
from .logs import log_event
from .problem import problem
from .server_session import ServerSession

__all__ = ["SessionPage"]

logger = logging.getLogger("tunnelkit.server")

_BY_BROWSERS = frozenset({b"origin", b"sec-fetch-site", b"sec-fetch-mode", b"sec-fetch-dest"})


class SessionPage:
    """``sessions`` gives all that there are now."""

    def __init__(
        self, *, sessions: Callable[[], Iterable[ServerSession]], gateway: Gateway, access: AdminAccess
    ) -> None:
        self._sessions = sessions
        self._gateway = gateway
        self._access = access

    async def answer(self, request: CallerRequest, rest: bytes) -> None:
        """``rest`` is what follows the page's name: nothing, or a slash and a session's public id."""
        if any(name.lower() in _BY_BROWSERS for name, _ in request.head.fields):
            refuse(request, 403, "forbidden", "sessions are not for scripts of a browser's pages")
            return
        access = self._access.act(request)
        if access is Access.DENIED:
            self._access.deny(request, "sessions are for the administrator")
        elif access is Access.ALLOWED:
            await self._serve(request, rest.removeprefix(b"/").decode("latin-1"))

    async def _serve(self, request: CallerRequest, public_id: str) -> None:
        method = request.head.method
        found = [session for session in self._sessions() if public_id in ("", session.public_id)]
        if public_id and not found:
            refuse(request, 404, "not_found", "there is no such session (any more)")
        elif method in (b"GET", b"HEAD"):
            members = self._members(found)
            document = members[0] if public_id else {"sessions": members}
            await respond(request, 200, b"application/json", json.dumps(document, indent=1).encode() + b"\n")
        elif method == b"DELETE" and public_id:
            self._close(request, found[0])
        else:
            _refuse_method(request, b"GET, HEAD, DELETE" if public_id else b"GET, HEAD")

    def _close(self, request: CallerRequest, session: ServerSession) -> None:
        by = request.peer.forwarded_for or request.peer.address
        log_event(
            logger,
            logging.INFO,
            "session closed by the administrator",
            id=session.public_id,
            token=session.tag,
            by=by,
        )
        session.close("closed_by_admin")
        send_whole(request, ResponseHead(204, [(b"Cache-Control", b"no-store")], b"No Content"), b"")

    def _members(self, sessions: list[ServerSession]) -> list[dict[str, object]]:
        now = anyio.current_time()
        active = Counter(exchange.session for exchange in self._gateway.active)
        return [
            {
                "id": session.public_id,
                "token": session.masked,
                "name": session.name,
                "state": "attached" if session.attached else "detached",
                "transport": session.transport,
                "address": session.address,
                "host_name": session.host_name,
                "client_version": session.client_version,
                "requests": active[session],
                "age_secs": round(now - session.started, 1),
                "idle_secs": round(session.idle(now), 1),
            }
            for session in sessions
        ]


def _refuse_method(request: CallerRequest, allowed: bytes) -> None:
    head, body = problem(405, "method_not_allowed", "sessions are listed and closed", request.head)
    head.fields = [(name, allowed if name == b"Allow" else value) for name, value in head.fields]
    send_whole(request, head, body)
