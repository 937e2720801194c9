"""Who may join a token, and who of its clients serves."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tunnelkit.core.policies import POLICIES, POOL, Policies, parse_policies, policy_named
from tunnelkit.core.tokens import token_digest
from tunnelkit.errors import ConfigError


@dataclass
class Place:
    name: str
    load: int = 0


@pytest.mark.parametrize(
    ("name", "clients", "limit", "secret", "admitted"),
    [
        ("pool", 0, 1, False, True),
        ("pool", 1, 1, False, False),
        ("pool", 2, 1, True, False),
        ("pool", 99, 0, False, True),
        ("standby", 1, 0, False, True),
        ("standby", 2, 2, False, False),
        ("reject", 0, 0, False, True),
        ("reject", 1, 0, True, False),
        ("replace", 0, 0, False, True),
        ("replace", 1, 0, False, False),
        ("replace", 1, 1, True, True),
    ],
)
def test_who_is_admitted(name: str, clients: int, limit: int, secret: bool, admitted: bool) -> None:
    assert POLICIES[name].admits(clients, limit, secret=secret) is admitted


@pytest.mark.parametrize("name", POLICIES)
def test_only_replace_replaces_and_only_with_a_secret(name: str) -> None:
    assert POLICIES[name].replaces(secret=True) is (name == "replace")
    assert not POLICIES[name].replaces(secret=False)


@pytest.mark.parametrize("name", POLICIES)
def test_a_standby_leaves_all_to_the_first(name: str) -> None:
    places = [Place("a"), Place("b")]
    assert list(POLICIES[name].serving(places)) == (places[:1] if name == "standby" else places)
    assert not POLICIES[name].serving([])


def test_an_unknown_name_is_told_with_the_known_ones() -> None:
    assert policy_named("reject") is POLICIES["reject"]
    with pytest.raises(ConfigError) as caught:
        policy_named("first", setting="policies")
    assert str(caught.value) == "policies: 'first' is unknown; give one of pool, replace, reject, standby"


def test_a_token_may_have_its_own_policy() -> None:
    policies = Policies(POLICIES["reject"], {b"one": POOL})
    assert policies.of(b"one") is POOL
    assert policies.of(b"two") is POLICIES["reject"]
    assert policies.of(b"one", named=True) is POOL


def test_names_are_rejected_to_others_unless_the_configuration_says_otherwise() -> None:
    assert Policies().of(b"one") is POOL
    assert Policies().of(b"one", named=True) is POLICIES["reject"]
    assert Policies(POLICIES["standby"]).of(b"one", named=True) is POLICIES["standby"]


def test_policies_are_read_from_names() -> None:
    token = "a-token-for-policies"
    policies = parse_policies("standby", {token: "reject"})
    assert policies == Policies(POLICIES["standby"], {token_digest(token): POLICIES["reject"]})
    assert parse_policies(None, {}) == Policies()
    with pytest.raises(ConfigError, match=r"^policies: token 1 .*16") as caught:
        parse_policies(None, {"short": "pool"})
    assert "short" not in str(caught.value).partition("too short")[0]
    with pytest.raises(ConfigError, match=r"^policies: 'any' is unknown"):
        parse_policies(None, {token: "any"})


def test_replace_needs_a_registration_secret() -> None:
    replace = POLICIES["replace"]
    Policies(replace).check(frozenset({b"any"}))
    Policies(POOL, {b"one": replace, b"two": POOL}).check(frozenset({b"one"}))
    with pytest.raises(ConfigError, match=r"^policy: 'replace' needs a registration secret.*give passwords"):
        Policies(replace).check(frozenset())
    with pytest.raises(ConfigError, match=r"^policies: of token 2: 'replace' needs a registration secret"):
        Policies(POOL, {b"two": POOL, b"one": replace}).check(frozenset({b"two"}))
