"""What ASGI scopes say, as request heads."""

from __future__ import annotations

from typing import Any

import pytest

from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.errors import HeadError
from tunnelkit.forwarding import forward_request, upgrade_of
from tunnelkit.heads import Fields, RequestHead, field_values
from tunnelkit.mount.scope import has_body, http_head, peer_of, scheme_of, websocket_head
from tunnelkit.net.peer import Peer

HOST = (b"host", b"a.example")


def scope(*fields: tuple[bytes, bytes], **facts: Any) -> dict[str, Any]:
    known = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "headers": [HOST, *fields],
        "http_version": "1.1",
        "scheme": "http",
    }
    return known | facts


def head_of(*fields: tuple[bytes, bytes], **facts: Any) -> RequestHead:
    return http_head(scope(*fields, **facts), DEFAULT_LIMITS)


def test_a_head_has_what_the_scope_says_byte_for_byte() -> None:
    head = head_of((b"X-a", b"1"), (b"x-A", b"\xff"), method="PUT", raw_path=b"/a%2Fb//c/../d", query_string=b"q=%20")
    assert head == RequestHead(b"PUT", b"/a%2Fb//c/../d?q=%20", [HOST, (b"X-a", b"1"), (b"x-A", b"\xff")])


def test_a_host_that_tells_no_raw_path_has_it_made_of_the_path() -> None:
    assert head_of(raw_path=None, path="/ä b/c").target == b"/%C3%A4%20b/c"


def test_a_query_in_the_raw_path_is_not_taken_twice() -> None:
    assert head_of(raw_path=b"/a?q=1", query_string=b"q=1").target == b"/a?q=1"


@pytest.mark.parametrize(
    ("root", "raw", "target"),
    [
        ("/below", b"/below/x", b"/x"),
        ("/below/", b"/below/x", b"/x"),
        ("/below", b"/below", b"/"),
        ("/below", b"/x", b"/x"),  # hosts that leave the root out of the path
        ("/below", b"/belowx", b"/belowx"),
        ("/b ä", b"/b%20%C3%A4/x", b"/x"),
        ("/b ä", b"/%62%20%c3%a4/x%2Fy", b"/x%2Fy"),
        ("/b%20c", b"/b%20c/x", b"/x"),  # as uvicorn's --root-path has it
        ("/a/b", b"/a/b//x", b"//x"),
        ("", b"", b"/"),
    ],
)
def test_the_target_is_what_lies_below_the_mount(root: str, raw: bytes, target: bytes) -> None:
    assert head_of(root_path=root, raw_path=raw, path="/").target == target


def test_what_the_hosts_own_connection_was_asked_for_is_not_passed_on() -> None:
    own: Fields = [(b"Connection", b"te, x"), (b"te", b"trailers"), (b"x", b"1")]
    head = head_of(*own, (b"upgrade", b"h2c"))
    assert head.fields == [HOST, own[0], own[2]]
    forwarded = forward_request(head, peer_address="", scheme="http")
    assert not field_values(forwarded.fields, b"x")  # as Connection says (RFC 9110 7.6.1)
    given = scope(*own, extensions={"http.response.trailers": {}})
    assert http_head(given, DEFAULT_LIMITS).fields == [HOST, *own]  # the host can send them


@pytest.mark.parametrize(
    "facts",
    [
        {"headers": [HOST, (b"connection", b"Upgrade, HTTP2-Settings"), (b"upgrade", b"h2c")]},
        {"headers": [HOST, (b"upgrade", b"something")]},  # RFC 9110 7.8: without Connection it counts for nothing
        {"headers": [HOST, (b"connection", b"upgrade"), (b"upgrade", b"something")], "http_version": "2"},
    ],
)
def test_what_asks_for_no_other_protocol_goes_on(facts: dict[str, Any]) -> None:
    head = head_of(**facts)
    assert not field_values(head.fields, b"upgrade")
    assert upgrade_of(head) is None


def test_cookies_that_http_2_split_are_one_field() -> None:
    head = head_of((b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2"))
    assert field_values(head.fields, b"cookie") == [b"a=1; b=2"]


@pytest.mark.parametrize(
    ("facts", "status"),
    [
        ({"headers": []}, 400),  # no Host
        ({"headers": [(b"host", b"a/b")]}, 400),
        ({"headers": [HOST, (b"connection", b"upgrade"), (b"upgrade", b"something")]}, 501),
        ({"headers": [HOST, (b"a b", b"c")]}, 400),
        ({"raw_path": b"/a b"}, 400),
        ({"method": "TRACE"}, 405),
        ({"headers": [HOST, (b"content-length", b"1, 2")]}, 400),
        ({"headers": [HOST] + [(b"a", b"b")] * 200}, 431),
    ],
)
def test_what_the_front_refuses_is_refused_here(facts: dict[str, Any], status: int) -> None:
    with pytest.raises(HeadError) as caught:
        head_of(**facts)
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("fields", "version", "comes"),
    [
        ([], "1.1", False),
        ([(b"content-length", b"0")], "1.1", False),
        ([(b"content-length", b"5")], "1.1", True),
        ([(b"transfer-encoding", b"chunked")], "1.1", True),
        ([], "2", None),
        ([(b"content-length", b"0")], "2", False),
        ([(b"content-length", b"7")], "3", True),
    ],
)
def test_whether_a_body_comes(fields: Fields, version: str, comes: bool | None) -> None:
    given = scope(*fields, http_version=version)
    assert has_body(given, http_head(given, DEFAULT_LIMITS)) is comes


def test_a_websocket_scope_is_an_opening_request_of_its_own() -> None:
    fields: Fields = [
        (b"upgrade", b"websocket"),
        (b"connection", b"Upgrade"),
        (b"sec-websocket-key", b"theirs"),
        (b"sec-websocket-version", b"13"),
        (b"sec-websocket-extensions", b"permessage-deflate"),
        (b"sec-websocket-protocol", b"x"),
        (b"origin", b"http://b.example"),
    ]
    given = scope(*fields, type="websocket", scheme="wss", subprotocols=["chat", "v2"], raw_path=b"/ws")
    head, key = websocket_head(given, DEFAULT_LIMITS)
    assert (head.method, head.target) == (b"GET", b"/ws")
    assert field_values(head.fields, b"sec-websocket-key") == [key] != [b"theirs"]
    assert field_values(head.fields, b"sec-websocket-protocol") == [b"chat, v2"]
    assert field_values(head.fields, b"sec-websocket-extensions") == []
    assert field_values(head.fields, b"origin") == [b"http://b.example"]
    assert field_values(head.fields, b"upgrade") == [b"websocket"]
    without, _ = websocket_head(scope(type="websocket"), DEFAULT_LIMITS)
    assert field_values(without.fields, b"sec-websocket-protocol") == []


def test_who_calls() -> None:
    assert peer_of(scope(client=("192.0.2.7", 5000), scheme="https")) == Peer(
        address="192.0.2.7", port=5000, tls=True, forwarded_for="192.0.2.7"
    )
    assert peer_of(scope(client=None)) == Peer()
    assert [scheme_of(scope(scheme=name)) for name in ("http", "https", "ws", "wss")] == [
        "http",
        "https",
        "http",
        "https",
    ]
