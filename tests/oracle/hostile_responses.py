"""Answers of origins that mean harm, or do it, as data."""

from __future__ import annotations

from dataclasses import dataclass

from .recorder import Then

__all__ = ["ANSWERS", "Answer"]


@dataclass(frozen=True)
class Answer:
    name: str
    data: bytes
    status: int | None  # what the caller is given whole; None: it is broken off
    then: Then = Then.GOES_ON
    method: bytes = b"GET"


OK = b"HTTP/1.1 200 OK\r\n"
SIZED = OK + b"Content-Length: 5\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
STRAY = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nfor you"
ENDS, RESETS = Then.ENDS, Then.RESETS

WHOLE = [
    Answer("sized", SIZED + b"\r\nhello", 200),
    Answer("sized, then the end", SIZED + b"\r\nhello", 200, ENDS),
    Answer("sized, then a reset", OK + b"Content-Length: 0\r\n\r\n", 200),
    Answer("chunked", CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", 200),
    Answer("chunked with extensions and trailers", CHUNKED + b"5;a=b\r\nhello\r\n0;c\r\nX-Sum: 5\r\n\r\n", 200),
    Answer("padded sizes", CHUNKED + b"5  \r\nhello\r\n0 \r\n\r\n", 200),
    Answer("no space behind the status", b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", 200),
    Answer("trailers that frame", CHUNKED + b"0\r\nContent-Length: 5\r\nSet-Cookie: a=b\r\nX-Token: c\r\n\r\n", 200),
    Answer("until the end", OK + b"\r\nhello", 200, ENDS),
    Answer("until the end, by HTTP/1.0", b"HTTP/1.0 200 OK\r\n\r\nhello", 200, ENDS),
    Answer("sized, by HTTP/1.0", b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200),
    Answer("204", b"HTTP/1.1 204 No Content\r\n\r\n", 204),
    Answer("204 with a length", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", 204),
    Answer("304 with a length", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304),
    Answer("HEAD with a length", SIZED + b"\r\n", 200, method=b"HEAD"),
    Answer("HEAD with chunks", CHUNKED, 200, method=b"HEAD"),
    Answer("duplicates", SIZED + b"Set-Cookie: a=1\r\nset-cookie: b=2\r\nX:\r\n\r\nhello", 200),
    Answer("obs-text", SIZED + b"X: \xe4\xff\r\n\r\nhello", 200),
    Answer("a reason with obs-text", b"HTTP/1.1 200 pas trouv\xe9\r\nContent-Length: 5\r\n\r\nhello", 200),
    Answer("no reason", b"HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\nhello", 200),
    Answer("an unusual status", b"HTTP/1.1 599 X\r\nContent-Length: 5\r\n\r\nhello", 599),
    Answer("a redirect", b"HTTP/1.1 302 Found\r\nLocation: http://10.0.0.1/\r\nContent-Length: 0\r\n\r\n", 302),
    Answer("compressed", SIZED + b"Content-Encoding: gzip\r\n\r\nhello", 200),
    Answer("what is the hop's", SIZED + b"Connection: X-Hop\r\nX-Hop: a\r\nKeep-Alive: b\r\nProxy-Authenticate: c\r\n"
           b"Upgrade: d\r\nTunnelkit-Session: e\r\nX-Token: f\r\n\r\nhello", 200),
    Answer("what Connection must not name", SIZED + b"Connection: content-length, set-cookie\r\nSet-Cookie: a=b\r\n"
           b"\r\nhello", 200),
    Answer("interim ones", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
           b"HTTP/1.1 102 Processing\r\n\r\n" + SIZED + b"\r\nhello", 200),
    Answer("an interim one with a length", b"HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\n" + SIZED
           + b"\r\nhello", 200),
]  # fmt: skip

# Bytes behind the answer belong to nobody: the next caller must not get them.
STRAYS = [
    Answer("another answer behind it", SIZED + b"\r\nhello" + STRAY, 200),
    Answer("another answer behind the chunks", CHUNKED + b"0\r\n\r\n" + STRAY, 200),
    Answer("a byte behind it", SIZED + b"\r\nhello!", 200),
    Answer("an empty line behind it", SIZED + b"\r\nhello\r\n", 200),
    Answer("a body for HEAD", SIZED + b"\r\nhello", 200, method=b"HEAD"),
    Answer("an answer as the body for HEAD", SIZED + b"\r\n" + STRAY, 200, method=b"HEAD"),
    Answer("a body for 204", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", 204),
    Answer("chunks for 204", b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 204),
    Answer("a body for 304", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 43\r\n\r\n" + STRAY, 304),
]

# Nothing of these can be passed on.
REFUSED = [
    Answer(name, data, 502, ENDS)
    for name, data in {
        "nothing": b"",
        "half a head": OK + b"Content-Le",
        "no HTTP": b"220 mail.example ESMTP\r\n\r\n",
        "HTTP/2": b"HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/0.9": b"hello",
        "a status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
        "a status of four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
        "status 0": b"HTTP/1.1 000 X\r\n\r\n",
        "status 99": b"HTTP/1.1 099 X\r\n\r\n",
        "status 600": b"HTTP/1.1 600 X\r\nContent-Length: 0\r\n\r\n",  # RFC 9110 15: as if it were 5xx
        "status 999": b"HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n",
        "a status that is no number": b"HTTP/1.1 2x0 OK\r\n\r\n",
        "length beside chunks": SIZED + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "two lengths": SIZED + b"Content-Length: 6\r\n\r\nhello!",
        "the same length twice": SIZED + b"Content-Length: 5\r\n\r\nhello",
        "a list of lengths": OK + b"Content-Length: 5, 5\r\n\r\nhello",
        "a signed length": OK + b"Content-Length: +5\r\n\r\nhello",
        "a negative length": OK + b"Content-Length: -5\r\n\r\nhello",
        "a length with an underscore": OK + b"Content-Length: 0_5\r\n\r\nhello",
        "an enormous length": OK + b"Content-Length: " + b"9" * 40 + b"\r\n\r\nhello",
        "another coding": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
        "chunked twice": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "chunks by HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "bare LF behind a field": OK + b"X: y\nSet-Cookie: a=b\r\n\r\n",
        "bare CR": OK + b"X: y\rSet-Cookie: a=b\r\n\r\n",
        "a folded field": OK + b"X: y\r\n z\r\n\r\n",
        "a space before the colon": OK + b"Content-Length : 5\r\n\r\nhello",
        "a control character in a value": OK + b"X: \x07\r\n\r\n",
        "NUL in a value": OK + b"X: \x00\r\n\r\n",
        "a control character in the reason": b"HTTP/1.1 200 O\x07K\r\n\r\n",
        "a name that is no token": OK + b"X[]: y\r\n\r\n",
        "101 that nobody asked for": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nraw",
        "101 fields": OK + b"X: y\r\n" * 101 + b"\r\n",
        "a large head": OK + b"X: " + b"y" * 70_000 + b"\r\n\r\n",
        "interim ones without end": b"HTTP/1.1 102 Processing\r\n\r\n" * 1001,
    }.items()
]

# What has begun is never completed by us.
BROKEN = [
    Answer("a short body", SIZED + b"\r\nhell", None, ENDS),
    Answer("a short body, reset", SIZED + b"\r\nhell", None, RESETS),
    Answer("no last chunk", CHUNKED + b"5\r\nhello\r\n", None, ENDS),
    Answer("half a chunk", CHUNKED + b"5\r\nhel", None, ENDS),
    Answer("no end of trailers", CHUNKED + b"0\r\nX: y\r\n", None, ENDS),
    Answer("a chunk longer than its size", CHUNKED + b"5\r\nhello!\r\n0\r\n\r\n", None, ENDS),
    Answer("a chunk that ends with LF", CHUNKED + b"5\r\nhello\n0\r\n\r\n", None, ENDS),
    Answer("any two bytes end a chunk", CHUNKED + b"5\r\nhelloXX0\r\n\r\n", None, ENDS),
    Answer("a size that is no number", CHUNKED + b"5\r\nhello\r\nx\r\n", None, ENDS),
    Answer("a signed size", CHUNKED + b"+5\r\nhello\r\n0\r\n\r\n", None, ENDS),
    Answer("a size that overflows", CHUNKED + b"FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n", None, ENDS),
    Answer("LF in an extension", CHUNKED + b"5;a\nb\r\nhello\r\n0\r\n\r\n", None, ENDS),
    Answer("a control character in a trailer", CHUNKED + b"0\r\nX: \x07\r\n\r\n", None, ENDS),
    Answer("until the end, but reset", OK + b"\r\nhello", None, RESETS),
]

ANSWERS = [*WHOLE, *STRAYS, *REFUSED, *BROKEN]
