"""How a gateway rewrites the heads that it passes on (RFC 9110 7.6). A leaf; pure functions over validated heads.

Which family of forwarding fields: X-Forwarded-For, -Proto and -Host always, because that is what origins read;
``Forwarded`` (RFC 7239) only where a trusted peer sent one, whose chain must not end here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress

from .errors import HeadError
from .field_names import FieldNames, field_names
from .heads import (
    Fields,
    RequestHead,
    ResponseHead,
    body_length,
    connection_options,
    effective_host,
    field_values,
    forbidden_trailer,
    list_items,
    split_target,
)

__all__ = [
    "OWN_FIELDS",
    "VIA_LIMIT",
    "answers_itself",
    "client_address",
    "forward_request",
    "forward_response",
    "scheme_told",
    "set_host",
    "shared_response",
    "upgrade_of",
    "with_origin_host",
]

VIA_LIMIT = 4  # how often our pseudonym may stand in Via: a chain of a few tunnels is legitimate, a loop is not

# tunnelkit's own fields: they address the tunnel and hold its secrets. With the prefix they never reach an origin,
# nor, set by an origin, a caller.
OWN_FIELDS = frozenset({b"x-token", b"x-host", b"x-proxy-destination"})
_OWN_PREFIX = b"tunnelkit-"

_HOP_BY_HOP = frozenset(
    b"connection http2-settings keep-alive proxy-authenticate proxy-authentication-info proxy-authorization "
    b"proxy-connection te transfer-encoding upgrade".split()
)
# What a nomination in Connection cannot take away: fields meant for the origin (RFC 9110 7.6.1), by which it or
# a proxy decides something. Without this a caller could strip what a proxy in front of us added.
_PROTECTED = frozenset(
    b"accept accept-encoding age allow authorization cache-control content-disposition content-encoding "
    b"content-language content-length content-location content-range content-security-policy content-type cookie "
    b"date etag expect expires forwarded host if-match if-modified-since if-none-match if-range "
    b"if-unmodified-since last-modified location max-forwards origin pragma prefer proxy-status range referer "
    b"retry-after server set-cookie strict-transport-security trailer user-agent vary via www-authenticate "
    b"x-content-type-options x-frame-options x-real-ip x-request-id".split()
)
_PROTECTED_PREFIXES = (b"x-forwarded-", b"access-control-", b"sec-")

# What only a proxy may say of the caller: from any other peer it is made up.
_TOLD_BY_PROXIES = frozenset({b"forwarded", b"x-real-ip"})
_TOLD_PREFIX = b"x-forwarded-"
# "Proxy" becomes HTTP_PROXY in CGI-like origins (CVE-2016-5385). X-Forwarded-For is written anew.
_NEVER_FORWARDED = _HOP_BY_HOP | {b"proxy", b"x-forwarded-for"}
# Fields that need more than keeping or dropping.
_REWRITTEN = frozenset(
    b"expect forwarded max-forwards te trailer upgrade via x-forwarded-for x-forwarded-host x-forwarded-proto".split()
)


# -- requests ----------------------------------------------------------------------------------


def forward_request(
    head: RequestHead,
    *,
    peer_address: str,
    scheme: str,
    trusted: bool = False,
    target: bytes | None = None,
    via: bytes = b"tunnelkit",
    own_fields: frozenset[bytes] = OWN_FIELDS,
) -> RequestHead:
    """The request as it goes to the tunnel client, which then chooses Host (``with_origin_host``).

    ``target`` is what routing left of the request target; without it the head's own in origin-form. ``trusted``
    tells whether the socket's peer, ``peer_address``, is a proxy that is believed about the caller. ``via`` is
    our pseudonym. Raises ``HeadError`` 508 when it shows a loop.
    """
    names = field_names(head.fields)
    plan = names.plan(_of_requests(trusted, own_fields))
    fields = _kept(head.fields, names, plan)
    present = plan.rewritten
    if present:
        fields = _rewrite(fields, head, present)
    authority, origin_form = split_target(head.target, head.method)
    host = authority
    if host is None and b"host" in names.at:
        host = head.fields[names.at[b"host"]][1]
    told = present if trusted else frozenset()
    chain = names.values(head.fields, b"x-forwarded-for") if b"x-forwarded-for" in told else []
    fields += _forwarding_fields(told, chain, peer_address, host, scheme)
    if b"via" in present:
        _check_loop(names.values(head.fields, b"via"), via)
    fields.append((b"Via", head.version + b" " + via))
    # The version goes with it: a request by HTTP/1.0 may have no Host until the tunnel client gives it one.
    forwarded = RequestHead(head.method, origin_form if target is None else target, fields, head.version)
    if authority is not None:  # RFC 9112 3.2.2: an absolute form overrides Host
        set_host(forwarded, authority)
    return forwarded


@dataclass(slots=True)
class _Plan:
    """What becomes of the fields of a head by their names, but for what Connection nominates."""

    kept: list[bool]  # for each field
    names: frozenset[bytes]  # of those that are kept
    rewritten: frozenset[bytes]  # names that are there, of those in _REWRITTEN


class _Planner:
    """Makes plans. WSGI and CGI cannot tell X_Forwarded_For from X-Forwarded-For: what is judged in the one spelling
    would reach the origin in the other, so lookalikes are dropped."""

    def __init__(self, dropped: frozenset[bytes], prefixes: tuple[bytes, ...]) -> None:
        self._dropped = dropped
        self._prefixes = prefixes

    def __call__(self, names: FieldNames) -> _Plan:
        kept = [self._keeps(name) for name in names.lowered]
        return _Plan(kept, frozenset(compress(names.lowered, kept)), _REWRITTEN.intersection(names.lowered))

    def _keeps(self, name: bytes) -> bool:
        return not (name in self._dropped or name.startswith(self._prefixes) or _is_lookalike(name))


@lru_cache(maxsize=16)
def _of_requests(trusted: bool, own_fields: frozenset[bytes]) -> _Planner:
    if trusted:
        return _Planner(_NEVER_FORWARDED | own_fields, (_OWN_PREFIX,))
    return _Planner(_NEVER_FORWARDED | own_fields | _TOLD_BY_PROXIES, (_OWN_PREFIX, _TOLD_PREFIX))


@lru_cache(maxsize=16)
def _of_responses(without_length: bool, own_fields: frozenset[bytes]) -> _Planner:
    length = frozenset({b"content-length"}) if without_length else frozenset[bytes]()
    return _Planner(_HOP_BY_HOP | own_fields | length, (_OWN_PREFIX,))


_LOOKED_LIKE = _NEVER_FORWARDED | OWN_FIELDS | _TOLD_BY_PROXIES | {b"content-length", b"content-type"}


def _is_lookalike(name: bytes) -> bool:
    spelled = name.replace(b"_", b"-")
    return spelled != name and (spelled in _LOOKED_LIKE or spelled.startswith((_OWN_PREFIX, _TOLD_PREFIX)))


def _kept(fields: Fields, names: FieldNames, plan: _Plan) -> Fields:
    """The fields that go on."""
    if b"connection" in names.at:
        values = names.values(fields, b"connection")
        nominated = _nominated(values[0] if len(values) == 1 else b",".join(values))
        if not nominated.isdisjoint(plan.names):
            return [
                field
                for field, name, kept in zip(fields, names.lowered, plan.kept, strict=True)
                if kept and name not in nominated
            ]
    return list(compress(fields, plan.kept))


@lru_cache(maxsize=64)
def _nominated(connection: bytes) -> frozenset[bytes]:
    """What Connection makes hop-by-hop, but for what it cannot (RFC 9110 7.6.1)."""
    options = connection_options(connection) - _PROTECTED
    return frozenset(option for option in options if not option.startswith(_PROTECTED_PREFIXES))


def _rewrite(fields: Fields, head: RequestHead, present: frozenset[bytes]) -> Fields:
    if b"expect" in present and head.version == b"1.0":  # RFC 9110 10.1.1: it cannot be meant
        fields = [field for field in fields if field[0].lower() != b"expect"]
    if b"max-forwards" in present and head.method == b"OPTIONS":
        fields = [_one_hop_less(field) for field in fields]
    if b"trailer" in present:
        fields = _announced_trailers(fields, body_length(head) is None)
    return fields + _hop_fields(head, present)


def _hop_fields(head: RequestHead, present: frozenset[bytes]) -> Fields:
    """Those that we send as hop-by-hop fields of our own, with Connection naming them (RFC 9110 7.6.1)."""
    fields: Fields = []
    if b"upgrade" in present and (upgrade := upgrade_of(head)) is not None:
        fields.append((b"Upgrade", upgrade))
    if b"te" in present and b"trailers" in list_items(field_values(head.fields, b"te")):  # ours are relayed
        fields.append((b"TE", b"trailers"))
    return [(b"Connection", b", ".join([name for name, _ in fields])), *fields] if fields else []


def upgrade_of(head: RequestHead) -> bytes | None:
    """The protocols that a request asks to change to, or None where it goes on as ordinary HTTP (RFC 9110 7.8).

    h2c is not passed on: HTTP/2 past us would be unseen requests. A request with a body is not upgraded, because
    what follows the body could not be told from it."""
    names = field_names(head.fields)
    if b"upgrade" not in names.at or head.version == b"1.0":
        return None
    if b"upgrade" not in list_items(names.values(head.fields, b"connection")):
        return None
    offered = [part.strip(b" \t") for value in names.values(head.fields, b"upgrade") for part in value.split(b",")]
    wanted = [protocol for protocol in offered if protocol and protocol.lower() != b"h2c"]
    return b", ".join(wanted) if wanted and body_length(head) == 0 else None


def answers_itself(head: RequestHead) -> bool:
    """Whether the gateway is the last that may answer: OPTIONS with Max-Forwards 0 (RFC 9110 7.6.2)."""
    return head.method == b"OPTIONS" and any(
        value.isdigit() and not value.strip(b"0") for value in field_values(head.fields, b"max-forwards")
    )


def _one_hop_less(field: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    name, value = field
    if name.lower() != b"max-forwards" or not value.isdigit() or len(value) > 9:
        return field
    return name, b"%d" % max(int(value) - 1, 0)


def _announced_trailers(fields: Fields, relayed: bool) -> Fields:
    """Trailer, naming what will really be relayed."""
    result = []
    for name, value in fields:
        if name.lower() != b"trailer":
            result.append((name, value))
        elif relayed and (announced := [item for item in list_items([value]) if not forbidden_trailer(item)]):
            result.append((name, b", ".join(announced)))
    return result


def _check_loop(hops: list[bytes], via: bytes) -> None:
    ours = via.lower()
    passed = [hop.split() for hop in list_items(hops)]
    if sum(hop[1:2] == [ours] for hop in passed) > VIA_LIMIT:
        raise HeadError(508, "loop", "the request has passed here too often: it runs in a loop")


def _forwarding_fields(
    told: frozenset[bytes], chain: list[bytes], peer_address: str, host: bytes | None, scheme: str
) -> Fields:
    """Say where the request came from; ``told`` are the fields by which a trusted peer did.

    X-Forwarded-For is a chain, and goes on. -Proto and -Host describe the caller's own hop: one that a trusted
    proxy gave is kept as it is, because origins read a single value there."""
    peer = _node(peer_address)
    fields: Fields = []
    if chain or peer:
        fields.append((b"X-Forwarded-For", b", ".join([*chain, peer] if peer else chain)))
    if b"x-forwarded-proto" not in told:
        fields.append((b"X-Forwarded-Proto", scheme.encode("ascii")))
    if host and b"x-forwarded-host" not in told:
        fields.append((b"X-Forwarded-Host", host))
    if b"forwarded" in told:
        fields.append((b"Forwarded", _forwarded_element(peer, host, scheme)))
    return fields


@lru_cache(maxsize=256)
def _node(address: str) -> bytes:
    """An address as it stands in X-Forwarded-For: without an IPv6 zone, which means nothing elsewhere."""
    return address.partition("%")[0].encode("ascii", "replace")


def _forwarded_element(peer: bytes, host: bytes | None, scheme: str) -> bytes:
    """RFC 7239 4 and 6: IPv6 addresses stand in brackets, and what holds ":" in quotes."""
    node = b'"[%b]"' % peer if b":" in peer else peer or b"unknown"
    pairs = [b"for=" + node, b"proto=" + scheme.encode("ascii")]
    if host:
        pairs.append(b'host="%b"' % host)
    return b";".join(pairs)


def client_address(fields: Fields, peer_address: str, trusted: Callable[[str], bool]) -> str:
    """The address that counts for limits and logs: X-Forwarded-For read from the right for as long as trusted
    proxies vouch for it. Garbage ends the reading: whoever wrote it is the last that is known."""
    address = peer_address
    hops = list_items(field_values(fields, b"x-forwarded-for")) if trusted(address) else []
    while hops and trusted(address) and (hop := _parse_node(hops.pop())) is not None:
        address = hop
    return address


def scheme_told(fields: Fields) -> str:
    """ "http" or "https" by the word of a proxy that is trusted; "" where it says nothing that can be understood."""
    values = list_items(field_values(fields, b"x-forwarded-proto"))
    return values[0].decode() if values[:1] in ([b"http"], [b"https"]) else ""


def _parse_node(item: bytes) -> str | None:
    """The IP address of an element, which some proxies write with a port, or in brackets."""
    text = item.decode("ascii", "replace")
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


# -- Host at the origin ------------------------------------------------------------------------


def set_host(head: RequestHead, host: bytes) -> None:
    """Replace Host in its place, or put it first (RFC 9110 7.2: as near the top as possible)."""
    for index, (name, _) in enumerate(head.fields):
        if name.lower() == b"host":
            head.fields[index] = (name, host)
            return
    head.fields.insert(0, (b"Host", host))


def with_origin_host(head: RequestHead, policy: str | None, origin_host: bytes) -> RequestHead:
    """The head with the Host for the origin: its own (policy None), the caller's where there is one
    ("preserve"), or a fixed one (any other policy)."""
    if policy == "preserve":
        host = effective_host(head) or origin_host
    else:
        host = origin_host if policy is None else policy.encode("ascii")
    result = RequestHead(head.method, head.target, list(head.fields), head.version)
    set_host(result, host)
    return result


# -- responses ---------------------------------------------------------------------------------


def forward_response(head: ResponseHead, *, own_fields: frozenset[bytes] = OWN_FIELDS) -> ResponseHead:
    """The response as the caller's end gets it. Content-Length stays as received, for HEAD and 304 too; the
    carrier chooses the transfer coding anew."""
    names = field_names(head.fields)
    # RFC 9110 8.6: Content-Length must not be there.
    plan = names.plan(_of_responses(head.status < 200 or head.status == 204, own_fields))
    fields = _kept(head.fields, names, plan)
    if b"trailer" in names.at:
        fields = _announced_trailers(fields, body_length(head) is None)
    if b"upgrade" in names.at and head.status in (101, 426):  # RFC 9110 7.8, 15.5.22: these name the protocol
        fields += [(b"Connection", b"Upgrade"), (b"Upgrade", b", ".join(names.values(head.fields, b"upgrade")))]
    return ResponseHead(head.status, fields, head.reason)


def shared_response(head: ResponseHead) -> ResponseHead:
    """The same, made once for all callers that get it: it remembers how it is written out."""
    out = forward_response(head)
    out.written = {}
    return out
