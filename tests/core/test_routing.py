from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.core.allowlist import X_HOST_LIMIT
from tunnelkit.core.frames import encode_fields
from tunnelkit.core.naming import BaseDomain
from tunnelkit.core.routing import (
    NotFound,
    Reserved,
    Route,
    RoutingConfig,
    ToDestination,
    ToName,
    ToTunnel,
    details_allowed,
    is_named,
    normalise_base_path,
    route,
    without_token,
)
from tunnelkit.errors import ConfigError, HeadError
from tunnelkit.heads import Fields, RequestHead

TOKEN = "my_b!g_$secret!!"
PATH = b"/_token/my_b!g_$secret!!"
X_TOKEN = (b"X-Token", TOKEN.encode())


def to(
    target: bytes, *fields: tuple[bytes, bytes], host: bytes = b"example.com", method: bytes = b"GET", **config: Any
) -> Route:
    head = RequestHead(method, target, [(b"Host", host), *fields])
    return route(head, RoutingConfig(**config))


def missing(answer: Route) -> str:
    assert isinstance(answer, NotFound)
    return answer.detail


# -- Referer -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("referer", "base", "told"),
    [
        (b"https://t.example/_token/my_b!g_$secret!!/a?b", "", b"https://t.example/a?b"),
        (b"HTTPS://t.example:1/_token/my%5Fb/a", "", b"HTTPS://t.example:1/a"),
        (b"http://t.example/_token/secret?b", "", b"http://t.example?b"),
        (b"http://t.example/_token/secret", "", b"http://t.example"),
        (b"http://t.example/base/_token/secret/_token/mine", "/base", b"http://t.example/_token/mine"),
        (b"http://t.example/a/_token/b", "", b"http://t.example/a/_token/b"),  # the origin's own path
        (b"http://t.example/?x=http://t.example/_token/b", "", b"http://t.example/?x=http://t.example/_token/b"),
        (b"http://t.example/a", "", b"http://t.example/a"),
        (b"/_token/x/a", "", b"/_token/x/a"),
        (b"", "", b""),
    ],
)
def test_referer_is_told_without_the_token(referer: bytes, base: str, told: bytes) -> None:
    others = [(b"Host", b"t.example"), (b"X-Any", b"http://t.example/_token/secret/")]
    assert without_token([*others, (b"referer", referer)], base) == [*others, (b"referer", told)]


def test_fields_without_a_token_are_left_alone() -> None:
    fields = [(b"Referer", b"http://t.example/a")]
    assert without_token(fields, "") is fields


# -- reserved paths ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "answer"),
    [
        (b"/_health_check", Reserved("_health_check")),
        (b"/_health_check?a=b?c", Reserved("_health_check", b"", b"a=b?c")),
        (b"http://other/_stats", Reserved("_stats")),
        (b"/_tunnel", Reserved("_tunnel")),
        (b"/_tunnel/", Reserved("_tunnel", b"/")),
        (b"/_tunnel/poll/x?y", Reserved("_tunnel", b"/poll/x", b"y")),
    ],
)
def test_reserved_paths(target: bytes, answer: Reserved) -> None:
    assert to(target) == answer
    assert to(target, X_TOKEN) == answer


@pytest.mark.parametrize(
    "target",
    [
        *(b"/_health_check/", b"/_stats/x", b"/_STATS", b"/_stat", b"/_statsx", b"/_unknown", b"/_\xff"),
        *(b"/_metrics/", b"//_stats", b"/./_stats", b"/%5Fstats", b"/x/_stats", b"/_tunnels", b"*"),
    ],
)
def test_what_is_not_reserved_goes_on(target: bytes) -> None:
    assert to(target, X_TOKEN) == ToTunnel((TOKEN,), target)


@pytest.mark.parametrize(
    ("switch", "target"),
    [
        ("health", b"/_health_check"),
        ("stats", b"/_stats"),
        ("transports", b"/_tunnel/x"),
        ("metrics", b"/_metrics"),
        ("sessions", b"/_sessions/x"),
    ],
)
def test_reserved_paths_are_switchable(switch: str, target: bytes) -> None:
    on: dict[str, Any] = {switch: True}
    off: dict[str, Any] = {switch: False}
    assert isinstance(to(target, **on), Reserved)
    assert isinstance(to(target, X_TOKEN, **off), ToTunnel)


# -- tokens in paths ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rest",
    [
        b"/",
        b"/a?b=c",
        b"//a",
        b"/a/../b/./c",
        b"/%2F%2e%zz",
        b"/?",
        b"/_stats",
        b"/_token/x/",
        b"/a?b?c/",
        b"//host/x",
    ],
)
def test_the_rest_of_a_path_passes_byte_for_byte(rest: bytes) -> None:
    assert to(PATH + rest) == ToTunnel((TOKEN,), rest)
    assert to(b"http://other" + PATH + rest) == ToTunnel((TOKEN,), rest)


@pytest.mark.parametrize(
    ("segment", "tokens"),
    [
        (b"my_b%21g_$secret!!", ("my_b%21g_$secret!!", TOKEN)),
        (b"0123456789abc%2Fdef", ("0123456789abc%2Fdef", "0123456789abc/def")),
        (b"%61" * 8 + b"bbbbbbbb", ("%61" * 8 + "b" * 8, "a" * 8 + "b" * 8)),
        (b"%61" * 6, ("%61" * 6,)),  # decoded it is too short
        (b"a" * 15 + b"%00", ("a" * 15 + "%00",)),
        (b"a" * 15 + b"%zz", ("a" * 15 + "%zz",)),
        (b"%61" * 86, ("a" * 86,)),  # as sent it is too long
    ],
)
def test_tokens_as_sent_and_decoded(segment: bytes, tokens: tuple[str, ...]) -> None:
    assert to(b"/_token/" + segment + b"/x") == ToTunnel(tokens, b"/x")


@pytest.mark.parametrize(
    "target", [b"/_token/short/x", b"/_token//x", b"/_token/" + b"a" * 300 + b"/", b"/_token/:" + b"a" * 20 + b"/"]
)
def test_what_cannot_be_a_token_is_unknown(target: bytes) -> None:
    assert missing(to(target)) == "there is no tunnel with this token"


@pytest.mark.parametrize("target", [PATH, PATH + b"?a", PATH + b"?a/b", b"/_token/"])
def test_a_token_without_a_path(target: bytes) -> None:
    assert "path after the token is missing" in missing(to(target))


def test_a_tokens_path_goes_before_the_header() -> None:
    assert to(PATH + b"/x", (b"X-Token", b"another token here")) == ToTunnel((TOKEN,), b"/x")


# -- tokens in the header ----------------------------------------------------------------------


def test_the_header_takes_the_target_as_it_is() -> None:
    assert to(b"/a//b?c", X_TOKEN) == ToTunnel((TOKEN,), b"/a//b?c")
    assert to(b"http://h/a", X_TOKEN) == ToTunnel((TOKEN,), b"/a")
    assert to(b"http://h", X_TOKEN, method=b"OPTIONS") == ToTunnel((TOKEN,), b"*")


def test_the_header_is_not_decoded() -> None:
    token = b"my_b%21g_$secret!!"
    assert to(b"/", (b"x-token", token)) == ToTunnel((token.decode(),), b"/")


def test_a_malformed_header() -> None:
    assert missing(to(b"/", (b"X-Token", b"short"))) == "there is no tunnel with this token"
    assert missing(to(b"/", (b"X-Token", b"caf\xe9" * 8))) == "there is no tunnel with this token"


@pytest.mark.parametrize("name", [b"X-Token", b"X-Host"])
def test_fields_that_may_come_once(name: bytes) -> None:
    with pytest.raises(HeadError) as caught:
        to(b"/", (name, b"a" * 16), (name.lower(), b"a" * 16))
    assert caught.value.status == 400


def test_x_host_goes_along() -> None:
    x_host = (b"X-Host", b"http://internal:81")
    assert to(b"/", X_TOKEN, x_host) == ToTunnel((TOKEN,), b"/", b"http://internal:81")
    assert to(PATH + b"/a", x_host) == ToTunnel((TOKEN,), b"/a", b"http://internal:81")


def test_an_x_host_that_is_too_long_for_a_stream_is_refused() -> None:
    longest = b"http://" + b"a" * (X_HOST_LIMIT - 7)
    assert to(b"/", X_TOKEN, (b"X-Host", longest)) == ToTunnel((TOKEN,), b"/", longest)
    encode_fields({1: longest})
    with pytest.raises(HeadError) as caught:
        to(b"/", X_TOKEN, (b"X-Host", longest + b"a"))
    assert (caught.value.status, caught.value.code) == (400, "bad_x_host")


def test_ways_are_switchable() -> None:
    assert "names no tunnel" in missing(to(b"/a"))
    assert "names no tunnel" in missing(to(PATH + b"/a", token_path=False))
    assert to(PATH + b"/a", X_TOKEN, token_path=False) == ToTunnel((TOKEN,), PATH + b"/a")
    assert "names no tunnel" in missing(to(b"/a", X_TOKEN, token_header=False))


# -- base path ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "answer"),
    [
        (b"/base/_stats", Reserved("_stats")),
        (b"/base" + PATH + b"//x", ToTunnel((TOKEN,), b"//x")),
        (b"/base/a", ToTunnel((TOKEN,), b"/a")),
        (b"/base//a", ToTunnel((TOKEN,), b"//a")),
        (b"/base", ToTunnel((TOKEN,), b"/")),
        (b"/base?x", ToTunnel((TOKEN,), b"/?x")),
        (b"*", ToTunnel((TOKEN,), b"*")),
    ],
)
def test_base_path(target: bytes, answer: Route) -> None:
    assert to(target, X_TOKEN, base_path="/base") == answer


@pytest.mark.parametrize("target", [b"/", b"/basement", b"/_stats", b"//base/a", b"/Base/a", b"/base*", b"/%62ase/"])
def test_outside_the_base_path(target: bytes) -> None:
    assert missing(to(target, X_TOKEN, base_path="/base")) == "everything here is below /base/"


@pytest.mark.parametrize(
    ("path", "normal"), [("", ""), ("/", ""), ("base", "/base"), ("/base/", "/base"), ("/a/b-c.d~", "/a/b-c.d~")]
)
def test_normalise_base_path(path: str, normal: str) -> None:
    assert normalise_base_path(path) == normal
    RoutingConfig(base_path=normal)


@pytest.mark.parametrize(
    "path", ["/a//b", "/../a", "/a/..", "/.", "/a b", "/a?b", "/a\n", "/é", "/%41", "/" + "a" * 256]
)
def test_bad_base_paths(path: str) -> None:
    with pytest.raises(ConfigError):
        normalise_base_path(path)


def test_the_configuration_checks_itself() -> None:
    with pytest.raises(ConfigError, match="base_path"):
        RoutingConfig(base_path="base/")
    with pytest.raises(ConfigError, match="wsp_token: can be no token") as caught:
        RoutingConfig(wsp_token="short")
    assert "short" not in str(caught.value)
    with pytest.raises(ConfigError, match="wsp_path"):
        normalise_base_path("/a b", field="wsp_path")
    with pytest.raises(ConfigError, match="wsp_path: /request is a transport's path"):
        RoutingConfig(wsp_path="/request", own_paths={"/request": "/wsp"})


# -- names -------------------------------------------------------------------------------------

DOMAIN = BaseDomain("tunnel.example.com")


@pytest.mark.parametrize(
    ("host", "name"),
    [
        (b"app.tunnel.example.com", "app"),
        (b"APP.Tunnel.Example.COM:8080", "app"),
        (b"a-1.tunnel.example.com.", "a-1"),
        (b"1.tunnel.example.com", "1"),
    ],
)
def test_names(host: bytes, name: str) -> None:
    x_host = (b"X-Host", b"http://h")
    assert to(b"/a", host=host, base_domain=DOMAIN) == ToName(name, b"/a")
    assert to(b"/_stats", x_host, host=host, base_domain=DOMAIN) == ToName(name, b"/_stats", b"http://h")
    assert to(b"http://" + host + b"/a", base_domain=DOMAIN) == ToName(name, b"/a")
    assert isinstance(to(b"/a", host=host), NotFound)
    assert is_named(RequestHead(b"GET", b"/", [(b"Host", host)]), RoutingConfig(base_domain=DOMAIN))


@pytest.mark.parametrize(
    "target", [b"/_tunnel", b"/_tunnel/x", b"/_health_check", b"/_stats", b"/_metrics", b"/request"]
)
def test_on_a_names_host_no_path_is_the_servers_own(target: bytes) -> None:
    answer = to(
        target, X_TOKEN, host=b"app.tunnel.example.com", base_domain=DOMAIN, metrics=True, wsp_path="/request"
    )
    assert answer == ToName("app", target)
    assert to(PATH + target, host=b"app.tunnel.example.com", base_domain=DOMAIN) == ToName("app", PATH + target)


@pytest.mark.parametrize("name", ["www", "localhost", "wpad", "xn--nxasmq6b", "XN--X", "ab--c"])
def test_a_name_that_nobody_may_claim_is_not_waited_for(name: str) -> None:
    host = f"{name}.tunnel.example.com".encode()
    for target in (b"/a", b"/_stats", PATH + b"/a"):
        answer = to(target, X_TOKEN, host=host, base_domain=DOMAIN)
        assert missing(answer) == "no tunnel can have the name of this host"
    own = to(b"/_stats", host=host, base_domain=DOMAIN, own_host=host.decode().lower())
    assert own == Reserved("_stats")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1.nip.io", "com"])
def test_names_need_no_list_of_public_suffixes(host: str) -> None:
    assert to(b"/", host=f"app.{host}:8080".encode(), base_domain=BaseDomain(host)) == ToName("app", b"/")
    assert to(b"/_stats", host=f"{host}:8080".encode(), base_domain=BaseDomain(host)) == Reserved("_stats")


def test_the_servers_own_host_may_lie_below_the_base_domain() -> None:
    domain = BaseDomain("example.com")
    assert to(b"/_stats", host=b"tunnel.example.com", base_domain=domain) == ToName("tunnel", b"/_stats")
    own = to(b"/_stats", host=b"Tunnel.example.com.:80", base_domain=domain, own_host="tunnel.example.com")
    assert own == Reserved("_stats")


@pytest.mark.parametrize(
    "host",
    [
        *(b"tunnel.example.com", b"a.b.tunnel.example.com", b"-a.tunnel.example.com", b"a-.tunnel.example.com"),
        *(
            b"apptunnel.example.com",
            b".tunnel.example.com",
            b"app",
            b"[::1]",
            b"127.0.0.1:80",
            b"\xe9.tunnel.example.com",
        ),
        *(b"a_b.tunnel.example.com", b"a" * 64 + b".tunnel.example.com"),
    ],
)
def test_hosts_that_are_no_names(host: bytes) -> None:
    assert to(b"/_stats", host=host, base_domain=DOMAIN) == Reserved("_stats")
    assert not is_named(RequestHead(b"GET", b"/", [(b"Host", host)]), RoutingConfig(base_domain=DOMAIN))


# -- paths of transports -----------------------------------------------------------------------


def test_a_transports_own_path_leads_to_where_it_is_mounted() -> None:
    own = {"/register": "/wsp"}
    assert to(b"/register?a", own_paths=own) == Reserved("_tunnel", b"/wsp")
    assert to(b"/b/register", own_paths=own, base_path="/b") == Reserved("_tunnel", b"/wsp")
    assert to(b"/register", X_TOKEN, own_paths=own) == ToTunnel(
        (TOKEN,), b"/register"
    )  # somebody's origin has it too
    for target in (b"/register/", b"/Register", b"/regist%65r", b"/register"[:-1]):
        assert "names no tunnel" in missing(to(target, own_paths=own))
    assert "names no tunnel" in missing(to(b"/register", own_paths=own, transports=False))


# -- wsp ---------------------------------------------------------------------------------------

DESTINATION = (b"X-PROXY-DESTINATION", b"http://internal/x?y")


def test_wsp() -> None:
    assert to(b"/request?a", X_TOKEN, DESTINATION, wsp_path="/request") == ToDestination((TOKEN,), DESTINATION[1])
    assert to(b"/request", DESTINATION, wsp_path="/request", wsp_token="w" * 16) == ToDestination(
        ("w" * 16,), DESTINATION[1]
    )
    assert to(b"/request/a", X_TOKEN, wsp_path="/request") == ToTunnel((TOKEN,), b"/request/a")
    assert to(b"/request", X_TOKEN, DESTINATION) == ToTunnel((TOKEN,), b"/request")


def test_wsp_says_what_is_missing() -> None:
    assert "X-PROXY-DESTINATION" in missing(to(b"/request", wsp_path="/request", wsp_token="w" * 16))
    assert "names no tunnel" in missing(to(b"/request", wsp_path="/request"))
    assert to(b"/request", X_TOKEN, wsp_path="/request") == ToTunnel((TOKEN,), b"/request")  # a path like any other
    assert "X-Token" in missing(to(b"/request", DESTINATION, wsp_path="/request"))
    short = (b"X-Token", b"short")
    assert "no tunnel" in missing(to(b"/request", short, DESTINATION, wsp_path="/request", wsp_token="w" * 16))


# -- secrets -----------------------------------------------------------------------------------


def test_no_repr_shows_a_token() -> None:
    answers = [
        to(PATH + b"/x?key=" + TOKEN.encode()),
        to(b"/request", X_TOKEN, DESTINATION, wsp_path="/request"),
        RoutingConfig(wsp_token=TOKEN),
    ]
    for answer in answers:
        assert TOKEN not in repr(answer)


# -- details -----------------------------------------------------------------------------------


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize(
    "host", [b"127.0.0.1", b"127.0.0.1:8080", b"[::1]", b"[::1]:80", b"localhost:80", b"LOCALHOST"]
)
def test_details_for_loopback(peer: str, host: bytes) -> None:
    assert details_allowed(RequestHead(b"GET", b"/_stats", [(b"Host", host), (b"Accept", b"*/*")]), peer)


@pytest.mark.parametrize(
    ("peer", "host", "fields"),
    [
        ("192.0.2.1", b"127.0.0.1", []),
        ("", b"127.0.0.1", []),
        ("::ffff:192.0.2.1", b"127.0.0.1", []),
        ("127.0.0.1", b"example.com", []),
        ("127.0.0.1", b"127.0.0.1.example.com", []),
        ("127.0.0.1", b"0.0.0.0", []),
        ("127.0.0.1", b"0x7f.1", []),
        ("127.0.0.1", b"2130706433", []),
        ("127.0.0.1", b"localhost.example.com", []),
        ("127.0.0.1", b"127.0.0.1", [(b"X-Forwarded-For", b"127.0.0.1")]),
        ("127.0.0.1", b"127.0.0.1", [(b"x_forwarded_host", b"a")]),
        ("127.0.0.1", b"127.0.0.1", [(b"Forwarded", b"for=127.0.0.1")]),
        ("127.0.0.1", b"127.0.0.1", [(b"X-Real-IP", b"127.0.0.1")]),
        ("127.0.0.1", b"127.0.0.1", [(b"Via", b"1.1 x")]),
    ],
)
def test_no_details(peer: str, host: bytes, fields: Fields) -> None:
    assert not details_allowed(RequestHead(b"GET", b"/_stats", [(b"Host", host), *fields]), peer)


def test_no_details_by_an_absolute_target_or_without_host() -> None:
    host = (b"Host", b"127.0.0.1")
    assert not details_allowed(RequestHead(b"GET", b"http://example.com/_stats", [host]), "127.0.0.1")
    assert not details_allowed(RequestHead(b"GET", b"/_stats", [], b"1.0"), "127.0.0.1")


# -- any bytes ---------------------------------------------------------------------------------


@given(
    st.binary(max_size=40) | st.binary(max_size=40).map(lambda tail: b"/_token/" + tail),
    st.binary(max_size=20),
    st.booleans(),
)
def test_any_target_has_a_route(target: bytes, host: bytes, named: bool) -> None:
    answer = to(target, host=host, base_domain=DOMAIN if named else None, base_path="")
    if isinstance(answer, ToTunnel):
        assert target.endswith(answer.target)
    details_allowed(RequestHead(b"GET", target, [(b"Host", host)]), "127.0.0.1")
