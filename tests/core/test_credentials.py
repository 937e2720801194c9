from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.core import credentials as module
from tunnelkit.core.credentials import (
    Credentials,
    FailureLimiter,
    NeedsHash,
    PlainPassword,
    Refused,
    ScryptHash,
    Verified,
    attempts_from,
    hash_password,
    parse_password_lines,
    parse_passwords,
    parse_secret,
    password_table,
    verify_hash,
)
from tunnelkit.core.tokens import token_digest
from tunnelkit.errors import ConfigError

TOKEN = "a-token-of-some-length"
OTHER = "another-token-of-it"
KEY = b"k" * 32
SALT = b"0123456789abcdef"
CHEAP = hash_password("right", SALT, n=2, r=1, p=1)


S, H = "MDEyMzQ1Njc4OWFiY2RlZg", "A" * 43

# -- hashes --------------------------------------------------------------------------------------


def test_scrypt_is_the_standards() -> None:
    # RFC 7914, section 12, the second vector, cut to the size that is asked for.
    digest = bytes.fromhex(
        "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b3731622eaf30d92e22a3886ff109279d9830da"
        "c727afb94a83ee6d8360cbdfa2cc0640"
    )
    secret = ScryptHash(1024, 8, 16, b"NaCl", digest)
    assert secret.matches("password")
    assert not secret.matches("Password")


def test_a_hash_reads_as_it_is_written() -> None:
    assert str(CHEAP).startswith("scrypt$2$1$1$MDEyMzQ1Njc4OWFiY2RlZg$")
    assert ScryptHash.parse(str(CHEAP)) == CHEAP
    assert ScryptHash.parse(str(CHEAP) + "=") == CHEAP
    assert len(CHEAP.digest) == 32


def test_padding_and_blanks_in_base64() -> None:
    for text in ("A", "AAAA AAAA AAAA", "AAAAAAAAAAAAAAAAAA=A"):
        with pytest.raises(ValueError, match="salt"):
            ScryptHash.parse(f"scrypt$2$1$1${text}${H}")


def test_the_default_costs_what_it_should() -> None:
    secret = hash_password("x", SALT)
    assert (secret.n, secret.r, secret.p) == (2**15, 8, 1)
    assert secret.digest == hashlib.scrypt(b"x", salt=SALT, n=2**15, r=8, p=1, dklen=32, maxmem=2**26)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "must read"),
        ("scrypt", "must read"),
        (f"scrypt$2$1$1${S}", "must read"),
        (f"scrypt$2$1$1${S}${H}$", "must read"),
        (f"bcrypt$2$1$1${S}${H}", "must read"),
        (f"scrypt$x$1$1${S}${H}", "whole numbers"),
        (f"scrypt$-2$1$1${S}${H}", "whole numbers"),
        (f"scrypt$2_0$1$1${S}${H}", "whole numbers"),
        (f"scrypt$\u0662$1$1${S}${H}", "whole numbers"),
        (f"scrypt$2$1$${S}${H}", "whole numbers"),
        (f"scrypt$9999999999$1$1${S}${H}", "whole numbers"),
        (f"scrypt$1$1$1${S}${H}", "power of two"),
        (f"scrypt$3$1$1${S}${H}", "power of two"),
        (f"scrypt$2$0$1${S}${H}", "power of two"),
        (f"scrypt$2$1$0${S}${H}", "power of two"),
        (f"scrypt$2$1$17${S}${H}", "power of two"),
        (f"scrypt$1048576$8$1${S}${H}", "128 MiB"),
        (f"scrypt$2$1$1$${H}", "salt"),
        (f"scrypt$2$1$1$!${H}", "salt"),
        (f"scrypt$2$1$1$é${H}", "salt"),
        (f"scrypt$2$1$1${S}$AAAA", "hash"),
        (f"scrypt$2$1$1${S}${H * 3}", "hash"),
    ],
)
def test_bad_hashes(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        ScryptHash.parse(text)


@pytest.mark.parametrize(("n", "r", "p"), [(2**10, 8, 16), (2**17, 8, 1), (2, 2**16, 1), (2, 1, 16)])
def test_what_is_accepted_can_be_computed(n: int, r: int, p: int) -> None:
    assert ScryptHash.parse(f"scrypt${n}${r}${p}${S}${H}").matches("x") is False


# -- the table -----------------------------------------------------------------------------------


def test_passwords_as_one_argument() -> None:
    assert parse_passwords(f"{TOKEN}:pass:word, {OTHER}:{CHEAP}") == {TOKEN: "pass:word", OTHER: str(CHEAP)}


def test_passwords_as_lines() -> None:
    text = f"# who\r\n\n  {TOKEN}:with, comma and end \n{OTHER}:{CHEAP}\n"
    assert parse_password_lines(text) == {TOKEN: "with, comma and end ", OTHER: str(CHEAP)}
    assert parse_password_lines("# nothing\n") == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "passwords: pair 1 is empty; give token:password"),
        (f"{TOKEN}:x,", "passwords: pair 2 is empty; give token:password"),
        (f"{TOKEN}:x,,", "passwords: pair 2 is empty; give token:password"),
        (TOKEN, "passwords: pair 1 has no colon; give token:password"),
        (f"{OTHER}:x, {TOKEN}", "passwords: pair 2 has no colon; give token:password"),
        (":secret", "passwords: pair 1 has no token; give token:password"),
        (f"{TOKEN}:", "passwords: pair 1 has no password; give token:password"),
        (f"{TOKEN}:x,{TOKEN}:y", "passwords: pair 2 repeats the token of an earlier one"),
        (f"{TOKEN}:{'x' * 1025}", "passwords: the password of pair 1 is longer than 1024 bytes"),
    ],
)
def test_bad_pairs(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_passwords(text)
    assert str(caught.value) == problem


def test_passwords_as_a_mapping() -> None:
    assert password_table({}) == {}
    table = password_table({TOKEN: "with:colon, comma", OTHER: str(CHEAP)})
    assert table == {token_digest(TOKEN): PlainPassword.of("with:colon, comma"), token_digest(OTHER): CHEAP}
    with pytest.raises(ConfigError, match=r"the token of pair 1: .*':'"):
        password_table({f"{TOKEN}:x": "y"})
    with pytest.raises(ConfigError, match="tokens: pair 1 has no password"):
        password_table({TOKEN: ""}, name="tokens")


@pytest.mark.parametrize(
    ("token", "problem"), [("secret-15-chars", "at least 16"), ("sécret-of-16-chars", "visible")]
)
def test_bad_tokens(token: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=f"the token of line 1: .*{problem}") as caught:
        parse_password_lines(f"{token}:x", name="TUNNELKIT_PASSWORDS")
    assert caught.value.field == "TUNNELKIT_PASSWORDS"


def test_a_bad_hash_names_its_pair() -> None:
    with pytest.raises(ConfigError, match="the password of pair 1: a hash must read"):
        parse_passwords(f"{TOKEN}:scrypt$oops")


def error_of(parse: Callable[[str], object], text: str) -> str:
    try:
        parse(text)
    except ConfigError as error:
        return f"{error} {error.__cause__}"
    return ""


@given(st.text(max_size=60))
def test_errors_show_no_secret(text: str) -> None:
    secret = "hunter2-hunter2-hunter2"
    for parse in (parse_passwords, parse_password_lines):
        assert secret not in error_of(parse, f"{secret}{text}")


def test_nothing_shows_a_secret() -> None:
    credentials = Credentials(password_table({TOKEN: "hunter2", OTHER: str(CHEAP)}), key=KEY)
    plan = credentials.check_plan(OTHER, "hunter3")
    shown = f"{credentials!r} {plan!r} {PlainPassword.of('hunter2')!r}"
    assert "hunter" not in shown
    assert str(CHEAP.digest) not in shown
    assert repr(credentials) == "<Credentials tokens=2>"


# -- checking ------------------------------------------------------------------------------------


def test_a_token_without_password_needs_none() -> None:
    credentials = Credentials({}, key=KEY)
    assert not credentials.required(TOKEN)
    assert credentials.check_plan(TOKEN, None) == Verified()
    assert credentials.check_plan(TOKEN, "whatever") == Verified()


@pytest.mark.parametrize(
    ("password", "answer"),
    [("right", Verified()), ("Right", Refused()), ("", Refused()), (None, Refused()), ("x" * 1025, Refused())],
)
def test_a_plain_password(password: str | None, answer: object) -> None:
    credentials = Credentials(password_table({TOKEN: "right"}), key=KEY)
    assert credentials.required(TOKEN)
    assert credentials.check_plan(TOKEN, password) == answer


@pytest.mark.parametrize("password", ["pässwörd", "\udcff\udcfe", "日本"])
def test_any_password_will_do(password: str) -> None:
    credentials = Credentials(password_table({TOKEN: password}), key=KEY)
    assert credentials.check_plan(TOKEN, password) == Verified()
    secret = hash_password(password, SALT, n=2, r=1, p=1)
    assert secret.matches(password)


def test_a_hashed_password_is_verified_once() -> None:
    credentials = Credentials({token_digest(TOKEN): CHEAP}, key=KEY)
    assert credentials.check_plan(TOKEN, None) == Refused()
    wrong = credentials.check_plan(TOKEN, "wrong")
    assert isinstance(wrong, NeedsHash)
    assert not verify_hash(wrong)
    plan = credentials.check_plan(TOKEN, "right")
    assert isinstance(plan, NeedsHash)
    assert verify_hash(plan)
    credentials.remember(plan)
    assert credentials.check_plan(TOKEN, "right") == Verified()
    assert isinstance(credentials.check_plan(TOKEN, "wrong"), NeedsHash)


def test_what_was_verified_is_kept_by_a_digest_with_the_key() -> None:
    plans = [Credentials({token_digest(TOKEN): CHEAP}, key=key).check_plan(TOKEN, "right") for key in (KEY, b"other")]
    keys = {plan.key for plan in plans if isinstance(plan, NeedsHash)}
    assert len(keys) == 2


def test_what_was_verified_is_bounded_and_the_oldest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VERIFIED_LIMIT", 2)
    credentials = Credentials({token_digest(TOKEN): CHEAP}, key=KEY)
    plans = [credentials.check_plan(TOKEN, str(number)) for number in range(3)]
    for plan in plans[:2]:
        assert isinstance(plan, NeedsHash)
        credentials.remember(plan)
    assert credentials.check_plan(TOKEN, "0") == Verified()  # used: 1 is the oldest now
    assert isinstance(plans[2], NeedsHash)
    credentials.remember(plans[2])
    answers = [credentials.check_plan(TOKEN, str(number)) for number in range(3)]
    assert [isinstance(answer, Verified) for answer in answers] == [True, False, True]


# -- failures ------------------------------------------------------------------------------------


def test_so_many_failures_a_minute_and_no_more() -> None:
    limiter = FailureLimiter(3)
    assert limiter.blocked("1.2.3.4", 0.0) is None
    for now in (0.0, 10.0, 20.0):
        assert limiter.blocked("1.2.3.4", now) is None
        limiter.failed("1.2.3.4", now)
    assert limiter.blocked("1.2.3.4", 20.0) == 40.0
    assert limiter.blocked("5.6.7.8", 20.0) is None
    assert limiter.blocked("1.2.3.4", 60.0) is None
    limiter.failed("1.2.3.4", 60.0)
    assert limiter.blocked("1.2.3.4", 60.0) == 10.0


def test_sources_are_bounded_and_the_one_that_failed_longest_ago_goes_first() -> None:
    limiter = FailureLimiter(1, max_sources=2)
    for now, source in enumerate(["a", "b", "a", "c"]):
        limiter.failed(source, float(now))
    assert [source for source in "abc" if limiter.blocked(source, 4.0) is not None] == ["a", "c"]
    assert repr(limiter) == "<FailureLimiter sources=2>"


@given(st.lists(st.floats(0, 300), max_size=60).map(sorted), st.integers(1, 5))
def test_no_minute_holds_more_failures_than_the_limit(times: list[float], limit: int) -> None:
    limiter = FailureLimiter(limit)
    let = []
    for now in times:
        if limiter.blocked("x", now) is None:
            limiter.failed("x", now)
            let.append(now)
    for start in let:
        assert sum(1 for now in let if start <= now < start + 59.999) <= limit


# -- one password for all the others -------------------------------------------------------------


def test_a_password_for_all_tokens_that_have_none() -> None:
    credentials = Credentials(password_table({TOKEN: "own"}), key=KEY, for_others=parse_secret("shared"))
    assert credentials.required_of_all
    assert credentials.required(OTHER)
    assert credentials.tokens == {token_digest(TOKEN)}
    assert credentials.check_plan(OTHER, "shared") == Verified()
    assert credentials.check_plan(OTHER, "own") == Refused()
    assert credentials.check_plan(OTHER, None) == Refused()
    assert credentials.check_plan(TOKEN, "own") == Verified()
    assert credentials.check_plan(TOKEN, "shared") == Refused()  # its own counts
    assert not Credentials({}, key=KEY).required_of_all


def test_that_password_may_be_a_hash() -> None:
    credentials = Credentials({}, key=KEY, for_others=parse_secret(str(CHEAP)))
    plan = credentials.check_plan(OTHER, "right")
    assert isinstance(plan, NeedsHash)
    assert verify_hash(plan)


@pytest.mark.parametrize(
    ("secret", "problem"),
    [
        ("", "must not be empty"),
        ("x" * 1025, "it is longer than 1024 bytes"),
        ("scrypt$secret", "it: a hash must read"),
    ],
)
def test_what_is_no_secret(secret: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        parse_secret(secret)
    assert caught.value.field == "secretkey"
    assert "$secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", ""),
        ("no:address", "no:address"),
    ],
)
def test_what_attempts_are_counted_by(address: str, counted: str) -> None:
    assert attempts_from(address) == counted
