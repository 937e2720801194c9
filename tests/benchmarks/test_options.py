"""What is measured when: rows, variants, sizes and other tunnels."""

from __future__ import annotations

import pytest
from benchmarks.options import FULL, NORMAL, QUICK, flags_in, parse_options
from benchmarks.rows import ALL_ROWS
from benchmarks.variants import SPEED, Variant, all_variants, parse_variants


def test_defaults() -> None:
    options = parse_options([], {})
    assert options.settings == NORMAL
    assert options.rows == ALL_ROWS
    assert Variant() in options.variants
    assert options.peers == []


def test_names_of_rows_are_unique() -> None:
    names = [row.name for row in ALL_ROWS]
    assert len(names) == len(set(names))


def test_rows_come_in_the_order_of_the_table() -> None:
    assert [row.name for row in parse_options(["--rows", "up, get1"], {}).rows] == ["get1", "up"]


@pytest.mark.parametrize(("flag", "base"), [("--quick", QUICK), ("--full", FULL)])
def test_single_sizes_change_the_chosen_set(flag: str, base: object) -> None:
    options = parse_options([flag, "--rounds", "2"], {})
    assert options.settings.rounds == 2
    assert {**vars(options.settings), "rounds": 0} == {**vars(base), "rounds": 0}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rows", "get1,got2"], "got2: no such row"),
        (["--variants", "asyncio-fast"], "'asyncio-fast' is no variant"),
        (["--variants", "uvloop-bare"], "'uvloop-bare' is no variant"),
        (["--variants", " , "], "name at least one variant"),
        (["--quick", "--full"], "not allowed with"),
        (["--rounds", "0"], "at least 1"),
        (["--rows", ","], "name at least one row"),
        (["--seconds", "0.5"], "a whole number"),
        (["--seconds", "inf"], "a whole number"),
        (["--sessions", "100"], "say more than 100"),
        (["--json", "/nowhere/figures.json"], "/nowhere/figures.json: No such file or directory"),
    ],
)
def test_a_wrong_argument_is_told(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_options(arguments, {})
    assert says in capsys.readouterr().err


def test_every_variant_has_a_name_of_its_own() -> None:
    assert parse_variants("all") == all_variants()
    assert parse_variants(",".join(variant.name for variant in all_variants())) == all_variants()


def test_variants_are_named_by_what_differs_from_the_default() -> None:
    assert parse_variants("trio-streamed-tls-bare, asyncio,asyncio") == [
        Variant("trio", "streamed", tls=True, speed=False),
        Variant(),
    ]


def test_what_a_variant_does_not_find() -> None:
    assert Variant().hidden == ("uvloop",)
    assert Variant("uvloop").hidden == ()
    assert Variant("trio", speed=False).hidden == SPEED


def test_flags_of_the_programs_are_not_taken_from_the_environment() -> None:
    environment = {"TUNNELKIT_PARSER": "h11", "TUNNELKIT_BENCH_WSP_SERVER": "exec wsp", "PATH": "/bin"}
    assert flags_in(environment) == ["TUNNELKIT_PARSER"]


def test_other_tunnels_come_from_the_environment() -> None:
    environment = {
        "TUNNELKIT_BENCH_WSP_SERVER": "serve {port}",
        "TUNNELKIT_BENCH_WSP_CLIENT": "dial {port}",
        "TUNNELKIT_BENCH_WSP_PATH": "/request",
        "TUNNELKIT_BENCH_WSP_FIELDS": "X-PROXY-DESTINATION: {origin}{path}",
        "PATH": "/bin",
    }
    (peer,) = parse_options([], environment).peers
    assert (peer.name, peer.server, peer.client, peer.path) == ("wsp", "serve {port}", "dial {port}", "/request")
    assert peer.fields == "X-PROXY-DESTINATION: {origin}{path}"


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"TUNNELKIT_BENCH_WSP": "wsp"}, "TUNNELKIT_BENCH_WSP: name it"),
        ({"TUNNELKIT_BENCH_WSP_SERVER": "wsp"}, "TUNNELKIT_BENCH_WSP_CLIENT: is missing"),
        (
            {"TUNNELKIT_BENCH_ASYNCIO_SERVER": "a", "TUNNELKIT_BENCH_ASYNCIO_CLIENT": "b"},
            "'asyncio' is the name of a way of our own",
        ),
    ],
)
def test_a_wrong_variable_is_told(environment: dict[str, str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_options([], environment)
    assert says in capsys.readouterr().err
