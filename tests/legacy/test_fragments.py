"""Websocket messages piece by piece, against frames that wsp's programs sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tunnelkit.errors import ConnectionLost, RemoteProtocolError
from tunnelkit.legacy.fragments import TURN, Fragment, FragmentSocket
from tunnelkit.net.memory import MemoryStream, memory_pair

pytestmark = pytest.mark.anyio

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "wsp.json").read_text(encoding="utf-8"))
MASK = bytes(4)


async def read_exactly(stream: MemoryStream, size: int) -> bytes:
    data = b""
    with anyio.fail_after(10):
        while len(data) < size:
            data += await stream.receive(size - len(data))
    return data


async def test_the_captured_greeting_is_text() -> None:
    near, far = memory_pair()
    await far.send(bytes.fromhex(VECTORS["greeting"]["frame"]))
    fragment = await FragmentSocket(near, client=False).receive()
    assert fragment == Fragment(VECTORS["greeting"]["text"].encode(), last=True, text=True)


async def test_text_is_refused_where_none_is_spoken() -> None:
    near, far = memory_pair()
    await far.send(bytes.fromhex(VECTORS["greeting"]["frame"]))
    with pytest.raises(RemoteProtocolError, match="text message"):
        await FragmentSocket(near, client=False, texts=False).receive()


async def test_a_request_goes_out_as_theirs_does() -> None:
    near, far = memory_pair()
    vector = VECTORS["request"]
    socket = FragmentSocket(near, client=False)
    await socket.send_text(vector["text"].encode())
    await socket.send_fragment(b"", last=True)
    expected = bytes.fromhex(vector["head"]) + vector["text"].encode() + bytes.fromhex(vector["body"])
    assert await read_exactly(far, len(expected)) == expected


async def test_fragments_of_their_client_come_as_they_are_with_an_empty_last_one() -> None:
    near, far = memory_pair()
    first, more, last = [bytes.fromhex(head) for head in VECTORS["fragments"]["by_client"]]
    socket = FragmentSocket(near, client=False)
    await far.send(first + MASK + b"a" * 4096 + more + MASK + b"b" * 4096 + last + b"\x80" + MASK)
    whole, ended = b"", False
    while not ended:
        fragment = await socket.receive()
        assert not fragment.text
        whole, ended = whole + fragment.data, fragment.last
    assert whole == b"a" * 4096 + b"b" * 4096


async def test_a_body_goes_out_piece_by_piece() -> None:
    near, far = memory_pair()
    socket = FragmentSocket(near, client=False)
    await socket.send_fragment(b"x" * 4082, last=False)
    await socket.send_fragment(b"", last=True)
    expected = bytes.fromhex(VECTORS["fragments"]["by_server"][0]) + b"x" * 4082 + b"\x80\x00"
    assert await read_exactly(far, len(expected)) == expected


async def test_a_connection_that_is_gone_is_told() -> None:
    near, far = memory_pair()
    socket = FragmentSocket(near, client=False)
    far.abort()
    with pytest.raises(ConnectionLost):
        await socket.receive()
    with pytest.raises(ConnectionLost):
        await socket.send_text(b"a")
    with pytest.raises(ConnectionLost):
        await socket.send_fragment(b"a", last=True)


async def test_nothing_is_sent_to_a_peer_that_closes() -> None:
    near, far = memory_pair()
    socket = FragmentSocket(near, client=False)
    await far.send(b"\x88\x82" + MASK + b"\x03\xe8")
    with pytest.raises(ConnectionLost, match="closed with code 1000"):
        await socket.receive()
    with pytest.raises(ConnectionLost, match="closes"):
        await socket.send_text(b"{}")
    with pytest.raises(ConnectionLost, match="closes"):
        await socket.send_fragment(b"abc", last=False)
    with pytest.raises(ConnectionLost, match="closes"):
        await socket.send([b"abc"], wanted=lambda: True)
    await socket.aclose(1000)
    assert await read_exactly(far, 4) == b"\x88\x02\x03\xe8"


async def test_pings_are_answered_between_fragments() -> None:
    near, far = memory_pair()
    socket = FragmentSocket(near, client=False)
    await socket.send_fragment(b"a", last=False)
    assert await read_exactly(far, 3) == b"\x02\x01a"
    await far.send(b"\x89\x80" + MASK + b"\x82\x80" + MASK)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(socket.answer_pings)
        assert await socket.receive() == Fragment(b"", last=True)
        assert await read_exactly(far, 2) == b"\x8a\x00"
        tasks.cancel_scope.cancel()


async def test_thousands_of_tiny_fragments_leave_the_others_their_turns() -> None:
    near, far = memory_pair()
    tiny = b"\x02\x81" + MASK + b"x"
    await far.send(tiny + (b"\x00" + tiny[1:]) * 2000)
    socket = FragmentSocket(near, client=False)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with anyio.create_task_group() as group:
        group.start_soon(count)
        for _ in range(2001):
            assert await socket.receive() == Fragment(b"x", last=False)
        group.cancel_scope.cancel()
    assert turns >= 2001 // TURN // 2


async def test_a_peer_that_takes_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnelkit.legacy.fragments.WRITE_TIMEOUT", 0.05)
    near, _ = memory_pair()
    socket = FragmentSocket(near, client=True)
    with anyio.fail_after(10), pytest.raises(ConnectionLost, match=r"took nothing for 0\.05 s"):
        await socket.send_fragment(b"x" * 10_000_000, last=False)


async def test_a_ping_goes_between_the_fragments_of_a_long_message() -> None:
    near, far = memory_pair()
    socket = FragmentSocket(near, client=False)
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: socket.send([b"x" * 60_000] * 20, wanted=lambda: True))
        await anyio.wait_all_tasks_blocked()  # the peer takes nothing yet
        await socket.ping()
        sent = b""
        with anyio.fail_after(10):
            while b"\x80\x7e\xea\x60" not in sent:  # the last fragment's head
                sent += await far.receive()
    assert b"x\x89\x00\x00" in sent
