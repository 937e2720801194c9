"""Where a request at the server's port goes: to a tunnel, a transport, a page, or back with a reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from .core.destinations import check_x_host, through_tunnel
from .core.routing import NotFound, Reserved, RoutingConfig, ToDestination, ToName, ToTunnel, route
from .core.rules import RuleSet
from .core.trust import TrustedProxies
from .errors import HeadError
from .forwarding import answers_itself, client_address, scheme_told
from .gateway import Gateway
from .gateway_exchange import GatewayExchange
from .http.mounted import Mounted
from .http.own_answers import refuse
from .http.request import CallerRequest
from .pages import Pages
from .server_middleware import Handle
from .transports.base import Offer, Transport

__all__ = ["Dispatcher"]


class Dispatcher:
    """``core.routing`` decides, this carries out. ``rules`` gives those that count now; ``offer`` answers the
    handshakes of tunnel clients; ``handle`` is the gateway's, with whatever stands around it."""

    def __init__(
        self,
        *,
        routing: RoutingConfig,
        rules: Callable[[], RuleSet],
        trusts: TrustedProxies,
        transports: Mapping[str, Transport],
        gateway: Gateway,
        pages: Pages,
        offer: Offer,
        handle: Handle,
    ) -> None:
        self._routing = routing
        self._rules = rules
        self._trusts = trusts
        self._transports = transports
        self._gateway = gateway
        self._pages = pages
        self._offer = offer
        self._handle = handle

    async def public(self, request: CallerRequest) -> None:
        """Answer a caller's request, or serve a tunnel client's connection to its end."""
        where = self._where(request)
        if isinstance(where, (ToTunnel, ToName)):
            await self.to_tunnel(request, where)
        elif isinstance(where, Reserved) and where.name == "_tunnel":
            await self._to_transport(request, where)
        elif isinstance(where, Reserved):
            await self._pages.answer(request, where)
        else:
            refuse(request, 404, "no_tunnel", where.detail)

    def begin(self, request: CallerRequest) -> GatewayExchange | None:
        """``public`` as far as it goes without waiting, for a request to a tunnel. None: nothing was done."""
        try:
            where = self._where(request)
        except HeadError:  # which ``public`` tells
            return None
        if not isinstance(where, (ToTunnel, ToName)) or self._gateway.draining or answers_itself(request.head):
            return None
        return self._gateway.begin(request, where)

    def _where(self, request: CallerRequest) -> Reserved | ToTunnel | ToName | NotFound:
        """Raises ``HeadError`` where the rules forbid it."""
        self._mark_forwarded(request)
        where = request.plan(route, partial(route, request.head, self._routing))
        if isinstance(where, ToDestination):
            return through_tunnel(where, request.head, self._rules())
        if isinstance(where, (ToTunnel, ToName)) and where.x_host is not None:
            check_x_host(where, request.head, self._rules())
        return where

    async def admin(self, request: CallerRequest) -> None:
        """Answer a request at the admin listener."""
        where = route(request.head, self._routing)
        if isinstance(where, Reserved) and where.name != "_tunnel":
            await self._pages.answer(request, where, admin=True)
        else:
            refuse(request, 404, "not_found", "the admin listener carries no requests: it has the server's own pages")

    async def to_tunnel(self, request: CallerRequest, where: ToTunnel | ToName) -> None:
        if self._gateway.draining:
            refuse(request, 503, "draining", "the server is shutting down", retry_after=1)
        elif answers_itself(request.head):
            self._pages.options(request)
        else:
            await self._handle(request, where)

    async def _to_transport(self, request: CallerRequest, where: Reserved) -> None:
        request.be_link()
        mount = self._mount_of(request, where.rest.decode("ascii", "replace"))
        if mount is None:
            refuse(request, 404, "unknown_transport", "no transport is mounted here")
        else:
            transport, mounted = mount
            await transport.mounted(mounted, mounted.while_there(self._offer))

    def _mount_of(self, request: CallerRequest, path: str) -> tuple[Transport, Mounted] | None:
        """The transport that claims the request, or else the first at whose path it is."""
        mounts = [
            (transport, Mounted(request, below))
            for transport in self._transports.values()
            if (below := _below(transport.mount_path(), path)) is not None
        ]
        return next((mount for mount in mounts if mount[0].claims(mount[1])), mounts[0]) if mounts else None

    def _mark_forwarded(self, request: CallerRequest) -> None:
        """Behind trusted proxies neither the address nor the scheme that counts is the socket's."""
        peer, trusts = request.peer, self._trusts
        if trusts(peer.address):
            fields = request.head.fields
            address = client_address(fields, peer.address, trusts)
            request.peer = replace(peer, forwarded_for=address, scheme=scheme_told(fields))


def _below(mount: str | None, path: str) -> str | None:
    """What of ``path`` lies below a transport's mount path; None when it is not the transport's."""
    if mount is None or not path.startswith(mount):
        return None
    below = path[len(mount) :]
    return below if not below or (mount and below.startswith("/")) else None
