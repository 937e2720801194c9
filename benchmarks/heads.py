"""What heads cost: reading them by each parser that is installed, and what both ends do to those of one exchange.

Run: ``python benchmarks/heads.py``. CPU time of one process; the best of some rounds, in which all take turns.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser
from collections.abc import Callable
from typing import TypeVar

from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.core.exchange import Exchange
from tunnelkit.core.known_heads import HeadReader, KnownRequest, KnownResponse
from tunnelkit.errors import ConfigError
from tunnelkit.forwarding import forward_request, forward_response, with_origin_host
from tunnelkit.heads import (
    RequestHead,
    ResponseHead,
    decode_block,
    encode_request,
    encode_response,
    validate_request,
    validate_response,
)
from tunnelkit.http.client_codec import ClientCodec, RequestBlock, request_block
from tunnelkit.http.codec import HeadParser
from tunnelkit.http.codec_moves import Signal
from tunnelkit.http.parsers import find_parser
from tunnelkit.http.plain_codec import PLAIN_PARSER
from tunnelkit.http.server_codec import ServerCodec

PATH = b"/api/v1/items?page=2"
REQUEST = (
    b"GET /_token/a-token-of-some-length" + PATH + b" HTTP/1.1\r\nHost: example.com:8080\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n"
    b"Accept: application/json, text/plain, */*\r\nAccept-Language: en-GB,en;q=0.5\r\n"
    b"Accept-Encoding: gzip, deflate, br\r\nCookie: session=0123456789abcdef; theme=dark\r\n"
    b"Cache-Control: no-cache\r\nConnection: keep-alive\r\n\r\n"
)
ANSWER = (
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sat, 21 Nov 2026 08:00:00 GMT\r\n"
    b"Content-Type: application/json\r\nContent-Length: 12\r\nVary: Accept-Encoding\r\nConnection: keep-alive\r\n\r\n"
)
BODY = b"hello, world"

Work = Callable[[], object]
T = TypeVar("T")


def server_reads(parser: HeadParser) -> RequestHead:
    """A caller's request, from bytes to a head that may be passed on."""
    codec = ServerCodec(parser, DEFAULT_LIMITS)
    codec.receive_data(REQUEST)
    head = codec.next_event()
    assert isinstance(head, RequestHead)
    return head


def client_reads(parser: HeadParser, asked: RequestHead) -> ResponseHead:
    """An origin's answer; the request before it is written too."""
    codec = ClientCodec(parser, DEFAULT_LIMITS)
    codec.encode_head(asked)
    codec.encode_end()
    codec.receive_data(ANSWER)
    head = codec.next_event()
    assert isinstance(head, ResponseHead)
    return head


def forwarded(head: RequestHead) -> RequestHead:
    return forward_request(head, peer_address="127.0.0.1", scheme="http", target=PATH)


class Ends:
    """The two ends of a tunnel, and what they remember of heads."""

    def __init__(self) -> None:
        self.server, self.client = HeadReader(DEFAULT_LIMITS), HeadReader(DEFAULT_LIMITS)


def at_both_ends(front: ServerCodec, origin: ClientCodec, ends: Ends) -> None:
    """All that becomes of the heads of one exchange, but for the socket's and the multiplexer's part."""
    server, client = Exchange(client=False, heads=ends.server), Exchange(client=True, heads=ends.client)
    front.receive_data(REQUEST)
    asked = front.next_event()
    assert isinstance(asked, RequestHead)
    sent = planned(front, lambda: KnownRequest.outgoing(forwarded(asked)))
    came = client.receive_request(server.send_known_request(sent, fin=True), fin=True)
    assert isinstance(came, KnownRequest)
    origin.encode_request(came.plan(for_origin))
    origin.encode_end()
    origin.receive_data(ANSWER)
    answer = origin.next_event()
    assert isinstance(answer, ResponseHead)
    returned = planned(origin, lambda: KnownResponse.outgoing(forward_response(answer)))
    back = server.receive_response(client.send_known_response(returned))
    assert isinstance(back, KnownResponse)
    front.encode_head(back.plan(for_caller))


def planned(codec: ClientCodec | ServerCodec, make: Callable[[], T]) -> T:
    return make() if codec.again is None else codec.again.made("sent", make)


def for_origin(head: RequestHead) -> RequestBlock:
    return request_block(with_origin_host(head, None, b"127.0.0.1:8000"))


def for_caller(head: ResponseHead) -> ResponseHead:
    head = forward_response(head)
    head.written = {}
    return head


class KeptAlive:
    """Exchange after exchange on the same two connections, between the same two that always say the same."""

    def __init__(self, parser: HeadParser) -> None:
        self._front, self._origin = ServerCodec(parser, DEFAULT_LIMITS), ClientCodec(parser, DEFAULT_LIMITS)
        self._ends = Ends()

    def __call__(self) -> None:
        front, origin = self._front, self._origin
        at_both_ends(front, origin, self._ends)
        while front.next_event() is not Signal.PAUSED:
            pass
        front.encode_body(BODY)
        front.encode_end()
        origin.receive_data(BODY)
        while origin.next_event() is not Signal.PAUSED:
            pass
        front.start_next_cycle()
        origin.start_next_cycle()


def works() -> dict[str, Work]:
    request, answer = PLAIN_PARSER.parse_request(REQUEST), PLAIN_PARSER.parse_response(ANSWER)
    sent, returned = forwarded(request), forward_response(answer)
    there, back = encode_request(sent), encode_response(returned)
    found: dict[str, Work] = {}
    for name, parser in parsers().items():
        found[f"parse a request, {name}"] = lambda parser=parser: parser.parse_request(REQUEST)  # type: ignore[misc]
        found[f"parse an answer, {name}"] = lambda parser=parser: parser.parse_response(ANSWER)  # type: ignore[misc]
        found[f"read a request, {name}"] = lambda parser=parser: server_reads(parser)  # type: ignore[misc]
        found[f"an exchange on new connections, {name}"] = lambda parser=parser: at_both_ends(  # type: ignore[misc]
            ServerCodec(parser, DEFAULT_LIMITS), ClientCodec(parser, DEFAULT_LIMITS), Ends()
        )
        found[f"the same again on kept ones, {name}"] = KeptAlive(parser)
    return found | {
        "validate a request": lambda: validate_request(request),
        "validate an answer": lambda: validate_response(answer),
        "forward a request": lambda: forwarded(request),
        "forward an answer": lambda: forward_response(answer),
        "encode a request's block": lambda: encode_request(sent),
        "encode an answer's block": lambda: encode_response(returned),
        "decode a request's block": lambda: decode_block(there),
        "decode an answer's block": lambda: decode_block(back),
        "send a request into an exchange": lambda: Exchange(client=False).send_request(sent, fin=True),
        "take a request from an exchange": lambda: Exchange(client=True).receive_head(there, fin=True),
        "the request as the origin gets it": lambda: with_origin_host(sent, None, b"127.0.0.1:8000"),
        "write a request, read its answer (by hand)": lambda: client_reads(PLAIN_PARSER, sent),
    }


def parsers() -> dict[str, HeadParser]:
    """By name; "by hand" is for heads that are not passed on, and stands beside them as a measure."""
    found: dict[str, HeadParser] = {"h11": find_parser("h11")}
    try:
        found["httptools"] = find_parser("httptools")
    except ConfigError:
        print("httptools is not installed: left out")
    return found | {"by hand": PLAIN_PARSER}


def measure(work: Work, seconds: float) -> float:
    """Seconds of CPU for one, in the time given."""
    work()
    count, spent = 1, 0.0
    while spent < seconds:
        start = time.process_time()
        for _ in range(count):
            work()
        spent = time.process_time() - start
        count, per = count * 2, spent / count
    return per


def main() -> None:
    options = ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--seconds", type=float, default=0.02, help="CPU time of one measurement")
    given = options.parse_args()
    best: dict[str, float] = {}
    for _ in range(given.rounds):
        for name, work in works().items():
            best[name] = min(best.get(name, 1.0), measure(work, given.seconds))
    for name, seconds in best.items():
        reference = best.get(f"{name.rpartition(', ')[0]}, h11")
        ratio = f" {seconds / reference:6.2f}" if reference else ""
        print(f"{name:45} {seconds * 1e6:7.2f} us{ratio}")


if __name__ == "__main__":
    main()
