from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest

from tunnelkit.config import DEFAULT_LIMITS, Limits
from tunnelkit.errors import ConfigError


def test_the_defaults_are_valid_and_frozen() -> None:
    assert Limits() == DEFAULT_LIMITS
    with pytest.raises(FrozenInstanceError):
        DEFAULT_LIMITS.grace = 1.0  # type: ignore[misc]


def test_detection() -> None:
    assert DEFAULT_LIMITS.detection_active == 10.0


@pytest.mark.parametrize("name", [field.name for field in fields(Limits)])
@pytest.mark.parametrize("value", [-1, "1", True, None, float("nan")])
def test_every_field_is_a_number_that_is_not_negative(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as raised:
        replace(DEFAULT_LIMITS, **{name: value})
    assert raised.value.field == name


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"send_buffer": 0}, "send_buffer"),
        ({"dial_timeout": 0}, "dial_timeout"),
        ({"max_streams": 1.5}, "max_streams"),
        ({"grace": 21.9}, "grace"),
        ({"dial_timeout": 20.0}, "grace"),
        ({"stream_floor": 2**20}, "stream_first_window"),
        ({"stream_first_window": 5 * 2**20}, "stream_first_window"),
        ({"frame_payload": 65_536}, "frame_payload"),
        ({"head_limit": 81 * 1024}, "head_limit"),
        ({"replay_limit": 8 * 1024 - 1, "replay_floor": 1024}, "replay_limit"),
        ({"replay_floor": 5 * 2**20}, "replay_floor"),
        ({"max_streams": 1537}, "receive_budget"),
        ({"receive_budget": 1000 * 16 * 1024 - 1}, "receive_budget"),
    ],
)
def test_what_does_not_fit_together(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as raised:
        replace(DEFAULT_LIMITS, **changes)
    assert raised.value.field == field


def test_the_shortest_grace_is_named() -> None:
    with pytest.raises(ConfigError, match=r"= 22 s"):
        Limits(grace=5.0)


def test_the_smallest_that_fits_together() -> None:
    Limits(replay_limit=8 * 1024)
    Limits(receive_budget=1000 * 16 * 1024)
    with pytest.raises(ConfigError, match=r"max_streams \* stream_floor = 32768000 bytes"):
        Limits(max_streams=2000)


@pytest.mark.parametrize("name", ["max_clients_per_token", "connections_per_address", "startup_wait"])
def test_zero_means_none_or_unlimited_for_some(name: str) -> None:
    assert getattr(replace(DEFAULT_LIMITS, **{name: 0}), name) == 0


def test_a_whole_number_will_do_for_seconds() -> None:
    assert Limits(queue_timeout=5).queue_timeout == 5
