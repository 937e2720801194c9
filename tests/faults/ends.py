"""A tunnel whose parts are processes of their own: killed, stopped, started again, and measured from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import anyio
from anyio.to_thread import run_sync

from tunnelkit import Limits
from tunnelkit.config import DEFAULT_LIMITS

from ..e2e.ways import Way
from .places import ROOT, Link, Place, Surroundings

__all__ = ["TOKEN", "End", "Figures", "Tunnel", "only_linux", "open_linked", "open_tunnel"]

TOKEN = "a-token-for-the-faults"
MB = 1_000_000

# How a client is started over each way.
CLIENTS = {
    Way.AUTO: ("examples/tunnel_client.py", "auto"),
    Way.WEBSOCKET: ("examples/tunnel_client.py", "websocket"),
    Way.LONGPOLL: ("tests/e2e/strict_client.py", "longpoll"),
    Way.STREAMED: ("examples/tunnel_client.py", "longpoll"),
}

# The client's connections to its origin are kept alive for a minute. Here, until nothing is asked for a moment: what
# is left then is what a tunnel needs when it does nothing.
ALWAYS = {"origin_idle": 0.3, "keep_alive_idle": 0.5}


def only_linux() -> str:
    """Why nothing can be measured here; empty if it can."""
    return "" if sys.platform == "linux" else "only Linux tells a process's files and memory (/proc)"


@dataclass(frozen=True)
class Figures:
    """Of one process, as its outside sees them."""

    fds: int
    tasks: int
    memory: float  # resident, MB


class End:
    """A program that says on its standard output when it is ready; the same again after every start."""

    def __init__(self, place: Place, program: str, limits: Mapping[str, Any], errors: Path) -> None:
        self.place = place
        self.flags: list[str] = []
        self.said = ""  # behind the line that told it was ready
        self._program = program
        self._limits = json.dumps(dict(limits))
        self._errors = errors
        self._popen: subprocess.Popen[bytes] | None = None
        self._answers = -1

    def start(self, said: str) -> str:
        """Start the program, wait for a line that begins with ``said``, and give the rest of it."""
        assert self._popen is None, "runs already"
        self._answers, answers = os.pipe()
        watched = ["-m", "tests.faults.watched", str(answers), self._limits, self._program]
        with open(self._errors, "ab") as errors:
            self._popen = subprocess.Popen(
                [*self.place.prefix, sys.executable, "-u", *watched, *self.flags],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                pass_fds=(answers,),
            )
        os.close(answers)
        assert self._popen.stdout is not None
        line = self._popen.stdout.readline().decode()
        assert line.startswith(said), (line, self.errors())
        self.said = line.removeprefix(said).strip()
        return self.said

    @property
    def pid(self) -> int:
        assert self._popen is not None, "does not run"
        return self._popen.pid

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def pause(self) -> None:
        """Nothing of it runs until ``resume``; the kernel goes on with its sockets."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """As kill -9 does it: without a word, at whatever it is doing."""
        self.signal(signal.SIGKILL)
        self.wait()

    def wait(self, timeout: float = 60) -> int:
        """Until it has ended; its exit status."""
        assert self._popen is not None
        status = self._popen.wait(timeout)
        for pipe in (self._popen.stdin, self._popen.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()
        os.close(self._answers)
        self._popen = None
        return status

    def close(self) -> None:
        if self._popen is not None:
            self.kill()

    # -- seen from outside ---------------------------------------------------------------------

    def figures(self) -> Figures:
        return Figures(len(os.listdir(f"/proc/{self.pid}/fd")), self.ask()["tasks"], self._resident())

    def _resident(self) -> float:
        # Not Pss: it rises when another process that has the same libraries ends.
        text = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        (line,) = [line for line in text.splitlines() if line.startswith("Rss:")]
        return int(line.split()[1]) * 1024 / MB

    def ask(self, question: str = "tasks") -> dict[str, Any]:
        """What ``watched.py`` answers. Blocks until the event loop had a turn."""
        assert self._popen is not None
        assert self._popen.stdin is not None
        self._popen.stdin.write(question.encode() + b"\n")
        self._popen.stdin.flush()
        answer = b""
        while not answer.endswith(b"\n"):
            piece = os.read(self._answers, 65536)
            assert piece, f"the process has ended: {self.errors()}"
            answer += piece
        decoded: dict[str, Any] = json.loads(answer)
        return decoded

    def open_files(self) -> str:
        """For people."""
        folder = Path(f"/proc/{self.pid}/fd")
        with suppress(FileNotFoundError):
            return "\n".join(sorted(f"{path.name} {path.readlink()}" for path in folder.iterdir()))
        return "(changed while it was read)"

    def errors(self) -> str:
        """What it said on its standard error, in all its lives."""
        return self._errors.read_text(errors="replace")


@dataclass
class Tunnel:
    """Origin, server and client, as processes."""

    origin: End
    server: End
    client: End
    port: int  # of the server; the same after every start

    @property
    def ends(self) -> dict[str, End]:
        return {"server": self.server, "client": self.client}

    def start_server(self) -> None:
        self.server.start("listening on ")

    def start_client(self) -> None:
        """Returns when the tunnel is up."""
        self.client.start("ready ")

    # -- at rest -------------------------------------------------------------------------------

    def figures(self) -> dict[str, Figures]:
        return {name: end.figures() for name, end in self.ends.items()}

    def kept(self) -> dict[str, Figures]:
        """The figures, with the memory that no collection of garbage frees."""
        for end in self.ends.values():
            end.ask("collect")
        return self.figures()

    async def at_rest(self, quiet: float = 0.6, timeout: float = 30) -> dict[str, Figures]:
        """The figures, once files and tasks of both ends have not changed for ``quiet`` seconds. Without callers."""
        last: object = None
        since = anyio.current_time()
        with anyio.fail_after(timeout):
            while True:
                figures = await run_sync(self.figures)
                if (counts := _counts(figures)) != last:
                    last, since = counts, anyio.current_time()
                if anyio.current_time() - since >= quiet:
                    return figures
                await anyio.sleep(0.1)  # between two looks

    async def changed_from(self, start: Mapping[str, Figures]) -> None:
        """Wait until an end has other numbers of files or tasks: it has seen what was done to it."""
        while _counts(await run_sync(self.figures)) == _counts(start):  # noqa: ASYNC110
            await anyio.sleep(0.1)  # between two looks

    async def back_at(self, start: Mapping[str, Figures], timeout: float = 30) -> dict[str, Figures]:
        """Wait until both ends have no more files and tasks than at the start; fail with what there is instead. Fewer
        are no loss: on a busy machine something may have been on its way when they were counted."""
        figures = await run_sync(self.figures)
        deadline = anyio.current_time() + timeout
        while _more(figures, start):
            if anyio.current_time() > deadline:
                raise AssertionError(f"{figures}, but at the start {start}\n{await run_sync(self._details)}")
            await anyio.sleep(0.1)  # between two looks
            figures = await run_sync(self.figures)
        return figures

    def _details(self) -> str:
        return "\n".join(
            f"== {name}\n{end.open_files()}\n{end.ask('where')['where']}" for name, end in self.ends.items()
        )


def _more(figures: Mapping[str, Figures], start: Mapping[str, Figures]) -> bool:
    return any(each.fds > start[name].fds or each.tasks > start[name].tasks for name, each in figures.items())


def _counts(figures: Mapping[str, Figures]) -> dict[str, tuple[int, int]]:
    return {name: (each.fds, each.tasks) for name, each in figures.items()}


@contextmanager
def open_tunnel(
    backend: str,
    way: Way,
    folder: Path,
    *,
    limits: Limits = DEFAULT_LIMITS,
    link: Link | None = None,
    server_flags: Sequence[str] = ("--log-level", "warning"),
    client_flags: Sequence[str] = ("--log-level", "warning"),
) -> Iterator[Tunnel]:
    """A tunnel that is up. What its processes say on standard error is kept in files in ``folder``.

    ``link``: between the places of the two ends; without one, both are on loopback. The origin is beside the client.
    ``limits``: of both ends, where they differ from the default and no flag of theirs sets them.
    """
    server_place, client_place = (link.server, link.client) if link is not None else (Place(), Place())
    changed = ALWAYS | _changed(limits)
    common = ["--backend", backend]
    program, transport = CLIENTS[way]
    with ExitStack() as stack:

        def end(place: Place, name: str, program: str) -> End:
            made = End(place, program, changed, folder / f"{name}.stderr")
            stack.callback(made.close)
            return made

        origin = end(client_place, "origin", "tests/faults/origin.py")
        origin.flags = ["0"]
        origin_port = int(origin.start("serving on "))
        server = end(server_place, "server", "examples/tunnel_server.py")
        server.flags = [*_listen(server_place, 0), *common, *server_flags]
        port = int(server.start("listening on ").rpartition(":")[2])
        server.flags = [*_listen(server_place, port), *common, *server_flags]
        client = end(client_place, "client", program)
        client.flags = [
            *("--tunnel", f"ws://{server_place.address}:{port}", "--server", f"http://127.0.0.1:{origin_port}"),
            *("--token", TOKEN, "--transport", transport, *common, *client_flags),
        ]
        tunnel = Tunnel(origin, server, client, port)
        tunnel.start_client()
        yield tunnel
        for each in tunnel.ends.values():
            assert "Traceback" not in each.errors(), each.errors()


@contextmanager
def open_linked(
    backend: str, way: Way, folder: Path, around: Surroundings, *, limits: Limits = DEFAULT_LIMITS
) -> Iterator[Tunnel]:
    """One whose ends have the link between them; the server writes log and pid file to the small disk."""
    files = ["--logfile", str(around.disk.path / "log"), "--pidfile", str(around.disk.path / "pid")]
    with open_tunnel(backend, way, folder, limits=limits, link=around.link, server_flags=files) as made:
        yield made


def _changed(limits: Limits) -> dict[str, Any]:
    values = {field.name: getattr(limits, field.name) for field in fields(limits)}
    return {name: value for name, value in values.items() if value != getattr(DEFAULT_LIMITS, name)}


def _listen(place: Place, port: int) -> list[str]:
    """Callers come by loopback, and the client to the place's own address."""
    return ["--listen", f"{'0.0.0.0' if place.holder else '127.0.0.1'}:{port}"]
