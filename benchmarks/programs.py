"""Programs that are measured: started, waited for, asked what they used, and ended by their own process id."""

from __future__ import annotations

import os
import queue
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROOT", "BenchmarkError", "OtherPrograms", "Program", "Usage", "end_in_order", "raise_open_files"]

ROOT = Path(__file__).resolve().parent.parent
TICK = os.sysconf("SC_CLK_TCK")
SAY_TIMEOUT = 30.0
STOP_TIMEOUT = 10.0


class BenchmarkError(Exception):
    """A figure that cannot be had, and why. The others go on."""


class LeftOut(BenchmarkError):
    """One that is not to be had here, or means nothing for this way: nothing failed."""


@dataclass(frozen=True)
class Usage:
    """What a program has used since it began, all its threads together."""

    seconds: float  # of processor time
    switches: int  # voluntary context switches of the main thread: how often it went to sleep

    def __sub__(self, other: Usage) -> Usage:
        return Usage(self.seconds - other.seconds, self.switches - other.switches)


class Program:
    """One child process. Its standard output is read line by line; its standard error goes to ``errors``, and with
    ``quiet`` everything does."""

    def __init__(self, command: Sequence[str], *, errors: Path, quiet: bool = False) -> None:
        self.command = list(command)
        self.errors = errors
        with errors.open("ab") as sink:
            self._popen = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=sink if quiet else subprocess.PIPE,
                stderr=sink,
                text=True,
                bufsize=1,
                cwd=ROOT,
            )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._popen.stdout or ():
            self._lines.put(line)
        self._lines.put("")

    @property
    def pid(self) -> int:
        return self._popen.pid

    def said(self, start: str, timeout: float = SAY_TIMEOUT) -> str:
        """The rest of the next line, which must begin with ``start``. Waits for it."""
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            line = "nothing"
        if not line.startswith(start):
            raise BenchmarkError(f"{self.errors.stem} said {line!r} and not {start!r}: {self.last_words()}")
        return line.removeprefix(start).strip()

    def tell(self, line: str) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.write(line + "\n")

    def last_words(self) -> str:
        return self.errors.read_text(errors="replace")[-500:]

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def usage(self) -> Usage:
        fields = self._proc("stat").rpartition(")")[2].split()
        return Usage((int(fields[11]) + int(fields[12])) / TICK, self.status("voluntary_ctxt_switches"))

    @property
    def resident(self) -> int:
        """Bytes of memory now."""
        return self.status("VmRSS") * 1024

    @property
    def peak(self) -> int:
        """The most bytes of memory since the start, or since ``forget_peak``."""
        return self.status("VmHWM") * 1024

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def status(self, name: str) -> int:
        """A number of /proc/PID/status."""
        for line in self._proc("status").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
        raise BenchmarkError(f"/proc/{self.pid}/status has no {name}")

    def _proc(self, name: str) -> str:
        try:
            return Path(f"/proc/{self.pid}/{name}").read_text()
        except (FileNotFoundError, ProcessLookupError):
            raise BenchmarkError(f"{self.errors.stem} ended: {self.last_words()}") from None

    def close(self) -> None:
        self._popen.terminate()
        try:
            self._popen.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        self._reader.join()
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                pipe.close()


class OtherPrograms:
    """What share of the machine's processor time programs took that are none of this run's."""

    def __init__(self) -> None:
        self._began = self._now()

    def share(self) -> float:
        """Since the start. Call it when the run's own programs have ended: the kernel counts those of them alone."""
        all_of_them, own, seconds = (now - then for now, then in zip(self._now(), self._began, strict=True))
        return max(all_of_them - own, 0.0) / (seconds * (os.cpu_count() or 1))

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """Seconds: of all programs, of our own, of the clock."""
        user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, _machine_times())
        own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        busy = (user + nice + system + irq + softirq + steal) / TICK
        return busy, sum(each.ru_utime + each.ru_stime for each in own), time.monotonic()


def _machine_times() -> list[str]:
    return Path("/proc/stat").read_text().splitlines()[0].split()[1:]


def end_in_order() -> None:
    """From now on a signal ends this program as an exception would: what it started ends too, and folders go."""
    ending = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def end(number: int, _: object) -> None:
        for each in ending:  # a second one would end what the first one ends in the middle
            signal.signal(each, signal.SIG_IGN)
        sys.exit(128 + number)

    for each in ending:
        signal.signal(each, end)


def raise_open_files() -> int:
    """Let this process and its children open as many files as the machine permits; how many that is."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most
