"""Heads judged once for many exchanges: what is looked up is what would be worked out."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tunnelkit.config import Limits
from tunnelkit.core.known_heads import (
    BLOCKS_KEPT,
    KEPT_SIZE,
    PLANS_KEPT,
    HeadReader,
    KnownRequest,
    KnownResponse,
)
from tunnelkit.errors import LocalProtocolError, RemoteProtocolError
from tunnelkit.heads import (
    Fields,
    RequestHead,
    ResponseHead,
    Trailers,
    encode_request,
    encode_response,
    encode_trailers,
)

HOST = (b"Host", b"a")


def request(*fields: tuple[bytes, bytes], target: bytes = b"/") -> RequestHead:
    return RequestHead(b"GET", target, [HOST, *fields])


def answer(*fields: tuple[bytes, bytes]) -> ResponseHead:
    return ResponseHead(200, [*fields], b"OK")


def read(head: RequestHead | ResponseHead, reader: HeadReader | None = None) -> KnownRequest | KnownResponse:
    block = encode_request(head) if isinstance(head, RequestHead) else encode_response(head)
    known = (reader or HeadReader()).read(block)
    assert isinstance(known, (KnownRequest, KnownResponse))
    assert known.block == block
    return known


@pytest.mark.parametrize("head", [request((b"X-A", b"b")), answer((b"X-A", b"b"))])
def test_a_block_is_its_head(head: RequestHead | ResponseHead) -> None:
    assert read(head).head == head


def test_trailers_are_left_to_the_exchange() -> None:
    assert HeadReader().read(encode_trailers([(b"X-A", b"b")])) == Trailers([(b"X-A", b"b")])


@pytest.mark.parametrize(("fields", "length"), [([], None), ([(b"Content-Length", b"12")], 12)])
def test_the_length_that_is_promised(fields: Fields, length: int | None) -> None:
    assert read(answer(*fields)).length == KnownResponse.outgoing(answer(*fields)).length == length


@pytest.mark.parametrize(
    ("fields", "offers"),
    [
        ([], False),
        ([(b"Upgrade", b"websocket")], False),
        ([(b"Connection", b"upgrade"), (b"Upgrade", b"websocket")], True),
    ],
)
def test_what_offers_an_upgrade(fields: Fields, offers: bool) -> None:
    known = read(request(*fields))
    assert isinstance(known, KnownRequest)
    assert known.offers is KnownRequest.outgoing(request(*fields)).offers is offers


def test_equal_blocks_are_judged_once() -> None:
    reader = HeadReader()
    assert read(request(), reader) is read(request(), reader)
    assert read(request(), reader) is not read(request(target=b"/b"), reader)
    assert read(request(), reader) is not read(request(), HeadReader())


def test_only_the_last_small_ones_are_remembered() -> None:
    reader = HeadReader()
    first, large = read(request(), reader), request((b"X-Large", b"x" * KEPT_SIZE))
    assert read(large, reader) is not read(large, reader)
    for number in range(BLOCKS_KEPT):
        read(request(target=b"/%d" % number), reader)
    assert read(request(), reader) is not first


@pytest.mark.parametrize("head", [request((b"X-A", b"a\0")), answer((b"X-A", b"a\0"))])
@pytest.mark.parametrize("times", [1, 2])
def test_what_is_wrong_is_wrong_every_time(head: RequestHead | ResponseHead, times: int) -> None:
    reader = HeadReader()
    for _ in range(times):
        with pytest.raises(RemoteProtocolError) as caught:
            read(head, reader)
        assert caught.value.code == "bad_head"


def test_the_limits_are_the_readers_own() -> None:
    head = request(*[(b"X-A", b"b")] * 20)
    assert read(head).head == head
    with pytest.raises(RemoteProtocolError):
        read(head, HeadReader(Limits(field_limit=10)))


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda head: read(head), RemoteProtocolError),
        (KnownResponse.outgoing, LocalProtocolError),
    ],
)
def test_frames_end_bodies_inside_a_stream(
    make: Callable[[ResponseHead], object], error: type[RemoteProtocolError | LocalProtocolError]
) -> None:
    with pytest.raises(error, match="Transfer-Encoding"):
        make(answer((b"Transfer-Encoding", b"chunked")))


def test_what_is_made_of_a_head_is_made_once() -> None:
    made: list[ResponseHead] = []

    def make(head: ResponseHead) -> int:
        made.append(head)
        return len(made)

    known = KnownResponse.outgoing(answer())
    assert [known.plan(make), known.plan(make)] == [1, 1]
    assert made == [answer()]


def test_of_many_that_make_something_of_a_head_only_some_are_remembered() -> None:
    """One for each origin that callers name, and a head that is asked for ever would keep all of them for ever."""
    known = read(request())
    for number in range(3 * PLANS_KEPT):
        assert known.plan(lambda _, number=number: number) == number  # type: ignore[misc]
        assert len(known._plans) <= PLANS_KEPT
