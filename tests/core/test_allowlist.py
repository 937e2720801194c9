from __future__ import annotations

import re
import socket
import time
from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tunnelkit.core.allowlist import HTTP_SCHEMES, TCP_SCHEMES, HostAllowlist, HostOrigin, parse_x_host
from tunnelkit.core.regexps import Engine
from tunnelkit.errors import ConfigError, HeadError

BOTH = HTTP_SCHEMES | TCP_SCHEMES

# -- normalising ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "scheme", "host", "port"),
    [
        (b"http://a.example", "http", "a.example", 80),
        ("http://a.example", "http", "a.example", 80),
        (b"https://a.example", "https", "a.example", 443),
        (b"http://a.example:80", "http", "a.example", 80),
        (b"http://a.example:443", "http", "a.example", 443),
        (b"https://a.example:65535", "https", "a.example", 65535),
        (b"HTTP://A.Example", "http", "a.example", 80),
        (b"http://a.example.", "http", "a.example", 80),
        (b"http://a.example.:8080", "http", "a.example", 8080),
        (b"http://localhost", "http", "localhost", 80),
        (b"http://my_service:8000", "http", "my_service", 8000),
        (b"http://1password.example", "http", "1password.example", 80),
        (b"http://10.0.0.1:81", "http", "10.0.0.1", 81),
        (b"http://[::1]", "http", "::1", 80),
        (b"http://[::1]:8080", "http", "::1", 8080),
        (b"http://[2001:DB8:0:0::1]", "http", "2001:db8::1", 80),
        (b"http://[::ffff:10.0.0.1]", "http", "10.0.0.1", 80),
        (b"http://[::FFFF:a00:1]", "http", "10.0.0.1", 80),
        ("http://bücher.example", "http", "xn--bcher-kva.example", 80),
        ("http://bücher.example".encode(), "http", "xn--bcher-kva.example", 80),
        ("http://BÜCHER.example", "http", "xn--bcher-kva.example", 80),
        # What IDNA makes of a spelling is what is judged and what is dialled.
        ("http://\uff41.example", "http", "a.example", 80),
        ("http://127。0。0。1", "http", "127.0.0.1", 80),
        (
            f"http://{'a' * 63}.{'b' * 63}.{'c' * 63}.{'d' * 61}",
            "http",
            "a" * 63 + "." + "b" * 63 + "." + "c" * 63 + "." + "d" * 61,
            80,
        ),
    ],
)
def test_origins(value: bytes | str, scheme: str, host: str, port: int) -> None:
    assert parse_x_host(value) == HostOrigin(scheme, host, port)


HOSTILE = [
    "",
    "a.example",
    "//a.example",
    "http:a.example",
    "http:/a.example",
    "http:///a.example",
    "http://",
    "http://.",
    "http://a..example",
    "http://.a.example",
    "http://a.example..",
    "http://-a.example",
    "http://a-.example",
    "http://*.example",
    "http://a,b.example",
    f"http://{'a' * 64}.example",
    f"http://{'a.' * 130}example",
    # More than an origin.
    "http://a.example/",
    "http://a.example/x",
    "http://a.example?x",
    "http://a.example#x",
    "http://a.example#@b.example",
    "http://a.example;x",
    # Userinfo, and what some parsers take for its end.
    "http://user@a.example",
    "http://user:password@a.example",
    "http://10.0.0.1@evil.example",
    "http://a.example:80@evil.example",
    "http://a.example\\@evil.example",
    "http://a.example\\.evil.example",
    "http://evil.example/?.a.example",
    # Percent-encoding.
    "http://a%2eexample",
    "http://a.example%00.evil.example",
    "http://[fe80::1%25eth0]",
    "http://[fe80::1%eth0]",
    # Blanks and controls, which urlsplit drops or ends at.
    " http://a.example",
    "http://a.example ",
    "http://a.example\n",
    "http://a\n.example",
    "http://a\t.example",
    "http://a\r.example",
    "http://a\x00.example",
    "http://a\x7f.example",
    "http://a\x85.example",
    "http://a\u2028.example",
    "http://a\u3000.example",
    # Ports.
    "http://a.example:",
    "http://a.example:0",
    "http://a.example:080",
    "http://a.example:65536",
    "http://a.example:99999",
    "http://a.example:123456",
    "http://a.example:-1",
    "http://a.example:+80",
    "http://a.example:8_0",
    "http://a.example:٨٠",
    "http://a.example:80:80",
    "http://a:80:80",
    # Addresses that getaddrinfo takes for 127.0.0.1 or 0.0.0.0 though they do not look like it.
    "http://2130706433",
    "http://0x7f000001",
    "http://0x7f.1",
    "http://0177.0.0.1",
    "http://127.1",
    "http://0",
    "http://0x",
    "http://127.0.0.01",
    "http://127.0.0.1.2",
    "http://256.0.0.1",
    "http://evil.example.1",
    "http://a.0x10",
    # IPv6.
    "http://::1",
    "http://[::1",
    "http://::1]",
    "http://[]",
    "http://[::1]x",
    "http://[::1]:80x",
    "http://[:::1]",
    "http://[1.2.3.4]",
    "http://[a.example]",
    "http://[v1.x]",
    "http://[::ffff:127.0.0.01]",
    # What IDNA or its compatibility forms turn into delimiters, or nothing.
    "http://a\uff0fb.example",
    "http://a\uff20b.example",
    "http://a\uff1a80",
    "http://a\u2100.example",
    "http://\u00ad",
    "http://a\ud800.example",
    # Other schemes, and none of these.
    "ftp://a.example",
    "file:///etc/passwd",
    "unix:/run/x.sock",
    "gopher://a.example",
    "javascript://a.example",
    "ht\ntp://a.example",
    "tcp://a.example:22",
    "https ://a.example",
]


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_spellings_are_refused(value: str) -> None:
    for spelling in (value, value.encode("utf-8", "surrogatepass")):
        with pytest.raises(HeadError) as caught:
            parse_x_host(spelling)
        assert (caught.value.status, caught.value.code) == (400, "bad_x_host")


@pytest.mark.parametrize(
    "value",
    [b"\xff", b"http://\xff.example", b"http://" + b"a" * 2000, "http://" + "é" * 254, "http://" + "é" * 2000],
)
def test_other_refusals(value: bytes | str) -> None:
    with pytest.raises(HeadError) as caught:
        parse_x_host(value)
    assert caught.value.code == "bad_x_host"


def test_an_address_with_a_trailing_dot_is_the_address() -> None:
    assert parse_x_host("http://1.2.3.4.").host == "1.2.3.4"


@pytest.mark.parametrize(
    ("value", "origin"),
    [("tcp://a.example:22", HostOrigin("tcp", "a.example", 22)), ("TCP://[::1]:1", HostOrigin("tcp", "::1", 1))],
)
def test_byte_streams_name_host_and_port(value: str, origin: HostOrigin) -> None:
    assert parse_x_host(value, schemes=TCP_SCHEMES) == origin
    with pytest.raises(HeadError, match="http:// or https://"):
        parse_x_host(value)


@pytest.mark.parametrize("value", ["tcp://a.example", "tcp://a.example:0", "http://a.example:22"])
def test_byte_streams_need_a_port_and_their_scheme(value: str) -> None:
    with pytest.raises(HeadError):
        parse_x_host(value, schemes=TCP_SCHEMES)


def test_an_origin_shows_itself() -> None:
    assert str(HostOrigin("http", "::1", 80)) == "http://[::1]"
    assert str(HostOrigin("https", "a.example", 80)) == "https://a.example:80"
    assert HostOrigin("http", "a", 80).spellings == ("http://a", "http://a:80")
    assert HostOrigin("tcp", "a", 80).spellings == ("tcp://a:80",)


@given(st.text(st.characters(max_codepoint=0x2FFFF, exclude_categories=[]), max_size=40))
@example("a.example")
@example("0x7f.1")
@example("[::1]:80")
def test_what_is_let_through_is_plain(text: str) -> None:
    try:
        origin = parse_x_host(f"http://{text}")
    except HeadError:
        return
    assert re.fullmatch(r"[a-z0-9._:-]{1,253}", origin.host)
    assert 1 <= origin.port <= 65535
    assert parse_x_host(str(origin)) == origin, "normalising again changes nothing"
    if re.fullmatch(r"[0-9.]+", origin.host):
        assert socket.inet_ntoa(socket.inet_aton(origin.host)) == origin.host


# -- the list ------------------------------------------------------------------------------------


def allows(pattern: str, value: str) -> bool:
    return HostAllowlist.compile([pattern]).allows(parse_x_host(value, schemes=BOTH))


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        # WStunnel's README.
        (r"https://.*\.some\.example\.com", "https://a.some.example.com"),
        (r"http://(www\.example\.com|blog\.example\.com)", "http://blog.example.com"),
        # The default port, implicit and explicit on either side.
        (r"http://a\.example", "http://a.example:80"),
        (r"http://a\.example:80", "http://a.example"),
        (r"https://a\.example:443", "https://a.example"),
        (r"http://a\.example:8080", "http://a.example:8080"),
        # Spellings of the caller do not matter.
        (r"http://a\.example", "HTTP://A.EXAMPLE."),
        (r"http://xn--bcher-kva\.example", "http://bücher.example"),
        (r"http://\[::1\]:8080", "http://[0:0::1]:8080"),
        # Go's FindString(x) == x would refuse these: the first alternative matches a part.
        ("http://a|http://ab", "http://ab"),
        (r"^http://a\.example$", "http://a.example"),
        (r"tcp://db\.internal:5432", "tcp://db.internal:5432"),
        (r"^tcp://.*:22", "tcp://a.example:22"),
        (".*", "https://anything.example:1"),
    ],
)
def test_allowed(pattern: str, value: str) -> None:
    assert allows(pattern, value)


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        (r"http://a\.example", "http://a.example.evil.example"),
        (r"http://a\.example", "http://evil-a.example"),
        (r"http://a\.example", "http://a.example:8080"),
        (r"http://a\.example", "https://a.example"),
        (r"http://a\.example", "https://a.example:80"),
        (r"http://a\.example:443", "https://a.example"),
        (r"http://a\.example|b$", "http://xb"),
        (r"a\.example", "http://a.example"),
        # For byte streams a pattern must say so itself.
        (".*", "tcp://a.example:22"),
        (r"(tcp|http)://a\.example:22", "tcp://a.example:22"),
        (r"tcp://a\.example:22|.*", "tcp://b.example:22"),
        (r".*://a\.example:22", "tcp://a.example:22"),
        (r"tcp://.*", "http://a.example"),
    ],
)
def test_refused(pattern: str, value: str) -> None:
    assert not allows(pattern, value)


def test_an_empty_list_allows_nothing() -> None:
    for nobody in (HostAllowlist(), HostAllowlist.compile([])):
        assert len(nobody) == 0
        assert not nobody.allows(HostOrigin("http", "a.example", 80))


def test_any_of_several_patterns() -> None:
    allowlist = HostAllowlist.compile([r"http://a\.example", r"http://b\.example"])
    assert [allowlist.allows(parse_x_host(f"http://{host}.example")) for host in "abc"] == [True, True, False]
    assert len(allowlist) == 2
    assert repr(allowlist) == r"<HostAllowlist ['http://a\\.example', 'http://b\\.example']>"


# -- start-up ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "problem", "fix"),
    [
        (r"http://a\z", r"has \z", "leave it out"),
        ("(?x)http://a  # comment", "has the flag x", "without blanks"),
        ("http://(?ix:a)", "has the flag x", "without blanks"),
        (r"http://\p{L}+", r"has \p", "[a-z0-9-]"),
        (r"http://\P{L}+", r"has \p", "[a-z0-9-]"),
        (r"http://[[:alpha:]]+", "[:alpha:]", "[a-z]"),
        (r"http://[[:^digit:]x]+", "[:^digit:]", "[0-9]"),
        (r"http://[:alnum:]+", "[:alnum:]", "[a-z0-9]"),
        (r"http://[[:punct:]]+", "[:punct:]", "[a-z0-9]"),
        (r"http://[[:word:]]+", "[:word:]", r"[\w]"),
        ("http://(a", "is no regular expression: missing )", ""),
        ("(" * 5000 + ")" * 5000, "1 to 1000 characters", ""),
        ("(" * 450 + "a" + ")" * 450, "is no regular expression", ""),
        ("a{4294967296}", "is no regular expression", ""),
        ("", "1 to 1000 characters", ""),
        ("http://([a-z0-9-]+\\.?)+\\.corp", "has a repeat inside a repeat", "re2"),
        ("http://(a|b)+", "has alternatives inside a repeat", "re2"),
        ("http://.*.*.*.*x", "has too many repeats", "re2"),
        (r"http://[a-z.]+\.[a-z.]+\.[a-z.]+\.[a-z.]+\.corp", "has too many repeats", "re2"),
    ],
)
def test_bad_patterns(pattern: str, problem: str, fix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        HostAllowlist.compile(["http://fine", pattern], name="allow")
    assert caught.value.field == "allow"
    assert problem in caught.value.problem
    assert fix in caught.value.fix


@pytest.mark.parametrize("pattern", [r"http://a\\z", r"http://a\\p", r"http://a\Z", "http://[a:]b:1"])
def test_spellings_that_only_look_foreign(pattern: str) -> None:
    HostAllowlist.compile([pattern])


def test_there_may_only_be_so_many() -> None:
    HostAllowlist.compile(["http://a"] * 100)
    with pytest.raises(ConfigError, match="has 101 patterns; give at most 100"):
        HostAllowlist.compile(["http://a"] * 101)


@dataclass
class Equal:
    text: str

    def fullmatch(self, string: str, /) -> object | None:
        return self if string == self.text else None


def test_another_compiler() -> None:
    allowlist = HostAllowlist.compile(["http://(a+)+"], engine=Engine(Equal, linear_time=True))
    assert not allowlist.allows(parse_x_host("http://a"))
    with pytest.raises(ConfigError, match="repeat"):
        HostAllowlist.compile(["http://(a+)+"], engine=Engine(Equal))
    with pytest.raises(ConfigError, match=r"\\z"):
        HostAllowlist.compile([r"a\z"], engine=Engine(Equal, linear_time=True))


@pytest.mark.parametrize(
    "pattern",
    [
        r"https://.*\.some\.example\.com",
        r"http://(www\.example\.com|blog\.example\.com)",
        r"http://.*\.example\.com",
        r"http://10\.0\.0\.\d+(:\d+)?",
        r"http://localhost:.*",
        r"http://\[::1\](:[0-9]{2,5})?",
        r"http://[7-9][0-9]*\.corp",
        r"tcp://10\.1\.2\.3:.*",
        "http://.*",
        ".*",
        ".+://.+",
    ],
)
def test_patterns_without_doubts(pattern: str) -> None:
    assert HostAllowlist.compile([pattern]).warnings == ()


@pytest.mark.parametrize(
    ("pattern", "warning"),
    [
        ("www.example.com", "seems to match no origin"),
        ("http://a/.*", "seems to match no origin"),
        (r"http://WWW\.example", "seems to match no origin"),
        (r"http://a\.example:65536", "seems to match no origin"),
        ("http://10.0.0.1", "has a dot that matches any character"),
        ("http://10.0.0.1.*", "has a dot that matches any character"),
        (r"http://10\.0\.0\.1.*", "also matches http://10.0.0.1.attacker.example:"),
        (r"https?://10\.0\.0\..*", "also matches http://10.0.0.attacker.example:"),
        (r"http://(www|api)[^/]*", "also matches http://www.attacker.example:"),
        (r"tcp://db\..*", "also matches tcp://db.attacker.example:22:"),
    ],
)
def test_patterns_with_doubts(pattern: str, warning: str) -> None:
    warnings = HostAllowlist.compile(["http://fine", pattern], name="allow").warnings
    assert any(text.startswith(f"allow: '{pattern}' ") and warning in text for text in warnings)


def test_a_hostile_host_is_judged_in_no_time() -> None:
    allowlist = HostAllowlist.compile([r".*a.*a.*a\.corp", r"http://[a-z0-9-]+\.[a-z0-9-]+\.[a-z0-9-]+\.corp"])
    origin = parse_x_host("http://" + ".".join(["a" * 62] * 4))
    started = time.process_time()
    assert not allowlist.allows(origin)
    assert time.process_time() - started < 2
