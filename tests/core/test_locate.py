from __future__ import annotations

import pytest

from tunnelkit.core.locate import HERE, Directory, Node, OneNode, make_session_id, routing_tag
from tunnelkit.errors import ConfigError


@pytest.mark.parametrize("key", [b"\x00" * 32, "n1-0123456789abcdef", "elsewhere-0123456789abcdef"])
def test_one_node_has_all(key: bytes | str) -> None:
    directory: Directory = OneNode()
    assert directory.locate(key) is HERE


def test_nodes_are_values() -> None:
    assert Node("a") == Node("a") != Node("b")


def test_session_ids_carry_their_node() -> None:
    session_id = make_session_id("eu_1", "0123456789abcdef")
    assert session_id == "eu_1-0123456789abcdef"
    assert routing_tag(session_id) == "eu_1"


@pytest.mark.parametrize("node", ["", "a-b", "a b", "x" * 33, "é"])
def test_a_node_must_be_a_name(node: str) -> None:
    with pytest.raises(ConfigError, match="node"):
        make_session_id(node, "0123456789abcdef")


@pytest.mark.parametrize("random", ["", "short", "0123456789abcde-", "x" * 65])
def test_the_rest_must_be_random_enough(random: str) -> None:
    with pytest.raises(ValueError, match="random"):
        make_session_id("n", random)


@pytest.mark.parametrize(
    "text", ["", "n", "n-short", "n-0123456789abcdef\n", "a-b-0123456789abcdef", "-0123456789abcdef"]
)
def test_what_is_no_session_id_has_no_tag(text: str) -> None:
    assert routing_tag(text) is None
