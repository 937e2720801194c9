from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.errors import HeadError
from tunnelkit.forwarding import (
    VIA_LIMIT,
    answers_itself,
    client_address,
    forward_request,
    forward_response,
    scheme_told,
    set_host,
    shared_response,
    upgrade_of,
    with_origin_host,
)
from tunnelkit.heads import Fields, RequestHead, ResponseHead, validate_request

HOST = (b"Host", b"example.com")
ADDED = [
    (b"X-Forwarded-For", b"192.0.2.1"),
    (b"X-Forwarded-Proto", b"http"),
    (b"X-Forwarded-Host", b"example.com"),
    (b"Via", b"1.1 tunnelkit"),
]


def request(
    *fields: tuple[bytes, bytes], target: bytes = b"/", method: bytes = b"GET", version: bytes = b"1.1"
) -> RequestHead:
    return RequestHead(method, target, [HOST, *fields], version)


def forward(head: RequestHead, *, peer: str = "192.0.2.1", trusted: bool = False) -> RequestHead:
    return forward_request(head, peer_address=peer, scheme="http", trusted=trusted)


def kept(*fields: tuple[bytes, bytes], method: bytes = b"GET", version: bytes = b"1.1") -> Fields:
    """What of ``fields`` an origin gets, with what is added besides the usual."""
    out = forward(request(*fields, method=method, version=version)).fields
    assert out[0] == HOST
    assert all(field in out for field in ADDED[:3])
    return [field for field in out[1:] if field not in ADDED]


# -- requests: what goes -----------------------------------------------------------------------


def test_order_case_and_duplicates_are_kept() -> None:
    fields = [(b"x-B", b"1"), (b"Cookie", b"a"), (b"X-b", b""), (b"cookie", b"b"), (b"My_Own", b"caf\xe9")]
    head = forward(request(*fields))
    assert head.fields == [HOST, *fields, *ADDED]
    assert (head.method, head.target, head.version) == (b"GET", b"/", b"1.1")


def test_the_given_head_is_not_changed() -> None:
    head = request((b"Connection", b"close"), target=b"http://other/")
    before = repr(head)
    forward(head)
    with_origin_host(head, None, b"origin")
    assert repr(head) == before


def test_a_head_without_fields() -> None:
    out = forward_request(RequestHead(b"GET", b"/", [], b"1.0"), peer_address="", scheme="https")
    assert out.fields == [(b"X-Forwarded-Proto", b"https"), (b"Via", b"1.0 tunnelkit")]


@pytest.mark.parametrize(
    "name",
    [
        *(b"Connection", b"Keep-Alive", b"Proxy-Connection", b"Proxy-Authenticate", b"Proxy-Authorization", b"TE"),
        *(b"Transfer-Encoding", b"Upgrade", b"HTTP2-Settings", b"Proxy-Authentication-Info", b"Trailer"),
        *(b"X-Token", b"x-host", b"Tunnelkit-Token", b"TUNNELKIT-ANYTHING", b"Proxy"),
        *(b"X-Real-IP", b"Forwarded", b"X-Forwarded-Port", b"X-Forwarded-Anything"),
        *(b"X_Token", b"Tunnelkit_Token", b"X_Forwarded_For", b"X-Forwarded_Proto", b"X_Real_IP", b"Content_Length"),
    ],
)
def test_dropped_from_requests(name: bytes) -> None:
    assert kept((name, b"spoof"), (b"A", b"b")) == [(b"A", b"b")]


def test_nominated_fields_are_dropped() -> None:
    assert kept((b"Connection", b"close, X-Foo"), (b"connection", b"x-bar"), (b"x-foo", b"1"), (b"X-Bar", b"2")) == []


@pytest.mark.parametrize(
    "name",
    [
        *(b"Content-Length", b"Authorization", b"Cookie", b"Cache-Control", b"Content-Type", b"Origin", b"Range"),
        *(b"Sec-WebSocket-Key", b"Access-Control-Request-Method", b"Expect", b"Accept"),
    ],
)
def test_protected_fields_cannot_be_nominated(name: bytes) -> None:
    assert kept((b"Connection", name), (name, b"5")) == [(name, b"5")]


def test_what_we_add_cannot_be_nominated() -> None:
    head = forward(request((b"Connection", b"Host, Via, X-Forwarded-For, X-Forwarded-Proto, Forwarded")))
    assert head.fields == [HOST, *ADDED]


def test_own_fields_can_be_more() -> None:
    out = forward_request(
        request((b"X-Proxy-Destination", b"http://a/"), (b"X-Token", b"secret")),
        peer_address="192.0.2.1",
        scheme="http",
        own_fields=frozenset({b"x-token", b"x-host", b"x-proxy-destination"}),
    )
    assert out.fields == [HOST, *ADDED]


# -- targets -----------------------------------------------------------------------------------


def test_an_absolute_target_becomes_an_origin_target_and_host() -> None:
    head = forward(request(target=b"http://Other:81//a?b"))
    assert head.target == b"//a?b"
    assert head.fields[0] == (b"Host", b"Other:81")
    assert (b"X-Forwarded-Host", b"Other:81") in head.fields


def test_http_1_0_without_host_stays_what_it_is() -> None:
    head = forward_request(RequestHead(b"GET", b"/", [], b"1.0"), peer_address="192.0.2.1", scheme="http")
    validate_request(head)  # as the other end does
    assert head.version == b"1.0"


def test_the_routes_target_goes_first() -> None:
    head = forward_request(request(target=b"/_token/secret/a"), peer_address="", scheme="http", target=b"/a")
    assert head.target == b"/a"
    assert b"secret" not in repr(head).encode()


# -- Via ---------------------------------------------------------------------------------------


def test_via_is_appended() -> None:
    head = forward(request((b"Via", b"1.0 fred"), version=b"1.0"))
    assert [value for name, value in head.fields if name == b"Via"] == [b"1.0 fred", b"1.0 tunnelkit"]


def test_a_loop_is_told() -> None:
    passed = [(b"Via", b", ".join([b"1.1 Tunnelkit (x)"] * VIA_LIMIT)), (b"via", b"1.1 other, 1.1, tunnelkit")]
    forward(request(*passed))
    with pytest.raises(HeadError) as caught:
        forward(request(*passed, (b"Via", b"1.1 tunnelkit")))
    assert (caught.value.status, caught.value.code) == (508, "loop")


# -- X-Forwarded-* and Forwarded ---------------------------------------------------------------


def told(*fields: tuple[bytes, bytes], peer: str = "192.0.2.1", trusted: bool = True) -> Fields:
    out = forward(request(*fields), peer=peer, trusted=trusted).fields
    return [field for field in out if field[0].lower().startswith((b"x-forwarded", b"forwarded", b"x-real-ip"))]


SPOOFED = [(b"X-Forwarded-For", b"1.1.1.1"), (b"X-Forwarded-Proto", b"https"), (b"X-Forwarded-Host", b"evil")]


def test_an_untrusted_peer_is_not_believed() -> None:
    assert told(*SPOOFED, (b"Forwarded", b"for=1.1.1.1"), trusted=False) == ADDED[:3]


def test_a_trusted_peers_chain_goes_on() -> None:
    assert told(*SPOOFED, (b"x-forwarded-for", b"2.2.2.2"), (b"X-Real-IP", b"1.1.1.1")) == [
        *SPOOFED[1:],
        (b"X-Real-IP", b"1.1.1.1"),
        (b"X-Forwarded-For", b"1.1.1.1, 2.2.2.2, 192.0.2.1"),
    ]


def test_a_trusted_peer_that_tells_nothing() -> None:
    assert told() == ADDED[:3]
    assert told((b"X-Forwarded-Port", b"81")) == [(b"X-Forwarded-Port", b"81"), *ADDED[:3]]


def test_lookalikes_are_dropped_from_trusted_peers_too() -> None:
    assert told((b"X_Forwarded_Proto", b"https"), (b"X_FORWARDED_FOR", b"1.1.1.1")) == ADDED[:3]


def test_peers_without_an_address() -> None:
    assert told(peer="") == ADDED[1:3]
    assert told(SPOOFED[0], peer="") == [SPOOFED[0], *ADDED[1:3]]


def test_ipv6_peers() -> None:
    assert told(peer="fe80::1%eth0")[0] == (b"X-Forwarded-For", b"fe80::1")


@pytest.mark.parametrize(
    ("peer", "element"),
    [
        ("192.0.2.1", b'for=192.0.2.1;proto=http;host="example.com"'),
        ("2001:db8::1", b'for="[2001:db8::1]";proto=http;host="example.com"'),
        ("", b'for=unknown;proto=http;host="example.com"'),
    ],
)
def test_forwarded_goes_on_where_it_came(peer: str, element: bytes) -> None:
    fields = told((b"Forwarded", b"for=_x"), peer=peer)
    assert [value for name, value in fields if name == b"Forwarded"] == [b"for=_x", element]


def test_forwarded_without_a_host() -> None:
    head = RequestHead(b"GET", b"/", [(b"Forwarded", b"for=_x")], b"1.0")
    out = forward_request(head, peer_address="192.0.2.1", scheme="https", trusted=True)
    assert (b"Forwarded", b"for=192.0.2.1;proto=https") in out.fields


# -- the address that counts -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "chain", "address"),
    [
        ("9.9.9.9", [b"1.1.1.1"], "9.9.9.9"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [b"1.1.1.1"], "1.1.1.1"),
        ("10.0.0.1", [b"6.6.6.6, 1.1.1.1"], "1.1.1.1"),
        ("10.0.0.1", [b"6.6.6.6", b"1.1.1.1, 10.0.0.2"], "1.1.1.1"),
        ("10.0.0.1", [b"10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", [b"1.1.1.1:8080"], "1.1.1.1"),
        ("10.0.0.1", [b"[2001:DB8::1]:80"], "2001:db8::1"),
        ("10.0.0.1", [b"2001:db8::1"], "2001:db8::1"),
        ("10.0.0.1", [b"1.1.1.1, garbage, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", [b",,, ,"], "10.0.0.1"),
        ("10.0.0.1", [b"\xff"], "10.0.0.1"),
        ("10.0.0.1", [b"["], "10.0.0.1"),
        ("10.0.0.1", [b"unknown"], "10.0.0.1"),
    ],
)
def test_client_address(peer: str, chain: list[bytes], address: str) -> None:
    fields = [(b"X-Forwarded-For", value) for value in chain]
    assert client_address(fields, peer, lambda hop: hop.startswith("10.")) == address


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_client_address_takes_any_bytes(chain: list[bytes]) -> None:
    client_address([(b"X-Forwarded-For", value) for value in chain], "10.0.0.1", lambda hop: True)


@pytest.mark.parametrize(
    ("values", "scheme"),
    [
        ([b"https"], "https"),
        ([b"HTTP"], "http"),
        ([b"https, http"], "https"),
        ([b"http", b"https"], "http"),
        ([b"ftp"], ""),
        ([b""], ""),
        ([], ""),
    ],
)
def test_the_scheme_that_a_proxy_tells(values: list[bytes], scheme: str) -> None:
    assert scheme_told([(b"X-Forwarded-Proto", value) for value in values]) == scheme


# -- single fields -----------------------------------------------------------------------------


def test_expect_is_kept_but_from_http_1_0() -> None:
    expect = (b"Expect", b"100-continue")
    assert kept(expect) == [expect]
    out = forward(request(expect, (b"A", b"b"), version=b"1.0")).fields
    assert expect not in out
    assert (b"A", b"b") in out


@pytest.mark.parametrize(
    ("method", "value", "expected"),
    [
        (b"OPTIONS", b"2", b"1"),
        (b"OPTIONS", b"0", b"0"),
        (b"OPTIONS", b"x", b"x"),
        (b"OPTIONS", b"1" * 10, b"1" * 10),
        (b"GET", b"2", b"2"),
    ],
)
def test_max_forwards(method: bytes, value: bytes, expected: bytes) -> None:
    assert kept((b"Max-Forwards", value), (b"A", b"b"), method=method) == [
        (b"Max-Forwards", expected),
        (b"A", b"b"),
    ]


@pytest.mark.parametrize(
    ("method", "fields", "answer"),
    [
        (b"OPTIONS", [(b"Max-Forwards", b"0")], True),
        (b"OPTIONS", [(b"max-forwards", b"00")], True),
        (b"OPTIONS", [(b"Max-Forwards", b"10")], False),
        (b"OPTIONS", [(b"Max-Forwards", b"")], False),
        (b"OPTIONS", [], False),
        (b"GET", [(b"Max-Forwards", b"0")], False),
    ],
)
def test_answers_itself(method: bytes, fields: Fields, answer: bool) -> None:
    assert answers_itself(request(*fields, method=method)) is answer


def test_te_is_kept_for_trailers_alone() -> None:
    assert kept((b"TE", b"gzip;q=1, Trailers"), (b"Connection", b"TE")) == [
        (b"Connection", b"TE"),
        (b"TE", b"trailers"),
    ]
    assert kept((b"TE", b"gzip"), (b"Connection", b"TE")) == []


def test_trailer_names_what_is_relayed() -> None:
    chunked = (b"Transfer-Encoding", b"chunked")
    assert kept(chunked, (b"A", b"b"), (b"Trailer", b"Checksum, Host")) == [(b"A", b"b"), (b"Trailer", b"checksum")]
    assert kept(chunked, (b"Trailer", b"Host")) == []
    assert kept((b"Trailer", b"Checksum")) == []


# -- upgrades ----------------------------------------------------------------------------------

UPGRADE = (b"Connection", b"keep-alive, Upgrade")


@pytest.mark.parametrize(
    ("head", "protocols"),
    [
        (request(UPGRADE, (b"Upgrade", b"websocket")), b"websocket"),
        (request(UPGRADE, (b"Upgrade", b"websocket"), (b"Content-Length", b"0")), b"websocket"),
        (request(UPGRADE, (b"Upgrade", b"IRC/6.9, h2c"), (b"upgrade", b"x")), b"IRC/6.9, x"),
        (request(UPGRADE, (b"Upgrade", b"H2C")), None),
        (request(UPGRADE, (b"Upgrade", b",")), None),
        (request(UPGRADE), None),
        (request((b"Upgrade", b"websocket")), None),
        (request(UPGRADE, (b"Upgrade", b"websocket"), version=b"1.0"), None),
        (request(UPGRADE, (b"Upgrade", b"websocket"), (b"Content-Length", b"5")), None),
        (request(UPGRADE, (b"Upgrade", b"websocket"), (b"Transfer-Encoding", b"chunked")), None),
    ],
)
def test_upgrade_of(head: RequestHead, protocols: bytes | None) -> None:
    assert upgrade_of(head) == protocols
    out = forward(head)
    assert upgrade_of(out) == protocols  # both ends judge alike
    expected = [] if protocols is None else [(b"Connection", b"Upgrade"), (b"Upgrade", protocols)]
    assert [field for field in out.fields if field[0] in (b"Connection", b"Upgrade")] == expected


def test_upgrade_and_te_are_named_together() -> None:
    fields = kept((b"Connection", b"upgrade, te"), (b"Upgrade", b"websocket"), (b"TE", b"trailers"))
    assert fields == [(b"Connection", b"Upgrade, TE"), (b"Upgrade", b"websocket"), (b"TE", b"trailers")]


def test_h2c_settings_are_dropped() -> None:
    head = request((b"Connection", b"Upgrade, HTTP2-Settings"), (b"Upgrade", b"h2c"), (b"HTTP2-Settings", b"AAM"))
    assert forward(head).fields == [HOST, *ADDED]


# -- Host at the origin ------------------------------------------------------------------------


def test_set_host() -> None:
    head = RequestHead(b"GET", b"/", [(b"A", b"b"), (b"host", b"x")])
    set_host(head, b"y")
    assert head.fields == [(b"A", b"b"), (b"host", b"y")]
    head = RequestHead(b"GET", b"/", [(b"A", b"b")])
    set_host(head, b"y")
    assert head.fields == [(b"Host", b"y"), (b"A", b"b")]


@pytest.mark.parametrize(
    ("policy", "fields", "host"),
    [
        (None, [HOST], b"origin:81"),
        ("preserve", [HOST], b"example.com"),
        ("preserve", [], b"origin:81"),
        ("fixed.example", [HOST], b"fixed.example"),
    ],
)
def test_host_policies(policy: str | None, fields: Fields, host: bytes) -> None:
    head = RequestHead(b"POST", b"/a", [*fields, (b"A", b"b")], b"1.0")
    assert with_origin_host(head, policy, b"origin:81") == RequestHead(
        b"POST", b"/a", [(b"Host", host), (b"A", b"b")], b"1.0"
    )


# -- responses ---------------------------------------------------------------------------------


def response(status: int, *fields: tuple[bytes, bytes]) -> Fields:
    out = forward_response(ResponseHead(status, list(fields), b"R", b"1.0"))
    assert (out.status, out.reason, out.version) == (status, b"R", b"1.1")
    return out.fields


def test_responses_keep_what_is_the_callers() -> None:
    fields = [
        (b"Set-Cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
        (b"Location", b"http://internal/"),
        (b"Content-Length", b"5"),
        (b"X-Forwarded-For", b"kept: it is the origin's to say"),
    ]
    assert response(200, *fields) == fields
    assert response(304, *fields) == fields


def test_responses_lose_what_is_the_hops_or_ours() -> None:
    assert (
        response(
            200,
            (b"Connection", b"close, X-Foo, Set-Cookie"),
            (b"X-Foo", b"1"),
            (b"Keep-Alive", b"timeout=5"),
            (b"Transfer-Encoding", b"chunked"),
            (b"Upgrade", b"h2"),
            (b"Proxy-Authenticate", b"Basic"),
            (b"Tunnelkit-Session", b"x"),
            (b"X-Token", b"x"),
            (b"X_Host", b"x"),
        )
        == []
    )


@pytest.mark.parametrize("status", [100, 103, 204])
def test_no_length_where_no_body_can_be(status: int) -> None:
    assert response(status, (b"Content-Length", b"0"), (b"A", b"b")) == [(b"A", b"b")]


def test_101_and_426_name_the_protocol() -> None:
    upgrade = [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    assert response(101, *upgrade, (b"Sec-WebSocket-Accept", b"x")) == [(b"Sec-WebSocket-Accept", b"x"), *upgrade]
    assert response(426, *reversed(upgrade)) == upgrade
    assert response(101, upgrade[0]) == []


def test_the_responses_trailer_names_what_is_relayed() -> None:
    announced = (b"Trailer", b"Checksum, Set-Cookie")
    assert response(200, announced, (b"Transfer-Encoding", b"chunked")) == [(b"Trailer", b"checksum")]
    assert response(200, announced, (b"Content-Length", b"5")) == [(b"Content-Length", b"5")]


# -- any fields --------------------------------------------------------------------------------

names = st.sampled_from(
    b"A Connection Upgrade TE Trailer Via Forwarded X-Forwarded-For X-Forwarded-Proto X_Forwarded_For Expect "
    b"Max-Forwards X-Token Tunnelkit-Token Content-Length Transfer-Encoding Cookie X_Token".split()
)
values = st.sampled_from(
    [b"", b"a", b",", b"a, b;q=1", b"Upgrade", b"Cookie", b"te, A", b"chunked", b"5", b"websocket", b"\xe9\t\xff"]
)


@given(st.lists(st.tuples(names, values), max_size=8), st.booleans(), st.sampled_from([b"GET", b"OPTIONS"]))
def test_a_valid_request_stays_valid_and_carries_nothing_of_the_hop(
    fields: Fields, trusted: bool, method: bytes
) -> None:
    head = request(*fields, method=method)
    try:
        validate_request(head)
    except HeadError:
        return
    out = forward(head, trusted=trusted)
    validate_request(out)
    lowered = [name.lower().replace(b"_", b"-") for name, _ in out.fields]
    assert not {b"x-token", b"tunnelkit-token", b"transfer-encoding", b"keep-alive"}.intersection(lowered)
    assert lowered.count(b"x-forwarded-for") == 1
    assert [field for field in out.fields if field[0] == b"Cookie"] == [f for f in fields if f[0] == b"Cookie"]
    assert [field for field in out.fields if field[0] == b"Content-Length"] == [
        f for f in fields if f[0] == b"Content-Length"
    ]


def test_a_shared_response_is_forwarded_and_remembers_how_it_is_written() -> None:
    head = ResponseHead(200, [(b"Content-Length", b"2"), (b"Keep-Alive", b"timeout=5")], b"OK")
    one, other = shared_response(head), shared_response(head)
    assert one == forward_response(head)
    assert one.fields == [(b"Content-Length", b"2")]
    assert one.written == {}
    assert one.written is not other.written
    assert head.written is None
