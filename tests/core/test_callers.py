"""Credentials that callers are asked for."""

from __future__ import annotations

from base64 import b64encode

import pytest

from tunnelkit.core.callers import (
    BASIC_LIMIT,
    Basic,
    CallerCredentials,
    Callers,
    caller_table,
    parse_basic,
    parse_caller_lines,
)
from tunnelkit.core.credentials import NeedsHash, Refused, Verified, hash_password, verify_hash
from tunnelkit.core.tokens import token_digest
from tunnelkit.errors import ConfigError

TOKEN = "a-token-for-callers"
DIGEST = token_digest(TOKEN)
HASHED = str(hash_password("secret", b"16 bytes of salt", n=2**4))


def credentials(callers: Callers) -> CallerCredentials:
    return CallerCredentials(caller_table(callers), key=b"key")


def basic(text: str) -> bytes:
    return b"Basic " + b64encode(text.encode())


# -- what a caller gives -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (basic("user:password"), Basic("user", "password")),
        (b"bAsIc  " + b64encode(b"user:"), Basic("user", "")),
        (basic("us\u00e9r:a:b"), Basic("us\u00e9r", "a:b")),
        (basic("nocolon"), None),
        (b"Basic " + b64encode(b"\xff:x"), None),
        (b"Basic ???", None),
        (b"Basic", None),
        (b"Bearer abc", None),
        (basic("u:" + "x" * BASIC_LIMIT), None),
    ],
)
def test_what_an_authorization_field_says(value: bytes, found: Basic | None) -> None:
    assert parse_basic([value]) == found


def test_two_fields_say_nothing() -> None:
    assert parse_basic([]) is None
    assert parse_basic([basic("a:b"), basic("a:b")]) is None


def test_no_password_is_shown() -> None:
    assert "secret" not in repr(Basic("user", "secret"))
    assert repr(credentials({TOKEN: {"user": "secret"}})) == "<CallerCredentials tunnels=1>"


# -- whom is asked ---------------------------------------------------------------------------------


def test_a_tunnel_is_asked_by_its_token_or_its_name() -> None:
    known = credentials({TOKEN: {"one": "x"}, "name:MyApp": {"two": "x"}})
    assert known.asks
    assert not credentials({}).asks
    assert list(known.users(DIGEST, None) or ()) == ["one"]
    assert list(known.users(DIGEST, "myapp") or ()) == ["two"]
    assert list(known.users(DIGEST, "other") or ()) == ["one"]
    assert known.users(b"another", "other") is None


# -- checking --------------------------------------------------------------------------------------


def test_a_plain_password() -> None:
    known = credentials({TOKEN: {"user": "secret"}})
    users = known.users(DIGEST, None)
    assert users is not None
    assert known.check_plan(users, Basic("user", "secret")) == Verified()
    assert known.check_plan(users, Basic("user", "wrong")) == Refused()
    assert known.check_plan(users, Basic("another", "secret")) == Refused()


def test_a_hash_is_computed_once_and_for_users_that_there_are_not_too() -> None:
    known = credentials({TOKEN: {"user": HASHED}})
    users = known.users(DIGEST, None)
    assert users is not None
    plan = known.check_plan(users, Basic("user", "secret"))
    assert isinstance(plan, NeedsHash)
    assert verify_hash(plan)
    known.remember(plan)
    assert known.check_plan(users, Basic("user", "secret")) == Verified()
    decoy = known.check_plan(users, Basic("another", "secret"))
    assert isinstance(decoy, NeedsHash)
    assert (decoy.hash.n, decoy.hash.r, decoy.hash.p) == (plan.hash.n, plan.hash.r, plan.hash.p)
    assert not verify_hash(decoy)


# -- configuration -----------------------------------------------------------------------------------


def test_lines_of_a_file() -> None:
    text = f"# users\n\n{TOKEN}:one:a:b\n  {TOKEN}:two:c\nname:myapp:one:{HASHED}\n"
    assert parse_caller_lines(text) == {TOKEN: {"one": "a:b", "two": "c"}, "name:myapp": {"one": HASHED}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{TOKEN}:one", "callers_file: line 1 is not complete; give TOKEN:USER:PASSWORD"),
        ("\nname:myapp:one", "callers_file: line 2 is not complete; give TOKEN:USER:PASSWORD"),
        (f"{TOKEN}:one:a\n{TOKEN}:one:b", "callers_file: line 2 repeats the user of an earlier one"),
    ],
)
def test_a_bad_line_is_named_by_its_number(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_caller_lines(text)
    assert str(caught.value).startswith(message)
    assert TOKEN not in str(caught.value)


def test_users_of_a_name_where_there_are_none() -> None:
    with pytest.raises(ConfigError, match=r"^callers: entry 2 is for a name, and there are none without"):
        caller_table({TOKEN: {"u": "p"}, "name:a": {"u": "p"}}, names=False)


@pytest.mark.parametrize(
    ("callers", "message"),
    [
        ({"short": {"u": "p"}}, "callers: the token of entry 1 "),
        ({"name:": {"u": "p"}}, "callers: the name of entry 1 must have 1 to 63 characters"),
        ({"name:my app": {"u": "p"}}, "callers: the name of entry 1 may hold letters, digits and '-' only"),
        ({"name:www": {"u": "p"}}, "callers: the name of entry 1 'www' is reserved"),
        ({"name:a": {"u": "p"}, "name:A": {"v": "p"}}, "callers: entry 2 is for the same tunnel as an earlier one"),
        ({TOKEN: {}}, "callers: entry 1 has no user; "),
        ({TOKEN: {"": "p"}}, "callers: entry 1 has a user that is empty or holds ':'"),
        ({TOKEN: {"a:b": "p"}}, "callers: entry 1 has a user that is empty or holds ':'"),
        ({TOKEN: {"u": ""}}, "callers: entry 1 has no password"),
        ({TOKEN: {"u": "scrypt$1"}}, "callers: the password of entry 1: a hash must read scrypt$"),
    ],
)
def test_a_bad_entry_is_named_by_its_number(callers: Callers, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        caller_table(callers)
    assert str(caught.value).startswith(message)
    assert TOKEN not in str(caught.value)
