"""What a transport has that leaves a half out."""

from __future__ import annotations

import anyio
import pytest

from tunnelkit.errors import ConfigError
from tunnelkit.handshake import Handshake, Refusal
from tunnelkit.net.dial import Dial
from tunnelkit.transports.base import Accepted, Peer, Transport

from .stubs import dial_request
from .test_websocket import FakeRequest

pytestmark = pytest.mark.anyio


class Half(Transport):
    name = "half"


async def no_offer(handshake: Handshake, peer: Peer) -> Accepted | Refusal:
    raise AssertionError("nothing to offer")


async def test_a_half_that_is_missing_says_so() -> None:
    with pytest.raises(ConfigError, match="transport: 'half' has no client half"):
        await Half().dial(dial_request(Handshake(token="t" * 16), Dial()))
    with pytest.raises(TypeError, match="'half' is not mounted"):
        await Half().mounted(FakeRequest([]), no_offer)
    assert Half().mount_path() is None
    assert Half().own_path() is None


async def test_one_without_a_listener_is_started_at_once() -> None:
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            await tasks.start(lambda *, task_status: Half().listen(no_offer, task_status=task_status))
