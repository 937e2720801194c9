from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.core.naming import (
    RESERVED_NAMES,
    BaseDomain,
    PublicAddress,
    bound_names,
    check_name,
    derived_name,
    is_derived,
    is_label,
    may_be_claimed,
    name_key,
)
from tunnelkit.core.tokens import token_digest
from tunnelkit.errors import ConfigError

TOKEN = "a-token-for-the-tests"

# -- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["myapp", "a", "1", "3com", "a-b", "a--b", "constructor", "keys", "a" * 63])
def test_names(name: str) -> None:
    assert check_name(name) == name


def test_case_means_nothing() -> None:
    assert check_name("MyApp") == "myapp"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "1 to 63"),
        ("a" * 64, "1 to 63"),
        ("-a", "neither begin nor end"),
        ("a-", "neither begin nor end"),
        ("a.b", "letters, digits"),
        ("a_b", "letters, digits"),
        ("a b", "letters, digits"),
        ("a\n", "letters, digits"),
        ("é", "letters, digits"),
        ("\u212aey", "letters, digits"),  # the Kelvin sign, whose lower case is "k"
        ("xn--bcher-kva", "'--'"),
        ("XN--a", "'--'"),
        *((name, "reserved") for name in sorted(RESERVED_NAMES)),
        ("WWW", "reserved"),
    ],
)
def test_what_is_no_name(name: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        check_name(name, field="given")
    assert caught.value.field == "given"
    assert caught.value.fix


@given(st.text(max_size=70))
def test_a_name_is_a_label_and_never_changed_but_for_its_case(text: str) -> None:
    try:
        name = check_name(text)
    except ConfigError:
        return
    assert is_label(name)
    assert may_be_claimed(name)
    assert name == text.lower()


@given(st.one_of(st.from_regex(r"(?:xn--)?[a-z0-9-]{1,9}", fullmatch=True), st.sampled_from(sorted(RESERVED_NAMES))))
def test_what_may_be_claimed_is_what_can_be_a_name(label: str) -> None:
    try:
        check_name(label)
    except ConfigError:
        assert not (is_label(label) and may_be_claimed(label))
    else:
        assert is_label(label)
        assert may_be_claimed(label)


def test_a_derived_name_is_always_the_same() -> None:
    name = derived_name(TOKEN, "tunnel.example.com")
    assert name == derived_name(TOKEN, "tunnel.example.com") == "t-el4tasirzbkbwhi3"
    assert is_derived(check_name(name))
    assert derived_name(TOKEN, "other.example.com") != name
    assert derived_name(TOKEN + "1", "tunnel.example.com") != name


@pytest.mark.parametrize(
    "name", ["myapp", "t-short", "t-el4tasirzbkbwhi31", "u-el4tasirzbkbwhi3", "t-el4tasirzbkbwh1"]
)
def test_other_names_are_not_derived(name: str) -> None:
    assert not is_derived(name)


def test_the_key_of_a_name_is_no_tokens_digest() -> None:
    assert len(name_key("myapp")) == len(token_digest(TOKEN))
    assert name_key("myapp") != token_digest("myapp")
    assert name_key("myapp") != name_key("myap")


def test_names_that_belong_to_tokens() -> None:
    domain = BaseDomain("example.com")
    assert bound_names({}, None) == {}
    assert bound_names({"MyApp": TOKEN}, domain) == {"myapp": token_digest(TOKEN)}


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ({"a.b": TOKEN}, "names: may hold letters"),
        ({"app": TOKEN, "APP": TOKEN}, "names: 'app' is given twice"),
        ({"t-el4tasirzbkbwhi3": TOKEN}, "made from a token"),
        ({"app": "secret"}, "token: is too short"),
    ],
)
def test_names_that_cannot_belong_to_tokens(names: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        bound_names(names, BaseDomain("example.com"))
    assert "secret" not in str(caught.value).partition(";")[0]
    with pytest.raises(ConfigError, match="give base_domain too"):
        bound_names(names, None)


# -- the base domain ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("tunnel.example.com", BaseDomain("tunnel.example.com")),
        ("Tunnel.Example.COM.", BaseDomain("tunnel.example.com")),
        ("localhost", BaseDomain("localhost")),
        ("localhost:8080", BaseDomain("localhost", 8080)),
        ("tunnel.example.com.:443", BaseDomain("tunnel.example.com", 443)),
        ("127.0.0.1.nip.io", BaseDomain("127.0.0.1.nip.io")),
        ("xn--bcher-kva.example", BaseDomain("xn--bcher-kva.example")),
    ],
)
def test_base_domains(text: str, domain: BaseDomain) -> None:
    assert BaseDomain.parse(text) == domain


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("127.0.0.1", "is an address"),
        ("127.0.0.1:8080", "is an address"),
        ("[::1]:8080", "is an address"),
        ("[::1]", "no valid port"),
        ("::1", "is an address"),
        ("example.1", "is an address"),
        ("", "is no domain"),
        (".", "is no domain"),
        ("*.example.com", "is no domain"),
        (".example.com", "is no domain"),
        ("a..example.com", "is no domain"),
        ("http://example.com", "no valid port"),
        ("example.com/x", "is no domain"),
        ("a_b.example", "is no domain"),
        ("a." * 100 + "example", "is no domain"),
        ("bücher.example", "not ASCII"),
        ("localhost:0", "no valid port"),
        ("localhost:65536", "no valid port"),
        ("localhost:", "no valid port"),
        ("localhost:http", "no valid port"),
        ("localhost:0000080", "no valid port"),
    ],
)
def test_what_is_no_base_domain(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        BaseDomain.parse(text)
    assert caught.value.field == "base_domain"
    assert caught.value.fix


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("app.example.com", "app"),
        ("a.b.example.com", "a.b"),
        (".example.com", ""),
        ("example.com", None),
        ("appexample.com", None),
        ("app", None),
        ("app.example.com.evil.example", None),
    ],
)
def test_what_stands_before_the_domain(host: str, name: str | None) -> None:
    assert BaseDomain("example.com").name_of(host) == name


# -- URLs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://tunnel.example.com", "https://tunnel.example.com/"),
        ("https://tunnel.example.com:443/", "https://tunnel.example.com/"),
        ("http://Tunnel.example.com:8080/base/", "http://tunnel.example.com:8080/base/"),
        ("http://[::1]:8080", "http://[::1]:8080/"),
    ],
)
def test_public_addresses(url: str, shown: str) -> None:
    address = PublicAddress.parse(url)
    assert address.at(address.host) == shown


def test_the_url_of_a_name() -> None:
    address = PublicAddress.parse("https://tunnel.example.com:8443/base")
    assert address.at("app.example.com") == "https://app.example.com:8443/base/"
    assert address.at("app.example.com", 443) == "https://app.example.com/base/"


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "tunnel.example.com",
            "ws://tunnel.example.com",
            "https://",
            "https://a:0",
            "https://a:x",
            "https://[a",
        ),
        *("https://user:secret@a", "https://a?b", "https://a#b", "https://a b", "https://a\n", "https://é.example"),
    ],
)
def test_what_is_no_public_url(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PublicAddress.parse(url)
    assert caught.value.field == "public_url"
    assert "secret" not in str(caught.value)
