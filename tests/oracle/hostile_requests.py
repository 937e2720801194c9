"""Requests that mean harm, as data: what a gateway must refuse or put right (RFC 9112 11, and others' advisories).

``/T/`` stands for the path of the tunnel. Behind each case comes the request of somebody else, ``VICTIM``, on the
same connection: if the case is read at another length than it has, this request is the one that is harmed.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CASES", "PREFIX", "TOKEN", "VICTIM", "Case"]

TOKEN = "a-token-for-the-oracle"
PREFIX = f"/_token/{TOKEN}".encode()
VICTIM = b"GET /T/victim HTTP/1.1\r\nHost: a\r\nX-Victim: yes\r\n\r\n"


@dataclass(frozen=True)
class Case:
    name: str
    data: bytes
    answers: tuple[int, ...]  # all final statuses that the caller gets, the victim's included

    @property
    def wire(self) -> bytes:
        return (self.data + VICTIM).replace(b"/T/", PREFIX + b"/")


OK = (200, 200)
BAD = (400,)
UNKNOWN = (501,)
GET = b"GET /T/a HTTP/1.1\r\nHost: a\r\n"
POST = b"POST /T/a HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
SMUGGLED = b"GET /T/smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
SMUGGLED_LENGTH = len(SMUGGLED.replace(b"/T/", PREFIX + b"/"))


def _framed(fields: bytes, body: bytes = b"hello") -> bytes:
    return POST + fields + b"\r\n\r\n" + body


def _head(*lines: bytes) -> bytes:
    return b"\r\n".join([*lines, b"", b""])


LENGTHS = [
    Case("length beside chunks", _framed(b"Content-Length: 6\r\nTransfer-Encoding: chunked", b"0\r\n\r\nG"), BAD),
    Case("chunks beside length",
         _framed(b"Transfer-Encoding: chunked\r\nContent-Length: 4", b"5c\r\n" + SMUGGLED), BAD),
    Case("length beside chunks by HTTP/1.0", b"POST /T/a HTTP/1.0\r\nHost: a\r\nContent-Length: 3\r\n"
         b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", BAD),
    Case("length beside unknown coding", _framed(b"Content-Length: 5\r\nTransfer-Encoding: x"), BAD),
    Case("two lengths", _framed(b"Content-Length: 5\r\nContent-Length: 44", b"hello" + SMUGGLED), BAD),
    Case("the same length twice", _framed(b"Content-Length: 5\r\ncontent-length: 5"), BAD),
    Case("a list of equal lengths", _framed(b"Content-Length: 5, 5"), BAD),
    Case("a list of lengths", _framed(b"Content-Length: 5, 6"), BAD),
    Case("leading zeros", _framed(b"Content-Length: 0005"), OK),
    Case("white space around a length", _framed(b"Content-Length:\t 5 \t"), OK),
    *[Case(f"length {value!r}", _framed(b"Content-Length: " + value), BAD)
      for value in (b"+5", b"-5", b"-0", b"0x5", b"0_5", b"5_", b"5 5", b"5;a", b"5.0", b"5e0", b'"5"', b"",
                    b"\xb2", b"\xef\xbc\x95", b"9" * 30, b"18446744073709551621", b"5\x00", b"5\x0b", b"5\x0c")],
    Case("a length without end", _framed(b"Content-Length: 4294967295"), BAD),
    Case("a space before the colon", _framed(b"Content-Length : 5"), BAD),
    Case("a length folded", _framed(b"Content-Length:\r\n 5"), BAD),
    Case("a length behind bare LF", _framed(b"X: y\nContent-Length: 5"), BAD),
    Case("a length behind bare CR", _framed(b"X: y\rContent-Length: 5"), BAD),
    Case("a lookalike of length", _framed(b"Content_Length: 99", b""), OK),
    Case("a lookalike beside the length", _framed(b"Content-Length: 5\r\nContent_Length: 0"), OK),
    Case("a body that is a request", _framed(b"Content-Length: %d" % SMUGGLED_LENGTH,
                                             SMUGGLED), OK),
    Case("GET with a body", GET + b"Content-Length: 5\r\n\r\nhello", OK),
]  # fmt: skip

CODINGS = [
    *[Case(f"coding {value!r}", _framed(b"Transfer-Encoding: " + value, b"0\r\n\r\n"), UNKNOWN)
      for value in (b"xchunked", b"gzip, chunked", b"chunked, gzip", b"chunked, chunked", b"identity", b"",
                    b'"chunked"', b"chunked;a=b", b"chunked,", b",chunked", b"chun ked",
                    b"\xa0chunked")],
    *[Case(f"coding {value!r}", _framed(b"Transfer-Encoding: " + value, b"0\r\n\r\n"), BAD)
      for value in (b"\x0bchunked", b"\x1fchunked", b"chunked\x00")],
    *[Case(f"chunked, then {value!r}",
           _framed(b"Transfer-Encoding: chunked\r\nTransfer-encoding: " + value, b"0\r\n\r\n"), UNKNOWN)
      for value in (b"chunked", b"cow", b"identity")],
    Case("chunked by HTTP/1.0", b"POST /T/a HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", BAD),
    Case("chunked by HTTP/1.0 that persists", b"POST /T/a HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n"
         b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", BAD),
    Case("a coding in capitals", _framed(b"TRANSFER-ENCODING: ChunKed", b"0\r\n\r\n"), OK),
    Case("a coding with a space before the colon", _framed(b"Transfer-Encoding : chunked", b"0\r\n\r\n"), BAD),
    Case("a coding folded", _framed(b"Transfer-Encoding:\r\n chunked", b"0\r\n\r\n"), BAD),
    Case("a coding behind a fold", _framed(b"X: y\r\n Transfer-Encoding: chunked", b"0\r\n\r\n"), BAD),
    Case("a coding behind bare LF", _framed(b"X: y\nTransfer-Encoding: chunked", b"0\r\n\r\n"), BAD),
    Case("a lookalike of coding", _framed(b"Transfer_Encoding: chunked\r\nContent-Length: 5"), OK),
    Case("GET with chunks", GET + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", OK),
]  # fmt: skip

CHUNKS = [
    Case("chunks", CHUNKED + b"5\r\nhello\r\n6\r\n there\r\n0\r\n\r\n", OK),
    Case("leading zeros of a size", CHUNKED + b"0005\r\nhello\r\n000\r\n\r\n", OK),
    Case("an extension", CHUNKED + b'5;a=b;c="d;\\"e";f\r\nhello\r\n0;g\r\n\r\n', OK),
    *[Case(f"size line {line!r}", CHUNKED + line + b"\r\nhello\r\n0\r\n\r\n", BAD)
      for line in (b"0x5", b"+5", b"-5", b"5_", b"", b" 5", b"5 ", b"5 ;a", b"5;", b"5;;", b"5;a=", b"5;a=b c",
                   b'5;a="b', b"5;\x07", b"5\x00", b"\xb5", b"g", b"1" * 20, b"FFFFFFFFFFFFFFFF5", b"5,5")],
    Case("a chunk without end", CHUNKED + b"FFFFFFFF\r\nhello\r\n0\r\n\r\n", BAD),
    Case("a size of fifteen digits", CHUNKED + b"7FFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n", BAD),
    Case("an extension without end", CHUNKED + b"5;" + b"a" * 5000 + b"\r\nhello\r\n0\r\n\r\n", BAD),
    Case("no last chunk", CHUNKED + b"5\r\nhello\r\n", BAD),
    Case("a chunk longer than its size", CHUNKED + b"5\r\nhello!\r\n0\r\n\r\n", BAD),
    Case("a chunk shorter than its size", CHUNKED + b"6\r\nhello\r\n0\r\n\r\n", BAD),
    Case("a chunk that ends with LF", CHUNKED + b"5\r\nhello\n0\r\n\r\n", BAD),
    Case("a chunk that ends with CR", CHUNKED + b"5\r\nhello\r0\r\n\r\n", BAD),
    Case("a last chunk without its empty line", CHUNKED + b"0\r\n", BAD),
    Case("a last chunk that ends with LF", CHUNKED + b"0\n\n", BAD),
    Case("a trailer", CHUNKED + b"0\r\nX-Sum: 1\r\n\r\n", OK),
    Case("trailers that frame and route", CHUNKED + b"0\r\nContent-Length: 9\r\nHost: b\r\nTransfer-Encoding: x\r\n"
         b"Authorization: Basic eDp5\r\nCookie: a=b\r\nX-Token: other\r\nConnection: close\r\nX-Sum: 1\r\n\r\n", OK),
    Case("a trailer without a colon", CHUNKED + b"0\r\nnonsense\r\n\r\n", BAD),
    Case("a trailer with a space before its colon", CHUNKED + b"0\r\nA : b\r\n\r\n", BAD),
    Case("a folded trailer", CHUNKED + b"0\r\nA: b\r\n c: d\r\n\r\n", BAD),
    Case("a bare LF among trailers", CHUNKED + b"0\r\nA: b\nC: d\r\n\r\n", BAD),
    Case("a control character in a trailer", CHUNKED + b"0\r\nA: \x07\r\n\r\n", BAD),
    Case("101 trailers", CHUNKED + b"0\r\n" + b"A: b\r\n" * 101 + b"\r\n", (431,)),
]  # fmt: skip

LINES = [
    Case("bare LF throughout", b"GET /T/a HTTP/1.1\nHost: a\n\n", BAD),
    Case("bare LF behind the request line", b"GET /T/a HTTP/1.1\nHost: a\r\n\r\n", BAD),
    Case("bare LF behind a field", GET + b"X: a\nY: b\r\n\r\n", BAD),
    Case("bare LF as the empty line", GET + b"\n" + SMUGGLED, BAD),
    Case("bare CR in a value", GET + b"X: a\rY: b\r\n\r\n", BAD),
    Case("CR CR LF", GET + b"X: a\r\r\n\r\n", BAD),
    Case("a folded field", GET + b"X: a\r\n b\r\n\r\n", BAD),
    Case("a field folded by a tab", GET + b"X: a\r\n\tb\r\n\r\n", BAD),
    Case("a fold before any field", b"GET /T/a HTTP/1.1\r\n Host: a\r\n\r\n", BAD),
    Case("a line without a colon", GET + b"nonsense\r\n\r\n", BAD),
    Case("a line without a name", GET + b": x\r\n\r\n", BAD),
    Case("one empty line first", b"\r\n" + GET + b"\r\n", OK),
    Case("two empty lines first", b"\r\n\r\n" + GET + b"\r\n", BAD),
    *[Case(f"byte {byte:#04x} in a value", GET + b"X: a%cb\r\n\r\n" % byte, BAD)
      for byte in (*range(0x09), *range(0x0A, 0x20), 0x7F)],
    *[Case(f"byte {byte:#04x} in a name", GET + b"X%cY: a\r\n\r\n" % byte, BAD)
      for byte in (0x00, 0x09, 0x0B, 0x20, 0x22, 0x28, 0x2C, 0x2F, 0x3B, 0x40, 0x5B, 0x7B, 0x7F, 0x80, 0xE4)],
    Case("obs-text in a value", GET + b"X: \x80\xff\xe4\r\n\r\n", OK),
    Case("a tab in a value", GET + b"X: a\tb\r\n\r\n", OK),
    Case("an empty value", GET + b"X:\r\nY: \r\n\r\n", OK),
    Case("duplicates in two cases", GET + b"x-B: 1\r\nX-a: 2\r\nX-B: 3\r\n\r\n", OK),
]  # fmt: skip

VERSIONS = [
    *[Case(f"version {version!r}", _head(b"GET /T/a " + version, b"Host: a"), (status,))
      for version, status in ((b"HTTP/9.9", 505), (b"HTTP/2.0", 505), (b"HTTP/0.9", 505), (b"HTTP/1.10", 400),
                              (b"HTTP/01.1", 400), (b"http/1.1", 400), (b"HTTP/1.", 400), (b"HTTP/1.1x", 400),
                              (b"HTTP/1.1 x", 400), (b"HTTP/1,1", 400), (b"HTTP /1.1", 400), (b"ICY/1.1", 400))],
    Case("a later minor version", _head(b"GET /T/a HTTP/1.7", b"Host: a"), OK),
    Case("no version", _head(b"GET /T/a", b"Host: a"), BAD),
    Case("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (505,)),
    Case("a TLS handshake", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", BAD),
    Case("HTTP/1.0, which ends", _head(b"GET /T/a HTTP/1.0", b"Host: a"), (200,)),
    Case("HTTP/1.0 that persists", _head(b"GET /T/a HTTP/1.0", b"Host: a", b"Connection: keep-alive"), OK),
    Case("HTTP/1.0 without Host", _head(b"GET /T/a HTTP/1.0"), (200,)),
]  # fmt: skip

HOSTS = [
    *[Case(f"Host {host!r}", _head(b"GET /T/a HTTP/1.1", b"Host: " + host), BAD)
      for host in (b"a/@b,c", b"a/b", b"u@a", b"u:p@a", b"a, b", b"a b", b"", b"a:b", b"a:99999", b"a:80:80", b"[::1",
                   b"::1", b"[zz]", b"a\\b", b"a#b", b"a?b", b"a%", b"a%zz", b"\xe4", b"a\tb", b"[::1%25eth0]")],
    *[Case(f"Host {host!r}", _head(b"GET /T/a HTTP/1.1", b"Host: " + host), OK)
      for host in (b"a.", b"A.example:8080", b"[::1]:80", b"127.0.0.1", b"a_b", b"a%41", b"a:")],
    Case("no Host", _head(b"GET /T/a HTTP/1.1", b"X: a"), BAD),
    Case("two Hosts", GET + b"Host: b\r\n\r\n", BAD),
    Case("the same Host twice", GET + b"host: a\r\n\r\n", BAD),
    Case("a space before Host's colon", _head(b"GET /T/a HTTP/1.1", b"Host : a"), BAD),
]  # fmt: skip

TARGETS = [
    *[Case(f"target {target!r}", _head(b"GET " + target + b" HTTP/1.1", b"Host: a"), BAD)
      for target in (b"foo", b"*", b"/T/a#b", b"#", b"a:443", b"/T/\xff", b"/T/\x00", b"/T/\x7f", b"/T/\x0b",
                     b"/T/a b", b"/T/a\tb", b" /T/a", b"/T/a ", b"http://", b"http:///T/a", b"http://u@b/T/a",
                     b"http://b:99999/T/a", b"http://b\\c/T/a", b"ftp://b/T/a", b"http:/T/a", b"http://b/T/a#c",
                     b"http://[::1/T/a", b"ws://b/T/a", b"?/T/a", b"./T/a")],
    *[Case(f"target {target!r}", _head(b"GET " + target + b" HTTP/1.1", b"Host: a"), OK)
      for target in (b"/T/", b"/T//a//", b"/T/./a/../../b", b"/T/%2e%2e%2f%00?%zz", b"/T/a?b=/../",
                     b"/T/a;b@c:d", b"/T/a|b\"<>{}^`\\[]?x=/?", b"http://b/T/a", b"HTTP://b:81/T/a?c", b"https://[::1]/T/a",
                     b"http://b/T/a?http://c/")],
    Case("a line break that is percent-encoded", _head(b"GET /T/a%0d%0aX:%20y HTTP/1.1", b"Host: a"), OK),
    Case("* for OPTIONS", _head(b"OPTIONS * HTTP/1.1", b"Host: a", b"X-Token: " + TOKEN.encode()), OK),
    Case("an absolute form without a path", _head(b"OPTIONS http://b HTTP/1.1", b"Host: a",
                                                  b"X-Token: " + TOKEN.encode()), OK),
    Case("an absolute form of a query alone", _head(b"GET http://b?/T/a HTTP/1.1", b"Host: a",
                                                    b"X-Token: " + TOKEN.encode()), OK),
    Case("CONNECT", _head(b"CONNECT a:443 HTTP/1.1", b"Host: a:443"), UNKNOWN),
    Case("CONNECT to a path", _head(b"CONNECT /T/a HTTP/1.1", b"Host: a"), UNKNOWN),
    Case("TRACE", _head(b"TRACE /T/a HTTP/1.1", b"Host: a", b"Cookie: secret"), (405,)),
    Case("a method that is no token", _head(b"G@T /T/a HTTP/1.1", b"Host: a"), BAD),
    Case("an unknown method", _head(b"BREW /T/a HTTP/1.1", b"Host: a"), OK),
    Case("no method", _head(b" /T/a HTTP/1.1", b"Host: a"), BAD),
]  # fmt: skip

SIZES = [
    Case("a request line just small enough",
         _head(b"GET /T/" + b"a" * (16 * 1024 - 17 - len(PREFIX)) + b" HTTP/1.1", b"Host: a"), OK),
    Case("a long request line", _head(b"GET /T/" + b"a" * 16 * 1024 + b" HTTP/1.1", b"Host: a"), (414,)),
    Case("a large field", GET + b"X: " + b"a" * 64 * 1024 + b"\r\n\r\n", (431,)),
    Case("100 fields", GET + b"X: a\r\n" * 99 + b"\r\n", OK),
    Case("101 fields", GET + b"X: a\r\n" * 100 + b"\r\n", (431,)),
    Case("many small fields", GET + b"a:\r\n" * 1500 + b"\r\n", (431,)),
]  # fmt: skip

SWITCH = b"GET /T/switch HTTP/1.1\r\nHost: a\r\n"
UPGRADE = b"Connection: Upgrade\r\nUpgrade: %b\r\n"
KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
WEBSOCKET = UPGRADE % b"websocket" + KEY + b"Sec-WebSocket-Version: %b\r\n\r\n"
SWITCHES = [
    Case("a refused upgrade", GET + WEBSOCKET % b"13" + SMUGGLED, (200, 200, 200)),
    Case("an upgrade to no version", GET + WEBSOCKET % b"777" + SMUGGLED, (200, 200, 200)),
    Case("an upgrade to HTTP/2", SWITCH + b"Connection: Upgrade, HTTP2-Settings\r\n"
         b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (200, 505)),
    Case("an upgrade to HTTP/2 in capitals", SWITCH + UPGRADE % b"H2C" + b"\r\n", OK),
    Case("an upgrade that Connection does not name", SWITCH + b"Upgrade: echo\r\n\r\n", OK),
    Case("an upgrade with a body", b"POST /T/switch HTTP/1.1\r\nHost: a\r\n" + UPGRADE % b"echo"
         + b"Content-Length: 5\r\n\r\nhello", OK),
    Case("an upgrade with chunks", b"POST /T/switch HTTP/1.1\r\nHost: a\r\n" + UPGRADE % b"echo"
         + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", OK),
    Case("an upgrade by HTTP/1.0", b"GET /T/switch HTTP/1.0\r\nHost: a\r\n" + UPGRADE % b"echo" + b"\r\n", (200,)),
]  # fmt: skip

NOWHERE = b"POST /none HTTP/1.1\r\nHost: a\r\n"
SEQUENCES = [
    Case("three requests", GET + b"\r\n" + _framed(b"Content-Length: 5") + CHUNKED + b"0\r\n\r\n",
         (200, 200, 200, 200)),
    Case("HEAD among others", b"HEAD /T/a HTTP/1.1\r\nHost: a\r\n\r\n" + GET + b"\r\n", (200, 200, 200)),
    Case("nothing behind close", GET + b"Connection: close\r\n\r\n" + SMUGGLED, (200,)),
    Case("nothing behind close in a list", GET + b"Connection: x, CLOSE\r\n\r\n" + SMUGGLED, (200,)),
    Case("nothing behind a refusal", b"GET /T/a HTTP/9.9\r\nHost: a\r\n\r\n" + SMUGGLED, (505,)),
    Case("a body that nobody reads", NOWHERE + b"Content-Length: %d\r\n\r\n"
         % SMUGGLED_LENGTH + SMUGGLED, (404, 200)),
    Case("chunks that nobody reads", NOWHERE + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
         (404, 200)),
    Case("a large body that nobody reads", NOWHERE + b"Content-Length: 99999\r\n\r\n" + SMUGGLED,
         (404,)),
    Case("100-continue", _framed(b"Expect: 100-continue\r\nContent-Length: 5"), OK),
    Case("100-continue without a body", GET + b"Expect: 100-continue\r\n\r\n", OK),
    Case("100-continue by HTTP/1.0",
         b"POST /T/a HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello", (200,)),
    Case("an unknown expectation", _framed(b"Expect: 200-ok\r\nContent-Length: 5"), OK),
    Case("OPTIONS that goes no further", _head(b"OPTIONS /T/a HTTP/1.1", b"Host: a", b"Max-Forwards: 0"), (204, 200)),
    Case("a loop", _head(b"GET /T/a HTTP/1.1", b"Host: a", b"Via: " + b"1.1 tunnelkit, " * 5), (508, 200)),
]  # fmt: skip

NOMINATED = [
    Case(f"Connection names {name!r}", _framed(b"Content-Length: 5\r\nConnection: " + name
         + b"\r\nAuthorization: Basic eDp5\r\nCookie: a=b\r\nX-Forwarded-For: 192.0.2.1\r\nX-Foo: bar"), OK)
    for name in (b"content-length", b"host", b"authorization, cookie", b"x-forwarded-for", b"x-foo", b"connection",
                 b"via", b"transfer-encoding", b"@, \x80, x-foo")
]  # fmt: skip

# What harmed others, by the number of its advisory.
ADVISORIES = [
    Case("CVE-2025-43859 h11: any two bytes end a chunk",
         CHUNKED + b"5\r\nAAAAAXX2\r\n45\r\n0\r\n\r\n" + SMUGGLED, BAD),
    Case("CVE-2025-55315 Kestrel: LF in an extension",
         CHUNKED + b"2;\nxx\r\n4c\r\n0\r\n\r\n" + SMUGGLED + b"0\r\n\r\n", BAD),
    Case("CVE-2025-55315 Kestrel: CR in an extension", CHUNKED + b"2;\rxx\r\nab\r\n0\r\n\r\n", BAD),
    Case("CVE-2025-22871 Go: LF ends a size line", CHUNKED + b"5\nhello\r\n0\r\n\r\n", BAD),
    Case("CVE-2025-58056 Netty: LF ends an extension",
         CHUNKED + b"1;\nx\r\n25\r\n0\r\n\r\n" + SMUGGLED + b"\r\n0\r\n\r\n", BAD),
    Case("CVE-2023-47627 aiohttp: int() of a length", _framed(b"Content-Length: +5"), BAD),
    Case("CVE-2023-47627 aiohttp: int() of a size", CHUNKED + b"0_5\r\nhello\r\n0\r\n\r\n", BAD),
    Case("CVE-2023-47627 aiohttp: a name that is no token", GET + b"Content-Length\x00: 5\r\n\r\nhello", BAD),
    Case("CVE-2025-4366 Pingora: an answer before the body was read",
         b"GET /T/early HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
         % SMUGGLED_LENGTH + SMUGGLED, OK),
    Case("CVE-2026-40910 frp: two fields, two meanings",
         _head(b"GET / HTTP/1.1", b"Host: a", b"X-Token: other-token-entirely", b"X-Token: " + TOKEN.encode()), BAD),
    Case("CVE-2026-40910 frp: a proxy's credentials choose nothing",
         GET + b"Authorization: Basic eDp5\r\nProxy-Authorization: Basic b3RoZXI6dG9rZW4=\r\n\r\n", OK),
    Case("CVE-2026-40910 frp: the path names one tunnel, a field another",
         GET + b"X-Token: other-token-entirely\r\n\r\n", OK),
    Case("GHSA-26gq-p25f-99cp frp: a size that overflows", CHUNKED + b"FFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n", BAD),
    Case("GHSA-26gq-p25f-99cp frp: a length that overflows", _framed(b"Content-Length: 18446744073709551615"), BAD),
    Case("GHSA-24fp-5v3p-rvpw chisel: what is allowed is asked for each request",
         GET + b"\r\n" + GET + b"X-Host: http://10.0.0.1\r\n\r\n" + GET + b"X-Host: nonsense\r\n\r\n",
         (200, 403, 400, 200)),
    Case("CVE-2026-46527 cpp-httplib: an X-Forwarded-For of commas", GET + b"X-Forwarded-For: ,,, ,\r\n\r\n", OK),
    Case("CVE-2026-46527 cpp-httplib: a Forwarded of commas", GET + b'Forwarded: ,;,"\r\n\r\n', OK),
    Case("CVE-2016-5385 httpoxy", GET + b"Proxy: http://evil.example\r\n\r\n", OK),
]  # fmt: skip

CASES = [
    *LENGTHS, *CODINGS, *CHUNKS, *LINES, *VERSIONS, *HOSTS, *TARGETS, *SIZES, *SWITCHES, *SEQUENCES, *NOMINATED,
    *ADVISORIES,
]  # fmt: skip
