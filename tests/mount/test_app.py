"""The tunnel server as an ASGI app: which scopes it takes, and how it follows its host's lifespan."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest

from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.mount.app import MountedServer

from .host import Host

pytestmark = pytest.mark.anyio


def mounted(life: list[str], *, fails: str = "") -> MountedServer:
    """Of a server that fails when it starts, while it runs or when it ends."""

    @asynccontextmanager
    async def lifespan() -> AsyncGenerator[None]:
        life.append("up")
        if fails == "startup":
            raise OSError("the address is taken")
        yield
        life.append("down")
        if fails == "shutdown":
            raise OSError("it broke")

    return MountedServer(limits=DEFAULT_LIMITS, running=lambda: None, lifespan=lifespan)


async def test_it_lives_as_long_as_its_host() -> None:
    host, life = Host(), list[str]()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            host.give("lifespan.startup")
            group.start_soon(mounted(life), {"type": "lifespan"}, host.receive, host.send)
            await host.until(lambda: host.sent)
            assert (host.types(), life) == (["lifespan.startup.complete"], ["up"])
            host.give("lifespan.shutdown")
    assert (host.types()[1:], life) == (["lifespan.shutdown.complete"], ["up", "down"])


@pytest.mark.parametrize("stage", ["startup", "shutdown"])
async def test_a_server_that_fails_says_when(stage: str) -> None:
    host = Host()
    host.give("lifespan.startup")
    host.give("lifespan.shutdown")
    with anyio.fail_after(10), pytest.raises(OSError):  # noqa: PT011
        await mounted([], fails=stage)({"type": "lifespan"}, host.receive, host.send)
    assert host.types()[-1] == f"lifespan.{stage}.failed"
    assert "lifespan.startup.failed" not in host.types()[1:], "it had started"


async def test_other_scopes_are_refused() -> None:
    host = Host()
    with pytest.raises(ValueError, match="scope"):
        await mounted([])({"type": "telegraph"}, host.receive, host.send)
