"""What a gateway forwards, byte for byte at both ends of the running tunnel."""

from __future__ import annotations

import pytest

from tunnelkit.errors import StreamBroken

from .by_hand import caller_side, open_by_hand
from .tunnel import TOKEN

pytestmark = [pytest.mark.anyio, pytest.mark.ways("websocket", "longpoll")]

PATH = f"/_token/{TOKEN}".encode()
GET = b"GET " + PATH + b"/a HTTP/1.1\r\nHost: tunnel.test\r\n"
POST = b"POST " + PATH + b"/a HTTP/1.1\r\nHost: tunnel.test\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
ADDED = (
    b"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: tunnel.test\r\n"
    b"Via: 1.1 tunnelkit\r\n\r\n"
)


async def test_a_request_reaches_the_origin_as_it_was_made() -> None:
    """Order, case, duplicates and bytes are kept; what is the hop's or the tunnel's is not."""
    async with open_by_hand(client_options={"host": "preserve"}) as (ends, origin), caller_side(ends) as caller:
        await caller.send(
            b"PATCH " + PATH + b"//x/../%2e%2F?q=%zz&[a]=\\ HTTP/1.1\r\n"
            b"x-FIRST: 1\r\nHost: tunnel.test\r\nX-Dup: a\r\nCookie: a=1\r\nX-Hop: gone\r\n"
            b"x-dup:  b \r\ncookie: b=2\r\nConnection: X-Hop, Cookie, Keep-Alive\r\nKeep-Alive: timeout=5\r\n"
            b"Proxy-Authorization: Basic eDp5\r\n"
            b"Proxy-Connection: keep-alive\r\nX-Token: other-token-entirely\r\nProxy: http://evil.example\r\n"
            b"X-Forwarded-For: 10.0.0.1\r\nX_Forwarded_For: 10.0.0.2\r\nForwarded: for=10.0.0.3\r\n"
            b"X-Real-IP: 10.0.0.4\r\n"
            b"Tunnelkit-Session: x\r\nX-Empty:\r\nX-Bytes: \xe4\xff\tz\r\nContent-Length: 2\r\n\r\nhi"
        )
        peer = await origin.accept()
        assert await peer.until(b"\r\n\r\nhi") == (
            b"PATCH //x/../%2e%2F?q=%zz&[a]=\\ HTTP/1.1\r\n"
            b"x-FIRST: 1\r\nHost: tunnel.test\r\nX-Dup: a\r\nCookie: a=1\r\nx-dup: b\r\ncookie: b=2\r\n"
            b"X-Empty: \r\nX-Bytes: \xe4\xff\tz\r\nContent-Length: 2\r\n" + ADDED + b"hi"
        )
        await peer.send(OK)
        await caller.until(b"hello")


async def test_an_answer_reaches_the_caller_as_it_was_given() -> None:
    async with open_by_hand() as (ends, origin), caller_side(ends) as caller:
        await caller.send(GET + b"\r\n")
        peer = await origin.accept()
        await peer.head()
        await peer.send(
            b"HTTP/1.1 203 pas trouv\xe9\r\nserver: me\r\nDate: Sat, 21 Nov 2026 06:00:00 GMT\r\n"
            b"Set-Cookie: a=1; Domain=x\r\n"
            b"X-Hop: gone\r\nset-cookie: b=2\r\nConnection: X-Hop, Set-Cookie\r\nKeep-Alive: timeout=5\r\n"
            b"Proxy-Authenticate: Basic\r\nTunnelkit-Session: x\r\nX-Token: y\r\nLocation: http://127.0.0.1:1/\r\n"
            b"Content-Encoding: gzip\r\nX-Empty:\r\nContent-Length: 2\r\n\r\nhi"
        )
        assert await caller.until(b"\r\n\r\nhi") == (
            b"HTTP/1.1 203 pas trouv\xe9\r\nserver: me\r\nDate: Sat, 21 Nov 2026 06:00:00 GMT\r\n"
            b"Set-Cookie: a=1; Domain=x\r\n"
            b"set-cookie: b=2\r\nLocation: http://127.0.0.1:1/\r\nContent-Encoding: gzip\r\nX-Empty: \r\n"
            b"Content-Length: 2\r\n\r\nhi"
        )


async def test_proxies_of_the_environment_are_not_for_origins(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with open_by_hand(client_options={"proxy": ""}) as (ends, origin), caller_side(ends) as caller:
        await caller.send(GET + b"\r\n")
        peer = await origin.accept()
        assert (await peer.head()).startswith(b"GET /a HTTP/1.1\r\n")
        await peer.send(OK)
        await caller.until(b"hello")


async def test_100_continue_goes_from_end_to_end() -> None:
    async with open_by_hand() as (ends, origin), caller_side(ends) as caller:
        await caller.send(POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        peer = await origin.accept()
        assert b"\r\nExpect: 100-continue\r\n" in await peer.head()
        assert not caller.data
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await caller.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await caller.send(b"hello")
        await peer.until(b"hello")
        await peer.send(OK)
        await caller.until(b"hello")


async def test_an_expectation_that_is_refused_ends_the_connection() -> None:
    """The caller may send its body or not: only closing tells what the next bytes are (RFC 9110 10.1.1)."""
    async with open_by_hand() as (ends, origin), caller_side(ends) as caller:
        await caller.send(POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        peer = await origin.accept()
        await peer.head()
        await peer.send(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n")
        answer = await caller.rest()
        assert answer.startswith(b"HTTP/1.1 417 Expectation Failed\r\n")
        assert b"\r\nConnection: close\r\n" in answer
        await peer.broken()  # half a request stands on it


async def test_a_caller_that_does_not_wait_for_100_is_served_by_an_origin_that_sends_none() -> None:
    async with open_by_hand() as (ends, origin), caller_side(ends) as caller:
        await caller.send(POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello")
        peer = await origin.accept()
        await peer.until(b"hello")
        await peer.send(OK)
        assert (await caller.until(b"hello")).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_interim_answers_leave_at_once_and_not_for_http_1_0() -> None:
    async with open_by_hand() as (ends, origin), caller_side(ends) as caller, caller_side(ends) as old:
        await caller.send(GET + b"\r\n")
        peer = await origin.accept()
        await peer.head()
        for status in (b"102 Processing", b"103 Early Hints", b"103 Early Hints", b"100 Continue"):
            await peer.send(b"HTTP/1.1 " + status + b"\r\nX: y\r\n\r\n")
            assert await caller.head() == b"HTTP/1.1 " + status + b"\r\nX: y\r\n\r\n"
        await peer.send(OK)
        await caller.until(b"hello")
        await old.send(b"GET " + PATH + b"/b HTTP/1.0\r\n\r\n")
        await peer.head()
        await peer.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK)
        assert (await old.rest()).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_http_1_0_gets_chunks_until_the_end_and_sees_when_they_break_off() -> None:
    async with open_by_hand() as (ends, origin):
        async with caller_side(ends) as caller:
            await caller.send(b"GET " + PATH + b"/a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            peer = await origin.accept()
            await peer.head()
            await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n")
            answer = await caller.rest()
            assert b"chunked" not in answer
            assert b"\r\nConnection: close\r\n" in answer
            assert answer.endswith(b"\r\n\r\nhello")
        async with caller_side(ends) as caller:
            await caller.send(b"GET " + PATH + b"/a HTTP/1.0\r\n\r\n")
            await peer.head()
            await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
            await caller.until(b"hello")
            peer.reset()
            with pytest.raises(StreamBroken):
                await caller.rest()


async def test_an_answer_until_the_end_is_chunked_and_its_breaking_off_shows() -> None:
    async with open_by_hand() as (ends, origin), caller_side(ends) as caller:
        await caller.send(GET + b"\r\n" + GET + b"\r\n")
        peer = await origin.accept()
        await peer.head()
        await peer.send(b"HTTP/1.0 200 OK\r\n\r\nhello")
        await peer.end()
        head = await caller.until(b"0\r\n\r\n")
        assert b"\r\nTransfer-Encoding: chunked\r\n" in head
        assert head.endswith(b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
        peer = await origin.accept()
        await peer.head()
        await peer.send(b"HTTP/1.0 200 OK\r\n\r\nhello")
        await caller.until(b"hello\r\n")
        peer.reset()
        with pytest.raises(StreamBroken):
            await caller.rest()
        assert not caller.data.endswith(b"0\r\n\r\n")


async def test_a_connection_is_used_again_only_after_a_complete_exchange() -> None:
    async with open_by_hand() as (ends, origin):
        async with caller_side(ends) as caller:
            await caller.send(GET + b"\r\n" + GET + b"\r\n")
            peer = await origin.accept()
            for _ in range(2):
                await peer.head()
                await peer.send(OK)
                await caller.until(b"hello")
            assert not origin.waiting
            await caller.send(POST + b"Content-Length: 500000\r\n\r\n" + b"x" * 1000)
            await peer.until(b"x" * 1000)
            await peer.send(OK)  # before the body has come
            assert b"\r\nConnection: close\r\n" in await caller.until(b"hello")
        await peer.broken()
        async with caller_side(ends) as caller:
            await caller.send(GET + b"\r\n")
            other = await origin.accept()
            await other.head()
            await other.send(OK)
            await caller.until(b"hello")


async def test_pipelined_requests_are_made_one_at_a_time() -> None:
    async with open_by_hand() as (ends, origin), caller_side(ends) as caller:
        await caller.send(b"".join(GET.replace(b"/a ", b"/%d " % number) + b"\r\n" for number in range(3)))
        peer = await origin.accept()
        for number in range(3):
            assert (await peer.head()).startswith(b"GET /%d " % number)
            assert not peer.data
            assert not origin.waiting
            await peer.send(OK.replace(b"hello", b"no. %d" % number))
            await caller.until(b"\r\n\r\nno. %d" % number)


async def test_requests_of_one_connection_go_to_their_own_tunnels() -> None:
    other = "another-token-for-the-tests"
    async with open_by_hand() as (ends, origin), ends.join(token=other, origin=ends.origin.url):
        async with caller_side(ends) as caller:
            to_other = GET.replace(PATH, f"/_token/{other}".encode()).replace(b"/a ", b"/bytes/7 ") + b"\r\n"
            await caller.send(GET + b"\r\n" + to_other + GET + b"\r\n")
            peer = await origin.accept()
            for answers in (b"hello", b"\r\n\r\n\0\1\2\3\4\5\6", b"hello"):
                if answers == b"hello":
                    await peer.head()
                    await peer.send(OK)
                await caller.until(answers)
        assert ends.origin.targets() == ["/bytes/7"]


async def test_trailers_go_both_ways() -> None:
    async with open_by_hand() as (ends, origin), caller_side(ends) as caller:
        trailers = b"X-Sum: 1\r\nContent-Length: 9\r\nAuthorization: x\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n"
        await caller.send(
            POST + b"Transfer-Encoding: chunked\r\nTE: trailers, gzip\r\nTrailer: X-Sum, Host\r\n\r\n0\r\n" + trailers
        )
        peer = await origin.accept()
        head = await peer.head()
        assert b"\r\nTE: trailers\r\n" in head
        assert b"\r\nTrailer: x-sum\r\n" in head
        assert await peer.until(b"\r\n\r\n") == b"0\r\nX-Sum: 1\r\n\r\n"
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n0\r\n" + trailers)
        assert b"\r\nTrailer: x-sum\r\n" in await caller.head()
        assert await caller.until(b"\r\n\r\n") == b"0\r\nX-Sum: 1\r\n\r\n"
