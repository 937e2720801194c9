from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.errors import ConfigError
from tunnelkit.net.proxy import Proxy, bypasses_proxy, choose_proxy


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://proxy", Proxy(scheme="http", host="proxy", port=80)),
        ("proxy:3128", Proxy(scheme="http", host="proxy", port=3128)),
        ("HTTP://Proxy:3128/", Proxy(scheme="http", host="proxy", port=3128)),
        ("https://proxy", Proxy(scheme="https", host="proxy", port=443)),
        ("http://[::1]:3128", Proxy(scheme="http", host="::1", port=3128)),
        ("socks5://proxy", Proxy(scheme="socks5", host="proxy", port=1080, remote_dns=False)),
        ("socks5h://proxy:9", Proxy(scheme="socks5", host="proxy", port=9)),
        ("socks4://proxy", Proxy(scheme="socks4", host="proxy", port=1080, remote_dns=False)),
        ("socks4a://proxy", Proxy(scheme="socks4", host="proxy", port=1080)),
        ("http://u%40x:p%2Fw@proxy", Proxy(scheme="http", host="proxy", port=80, username="u@x", password="p/w")),
        ("http://user@proxy", Proxy(scheme="http", host="proxy", port=80, username="user")),
    ],
)
def test_parse(url: str, expected: Proxy) -> None:
    assert Proxy.parse(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "ftp://user:hunter2@proxy",
        "http://",
        "http://user:hunter2@",
        "http://user:hunter2@proxy:0",
        "http://user:hunter2@proxy:port",
        "http://user:hun/ter2@proxy:80",
        "http://user:hunter2@proxy/path",
        "http://user:hunter2@proxy?query",
        "http://user:hunter2@[::1",
        "http://user:hunter2@proxy:99999",
    ],
)
def test_a_bad_url_is_refused_without_telling_its_secrets(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Proxy.parse(url, field="HTTPS_PROXY")
    assert caught.value.field == "HTTPS_PROXY"
    assert caught.value.fix
    assert "hun" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_its_texts_hold_no_secret() -> None:
    proxy = Proxy.parse("http://user:hunter2@proxy:3128")
    assert str(proxy) == "http://proxy:3128"
    assert "hunter2" not in repr(proxy)
    assert "user" not in repr(proxy)
    assert str(Proxy.parse("socks5h://[::1]")) == "socks5://[::1]:1080"


ENVIRON = {"https_proxy": "http://secure:1", "HTTP_PROXY": "http://plain:2", "ALL_PROXY": "socks5h://all:3"}


@pytest.mark.parametrize(
    ("url", "environ", "host"),
    [
        ("https://example.com", ENVIRON, "secure"),
        ("wss://example.com", ENVIRON, "secure"),
        ("http://example.com", ENVIRON, "plain"),
        ("ws://example.com", ENVIRON, "plain"),
        ("https://example.com", {"ALL_PROXY": "socks5h://all:3"}, "all"),
        ("https://example.com", {"https_proxy": "", "all_proxy": "http://all"}, "all"),
        ("https://example.com", {"https_proxy": "http://lower", "HTTPS_PROXY": "http://upper"}, "lower"),
        ("https://example.com", {"HTTP_PROXY": "http://plain:2"}, None),
        ("https://example.com", {}, None),
        # A header named Proxy must not choose our proxy under CGI.
        ("http://example.com", {"HTTP_PROXY": "http://evil", "REQUEST_METHOD": "GET"}, None),
        ("http://example.com", {"http_proxy": "http://good", "REQUEST_METHOD": "GET"}, "good"),
        # What is on this machine is not asked of a proxy.
        ("http://localhost:8080", ENVIRON, None),
        ("http://a.localhost", ENVIRON, None),
        ("http://127.8.9.10:8080", ENVIRON, None),
        ("http://[::1]:8080", ENVIRON, None),
        ("http://[::ffff:127.0.0.1]", ENVIRON, None),
        ("https://example.com", ENVIRON | {"NO_PROXY": "example.com"}, None),
        ("https://example.com", ENVIRON | {"no_proxy": "other", "NO_PROXY": "example.com"}, "secure"),
        ("https://example.com:8443", ENVIRON | {"NO_PROXY": "example.com:443"}, "secure"),
        ("wss://example.com", ENVIRON | {"NO_PROXY": "example.com:443"}, None),
        ("ws://example.com", ENVIRON | {"NO_PROXY": "example.com:80"}, None),
    ],
)
def test_the_environment(url: str, environ: dict[str, str], host: str | None) -> None:
    proxy = choose_proxy(url, None, environ)
    assert (proxy and proxy.host) == host


def test_an_argument_goes_before_the_environment() -> None:
    environ = ENVIRON | {"NO_PROXY": "*"}
    proxy = Proxy.parse("http://mine")
    assert choose_proxy("https://localhost", "http://mine", environ) == proxy
    assert choose_proxy("https://localhost", proxy, environ) is proxy
    assert choose_proxy("https://example.com", "", ENVIRON) is None


def test_a_broken_variable_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^ALL_PROXY: "):
        choose_proxy("https://example.com", None, {"ALL_PROXY": "gopher://x"})


@pytest.mark.parametrize(
    ("host", "port", "no_proxy", "expected"),
    [
        ("example.com", 80, "", False),
        ("example.com", 80, "*", True),
        ("example.com", 80, "example.com", True),
        ("EXAMPLE.com.", 80, "Example.Com", True),
        ("example.com", 80, ".example.com", True),
        ("example.com", 80, "*.example.com", True),
        ("a.b.example.com", 80, "example.com", True),
        ("badexample.com", 80, "example.com", False),
        ("example.com.evil", 80, "example.com", False),
        ("example.com", 80, "other, example.com", True),
        ("example.com", 80, "other example.com", True),
        ("example.com", 80, ",, ,", False),
        ("example.com", 80, ".", False),
        ("example.com", 80, "example.com:80", True),
        ("example.com", 81, "example.com:80", False),
        ("10.1.2.3", 80, "10.1.2.3", True),
        ("10.1.2.3", 80, "10.0.0.0/8", True),
        ("11.1.2.3", 80, "10.0.0.0/8", False),
        ("10.1.2.3", 80, "10.1.2.3:80", True),
        ("10.1.2.3", 81, "10.1.2.3:80", False),
        ("10.1.2.3", 80, "2.3", False),
        ("fe80::1", 80, "fe80::/10", True),
        ("fe80::1%eth0", 80, "fe80::/10", True),
        ("2001:db8::1", 80, "2001:DB8::1", True),
        ("2001:db8::1", 80, "[2001:db8::1]", True),
        ("2001:db8::1", 80, "[2001:db8::1]:80", True),
        ("2001:db8::1", 81, "[2001:db8::1]:80", False),
        ("::ffff:10.1.2.3", 80, "10.0.0.0/8", True),
        ("10.1.2.3", 80, "fe80::/10", False),
    ],
)
def test_no_proxy(host: str, port: int, no_proxy: str, expected: bool) -> None:
    assert bypasses_proxy(host, port, no_proxy) is expected


@given(st.text(), st.text(), st.integers(min_value=0, max_value=65_535))
def test_no_value_breaks_it(host: str, no_proxy: str, port: int) -> None:
    assert bypasses_proxy(host, port, no_proxy) in (True, False)


@given(st.text(alphabet="htps:/@.[]%0123456789abc?#_- "))
def test_a_url_is_parsed_or_refused(url: str) -> None:
    try:
        proxy = Proxy.parse(url)
    except ConfigError:
        return
    assert proxy.host
    assert 0 < proxy.port <= 65_535
