"""The faults, each as a function: it does harm while callers run, and checks what they were told.

All of them end with a tunnel that serves again. What they return is for people: what callers were told how often, and
how long it took until they were served again.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import anyio
from anyio.to_thread import run_sync

from ..e2e.tunnel import until
from .callers import Call, Pace, Traffic, crowd, pending, served_again, traffic
from .ends import End, Figures, Tunnel
from .places import ROOT, Link, SmallDisk

__all__ = [
    "FULL",
    "SHORT_FORM",
    "Fault",
    "Form",
    "LongFault",
    "Report",
    "client_killed",
    "client_paused",
    "disk_full",
    "leaves_nothing",
    "link_lost",
    "server_killed",
    "server_paused",
    "server_restarted",
]

WHOLE = "whole"
BROKEN = "broken"
UNREACHED = "unreached"
# What tunnelkit tells of itself: the request was sent and is lost; the server goes away and took nothing.
LOST = "502 tunnel_lost sent"
DRAINING = "503 draining "
# Where the clocks of the request (`response_head_timeout`, `queue_timeout`: 60 s) are over first.
LATE = ("504 response_timeout sent", "504 queue_timeout never_sent")


@dataclass(frozen=True)
class Form:
    """How hard and how long."""

    pace: Pace
    brief: float  # seconds of a pause or an outage that ends within the grace,
    long: float  # and of one that does not
    again: float  # the most until callers are served after a fault


SHORT_FORM = Form(Pace(time=0.5), brief=1.0, long=3.5, again=20)
FULL = Form(Pace(size=3_000_000, time=4, events=16, pause=0.1, each=2), brief=15, long=60, again=45)


@dataclass(frozen=True)
class Report:
    told: dict[str, int]
    again: float  # seconds

    def __str__(self) -> str:
        told = ", ".join(f"{count} {what}" for what, count in sorted(self.told.items()))
        return f"served again after {self.again:.1f} s; callers: {told}"


Fault: TypeAlias = Callable[[Tunnel, Form], Awaitable[Report]]


class LongFault(Protocol):
    """One that lasts."""

    async def __call__(self, tunnel: Tunnel, form: Form, seconds: float) -> Report: ...


async def _recovered(tunnel: Tunnel, callers: Traffic, form: Form) -> float:
    """Wait until callers of every kind have whole answers; how long the first of all took, in seconds."""
    began = anyio.current_time()
    again = await served_again(tunnel, form.again)
    await callers.whole_again(began, form.again + 2 * form.pace.time)
    return again


def _report(callers: Traffic, again: float, allowed: Iterable[str]) -> Report:
    told = dict(callers.told())
    assert set(told) <= {WHOLE, *allowed}, told
    return Report(told, again)


def _none_whole(calls: list[Call]) -> None:
    """An upload or a stream whose origin is gone for the caller cannot have succeeded."""
    assert not [call for call in calls if call.told == WHOLE], calls


# -- processes ---------------------------------------------------------------------------------


async def server_killed(tunnel: Tunnel, form: Form) -> Report:
    """Every caller's connection dies with it. After the start they wait for the client, which comes by itself."""
    async with traffic(tunnel, form.pace) as callers:
        amid = await callers.amid_bodies()
        tunnel.server.kill()
        await callers.over(amid)
        await run_sync(tunnel.start_server)
        again = await _recovered(tunnel, callers, form)
    assert {call.told for call in amid} == {BROKEN}
    return _report(callers, again, [BROKEN, UNREACHED])


async def client_killed(tunnel: Tunnel, form: Form) -> Report:
    """Who comes next is served by the next client. What was sent to the first is lost, and told when the grace is
    over: until then the server cannot know that it will not come back."""
    async with traffic(tunnel, form.pace) as callers:
        amid = await callers.amid_bodies()
        tunnel.client.kill()
        await run_sync(tunnel.start_client)
        again = await _recovered(tunnel, callers, form)
        await callers.over(amid)
    _none_whole([call for call in amid if call.target.startswith(("/sink", "/events"))])
    return _report(callers, again, [BROKEN, LOST])


async def server_restarted(tunnel: Tunnel, form: Form) -> Report:
    """In order: what runs is finished, and who comes meanwhile is told to come again. A connection that the kernel
    took just before the listener was closed is cut; nothing of it reached the origin."""
    async with traffic(tunnel, form.pace) as callers:
        amid = await callers.amid_bodies()
        tunnel.server.signal(signal.SIGTERM)
        assert await run_sync(tunnel.server.wait) == 0
        await run_sync(tunnel.start_server)
        again = await _recovered(tunnel, callers, form)
    assert {call.told for call in amid} == {WHOLE}
    assert not callers.arrived & {call.target for call in callers.ended if call.told == BROKEN}
    return _report(callers, again, [BROKEN, UNREACHED, DRAINING])


async def server_paused(tunnel: Tunnel, form: Form, seconds: float) -> Report:
    return await _paused(tunnel, tunnel.server, form, seconds)


async def client_paused(tunnel: Tunnel, form: Form, seconds: float) -> Report:
    return await _paused(tunnel, tunnel.client, form, seconds)


async def _paused(tunnel: Tunnel, end: End, form: Form, seconds: float) -> Report:
    return await _interrupted(tunnel, form, seconds, end.pause, end.resume)


# -- the link ----------------------------------------------------------------------------------


def link_lost(link: Link, seconds: float) -> Fault:
    """Neither end is told; what one of them sends is lost."""

    async def fault(tunnel: Tunnel, form: Form) -> Report:
        return await _interrupted(tunnel, form, seconds, link.down, link.up)

    return fault


async def _interrupted(
    tunnel: Tunnel, form: Form, seconds: float, begin: Callable[[], None], end: Callable[[], None]
) -> Report:
    """Shorter than the grace, nobody notices. Longer, what was sent may be lost, and callers are told so."""
    async with traffic(tunnel, form.pace) as callers:
        await callers.amid_bodies()
        begin()
        try:
            await anyio.sleep(seconds)  # the fault's length
        finally:
            end()
        again = await _recovered(tunnel, callers, form)
    return _report(callers, again, [] if seconds <= form.brief else [BROKEN, LOST, *LATE])


# -- the disk ----------------------------------------------------------------------------------

LOST_LINES = "log lines are lost until it can be written"
GAP = "log lines were lost here: No space left on device"


def disk_full(disk: SmallDisk) -> Fault:
    """Of the server's log: no caller notices. It says so once, and goes on with the log as soon as there is room."""

    async def fault(tunnel: Tunnel, form: Form) -> Report:
        told, gaps = tunnel.server.errors().count(LOST_LINES), disk.text("log").count(GAP)
        async with traffic(tunnel, form.pace) as callers:
            await callers.amid_bodies()
            await run_sync(disk.fill)
            await until(lambda: tunnel.server.errors().count(LOST_LINES) > told)
            again = await _recovered(tunnel, callers, form)
            await run_sync(_cannot_start, tunnel.server, disk)
            disk.free()
            await until(lambda: disk.text("log").count(GAP) > gaps)
        assert tunnel.server.errors().count(LOST_LINES) == told + 1
        assert "HTTP RET" in disk.text("log").rpartition(GAP)[2]
        return _report(callers, again, [])

    return fault


def _cannot_start(server: End, disk: SmallDisk) -> None:
    """Another one, with its pid file on the full disk: it says why, and leaves no empty file."""
    flags = ["--listen", "127.0.0.1:0", "--pidfile", str(disk.path / "other.pid")]
    ended = subprocess.run(
        [*server.place.prefix, sys.executable, "examples/tunnel_server.py", *flags],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=30,
    )
    assert ended.returncode == 2
    assert f"--pidfile: cannot write {disk.path}/other.pid: No space left on device" in ended.stderr
    assert not disk.has("other.pid")


# -- afterwards --------------------------------------------------------------------------------


async def leaves_nothing(tunnel: Tunnel, start: dict[str, Figures], fault: Fault, form: Form) -> Report:
    """``fault``, after which the server has no request, and both ends as many files and tasks as at the start."""
    report = await fault(tunnel, form)
    assert not await pending(tunnel)
    await crowd(tunnel)  # a client that was started again has kept no workers yet
    await tunnel.back_at(start)
    return report
