"""From arguments to an exit status: what both command lines do around their own work."""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import TaskStatus

from tunnelkit import __version__
from tunnelkit.accelerators import find_accelerators
from tunnelkit.errors import ConfigError, TunnelkitError

from . import notify
from .console import fail, warn
from .files import open_to_others, pidfile
from .logs import logging_to
from .options import Option, Refused
from .parsing import Settings, UsageError, help_text, parse
from .rules import place_of

__all__ = [
    "Stop",
    "in_flags",
    "keep_freed_memory",
    "log_start",
    "run_program",
    "spare_what_stays",
    "timing",
    "warn_of_open_files",
]

logger = logging.getLogger("tunnelkit")

Options = Sequence[Option | Refused]
MIN_TIMEOUT, MAX_TIMEOUT = 3.0, 600.0
KEPT = 16 * 1024 * 1024  # bytes
# Flags whose names are WStunnel's, by what the library calls them.
RENAMED = {"url": "tunnel", "origin": "server", "allow": "regexp", "host": "host_header", "names": "name"}
# What stands in files alone, by what the library calls it.
OF_TABLES = {"policies": "[[token]]: policy", "callers": "--callers-file or [[token]]: callers"}


def timing(flag: str, seconds: float | None) -> dict[str, float]:
    """The limits that WStunnel's timeout T means: ping after 2T/3 of silence, T/3 to answer; while requests run, a
    silent peer is noticed within 10 s."""
    if seconds is None:
        return {}
    bounded = min(max(seconds, MIN_TIMEOUT), MAX_TIMEOUT)
    if bounded != seconds:
        warn(f"--{flag}: {seconds:g} s is out of range; {bounded:g} s is used (3 to 600)")
    active = min(10.0, bounded)
    return {
        "ping_idle_silence": bounded * 2 / 3,
        "ping_idle_timeout": bounded / 3,
        "ping_active_silence": active / 2,
        "ping_active_timeout": active / 2,
    }


def keep_freed_memory() -> None:
    """Let malloc keep some of what is freed, for the next pieces of long bodies.

    glibc gives the end of its heap back to the kernel whenever 128 KiB of it are free, and has it anew, page by page,
    a moment later: a tenth of the time of a long body. It keeps twice the size of the largest block that was mapped
    by itself and freed (mallopt(3), M_MMAP_THRESHOLD). No page of this one is ever touched.
    """
    bytes(KEPT // 2)


def spare_what_stays() -> None:
    """Have Python's cycle collector pass over all that there is by now: modules, and what was read from files.

    It goes through everything again and again, for 20 ms at a time in which no request moves, once there are so many
    new objects as a quarter of the old ones; with new connections that is every half second. None of these goes away.
    """
    gc.collect()
    gc.freeze()


class Stop:
    """SIGTERM or SIGINT asks for an orderly end, a second one for an end now. SIGHUP asks to read files again, or,
    where there are none to read, for an end too."""

    def __init__(self) -> None:
        self.drain = anyio.Event()
        self.cut = anyio.Event()

    async def watch(
        self,
        reload: Callable[[], Awaitable[None]] | None = None,
        *,
        task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        wanted = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]
        with anyio.open_signal_receiver(*wanted) as signals:
            task_status.started()
            async for number in signals:
                if reload is not None and number not in (signal.SIGTERM, signal.SIGINT):
                    await reload()
                else:
                    event, what = (self.cut, "cutting") if self.drain.is_set() else (self.drain, "draining")
                    logger.info("%s: %s", signal.Signals(number).name, what)
                    notify.stopping(what)
                    event.set()

    async def unless_cut(self, drain: Callable[[float], Awaitable[object]], timeout: float) -> None:
        """Let ``drain`` take its time, but end it at the second signal."""
        async with anyio.create_task_group() as tasks:

            async def cut() -> None:
                await self.cut.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(cut)
            await drain(timeout)
            tasks.cancel_scope.cancel()


def run_program(
    purpose: str,
    options: Options,
    tables: Mapping[str, Options],
    main: Callable[[Settings], Awaitable[int]],
    arguments: Sequence[str] | None = None,
) -> int:
    """Parse, set up, run ``main`` and give its exit status: 2 for a wrong setting, 1 for another failure."""
    name = Path(sys.argv[0]).name
    try:
        settings = parse(options, sys.argv[1:] if arguments is None else arguments, os.environ, tables)
        if settings["help"]:
            print(help_text(name, purpose, options))
            return 0
        if settings["version"]:
            print(f"tunnelkit {__version__}")
            return 0
        keep_freed_memory()
        with logging_to(settings), pidfile(settings["pidfile"]):
            warn_of_open_files(settings, [*options, *chain.from_iterable(tables.values())])
            spare_what_stays()
            return anyio.run(main, settings, **_backend(settings))
    except UsageError as error:
        fail(str(error))
    except ConfigError as error:
        fail(in_flags(error, settings))
    except TunnelkitError as error:
        fail(str(error))
        return 1
    return 2


def in_flags(error: ConfigError, settings: Settings) -> str:
    """The library's message in the words of the command line."""
    fix = re.sub(
        r"[a-z]+_[a-z_]+", lambda word: settings.name(word[0]) if word[0] in settings else word[0], error.fix
    )
    return f"{_given_as(error.field, settings)}: {error.problem}" + (f"; {fix}" if fix else "")


def _given_as(field: str, settings: Settings) -> str:
    """What the user gave, for an argument of the library."""
    if (place := place_of(field, settings)) is not None:
        return place
    if field == "listen" and settings.given & {"host", "port"}:
        return "--host and --port"
    if field in ("passwords", "secretkey") and field not in settings.given:
        field = f"{field}_file"
    if field in OF_TABLES:
        return OF_TABLES[field]
    return settings.name(RENAMED.get(field, field))


def _backend(settings: Settings) -> dict[str, Any]:
    if settings["backend"] == "asyncio":
        return {"backend": "asyncio", "backend_options": {"use_uvloop": _takes_uvloop(settings)}}
    if importlib.util.find_spec("trio") is None:
        raise UsageError("--backend: trio is not installed; pip install trio, or leave the flag out")
    return {"backend": "trio"}


def _takes_uvloop(settings: Settings) -> bool:
    return not settings["no_uvloop"] and importlib.util.find_spec("uvloop") is not None


def log_start(settings: Settings) -> None:
    """What decides the speed, in one line."""
    backend = settings["backend"]
    loop = " with uvloop" if backend == "asyncio" and _takes_uvloop(settings) else ""
    found = find_accelerators(settings["parser"])
    runs = "; its modules are compiled" if found.compiled else ""
    logger.info(
        "runs on %s%s; heads are read by %s, frames masked by %s%s", backend, loop, found.parser, found.masker, runs
    )


def warn_of_open_files(settings: Settings, options: Options) -> None:
    """``options``: those of the tables too."""
    names = ("token_file", "passwords_file", "callers_file", "admin_password_file", "tls_key")
    files = [settings.get(key) for key in names]
    secrets = {option.key for option in options if isinstance(option, Option) and option.secret}
    if any(_holds_any(each, secrets) for each in [settings, *chain.from_iterable(settings.tables.values())]):
        files.append(settings["config"])
    for path in files:
        if path is not None and (text := open_to_others(path)):
            warn(text)


def _holds_any(settings: Settings, secrets: AbstractSet[str]) -> bool:
    """Whether the file has one of them there. A URL is one if somebody's name and password stand in it."""
    return any(key not in _URLS or "@" in str(settings[key]) for key in settings.from_file & secrets)


_URLS = {"tunnel", "proxy"}
