"""The main job, unattended: a real HTTP origin, tunnel server and tunnel client as processes, and callers.

    make demo        or        python examples/demo.py [--backend trio] [--quick]

It says what it does, and ends with 1 at the first step that fails. A small TCP relay stands between the two ends of
the tunnel, so that the link can be cut. TUNNELKIT_DEMO_BREAK=<step> spoils that step, so that a test sees it fail.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

__all__ = ["main"]

HERE = Path(__file__).resolve().parent
MIB = 1024 * 1024
WAIT = 20.0  # seconds that anything may take
PAGE = b"<h1>a page from behind the firewall</h1>\n"


class StepFailed(Exception):
    """A step did not do what it should; the text says what was seen instead."""


def check(condition: bool, otherwise: str) -> None:
    if not condition:
        raise StepFailed(otherwise)


# -- processes ------------------------------------------------------------------------------------


class Process:
    """A program that announces on its standard output that it is ready."""

    def __init__(self, name: str, log: Path, *arguments: str | Path, cwd: Path | None = None) -> None:
        self.name = name
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-u", *arguments],
                cwd=cwd,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
            )

    def line(self, start: str) -> str:
        """The rest of the first line that begins with ``start``."""
        assert self._process.stdout is not None
        timer = threading.Timer(WAIT, self._process.kill)  # then the loop below ends
        timer.start()
        try:
            for raw in self._process.stdout:
                line = raw.decode().rstrip("\n")
                if line.startswith(start):
                    print(f"      {self.name}: {line}")
                    return line.removeprefix(start)
        finally:
            timer.cancel()
        log = self._log.read_text(errors="replace")
        raise StepFailed(f"the {self.name} did not say {start!r}; it said:\n{log}")

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        return self._process.wait(WAIT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.kill()
        if self._process.stdout is not None:
            self._process.stdout.close()


class Relay:
    """Carries TCP connections to ``port``, and cuts them all when told to."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self.carried = 0
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self._open += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):  # a cut
            while data := source.recv(64 * 1024):
                sink.sendall(data)
                self.carried += len(data)
        for end in (source, sink):
            _shut(end)

    def cut(self) -> None:
        with self._lock:
            connections, self._open = self._open, []
        for end in connections:
            _shut(end)

    def close(self) -> None:
        _shut(self._listener)
        self.cut()


def _shut(end: socket.socket) -> None:
    with suppress(OSError):  # it may not be connected any more
        end.shutdown(socket.SHUT_RDWR)
    end.close()


# -- the demonstration ------------------------------------------------------------------------------


class Demo:
    def __init__(self, stack: ExitStack, folder: Path, size: int, backend: str) -> None:
        self._stack = stack
        self._folder = folder
        self._size = size
        self._backend = backend
        self._token = secrets.token_urlsafe(24)
        self._broken = os.environ.get("TUNNELKIT_DEMO_BREAK", "")

    def _start(self, name: str, *arguments: str | Path, cwd: Path | None = None) -> Process:
        log = self._folder / f"{name}.log"
        if name == self._broken:
            arguments = ("-c", "print('a program that does something else')")
        process = Process(name, log, *arguments, cwd=cwd)
        self._stack.callback(process.close)
        return process

    def _caller(self, path: str, token: str | None = None) -> http.client.HTTPResponse:
        """The answer to a GET that a caller sends to the tunnel server."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=WAIT)
        self._stack.callback(connection.close)
        connection.request("GET", path, headers={"X-Token": token} if token else {})
        return connection.getresponse()

    def origin(self) -> None:
        """an HTTP server with a page and a large file, the service behind the firewall"""
        (self._folder / "page.html").write_bytes(PAGE)
        digest = hashlib.sha256()
        with (self._folder / "large.bin").open("wb") as file:
            for _ in range(self._size // MIB):
                block = os.urandom(MIB)
                digest.update(block)
                file.write(block)
        self._digest = digest.hexdigest()
        server = self._start("origin", "-m", "http.server", "0", "--bind", "127.0.0.1", cwd=self._folder)
        self._origin_port = int(server.line("Serving HTTP on 127.0.0.1 port ").split()[0])

    def server(self) -> None:
        """a tunnel server, where callers and tunnel clients come together"""
        script = HERE / "tunnel_server.py"
        self._server = self._start("server", script, "--listen", "127.0.0.1:0", "--backend", self._backend)
        self._port = int(self._server.line("listening on ").rpartition(":")[2])
        self._relay = Relay(self._port)
        self._stack.callback(self._relay.close)

    def client(self) -> None:
        """a tunnel client, which dials out and is told what it may serve"""
        self._client = self._start_client()

    def _start_client(self) -> Process:
        path = self._folder / "token"
        path.touch(mode=0o600)
        path.write_text(self._token + "\n")
        tunnel, origin = f"ws://127.0.0.1:{self._relay.port}", f"http://127.0.0.1:{self._origin_port}"
        script = HERE / "tunnel_client.py"
        where = ["--tunnel", tunnel, "--server", origin]
        client = self._start("client", script, *where, "--token-file", path, "--backend", self._backend)
        client.line("ready ")
        return client

    def path(self) -> None:
        """a request that names the token in its path"""
        self._expect_page(self._caller(f"/_token/{self._token}/{self._page('path')}"))

    def header(self) -> None:
        """a request that names the token in X-Token"""
        self._expect_page(self._caller(f"/{self._page('header')}", self._token))

    def _page(self, step: str) -> str:
        return "another.html" if step == self._broken else "page.html"

    def _expect_page(self, answer: http.client.HTTPResponse) -> None:
        body = answer.read()
        check(answer.status == 200 and body == PAGE, f"got {answer.status} with {body[:100]!r}")
        print(f"      200, {len(body)} bytes")

    def missing(self) -> None:
        """a request for what the origin does not have: its own 404 comes back"""
        status = self._caller("/page.html" if self._broken == "missing" else "/none.html", self._token).status
        check(status == 404, f"got {status}")
        print("      404")

    def large(self) -> None:
        """a large file, compared byte for byte"""
        self._download(lambda got: None, spoiled="large")

    def cut(self) -> None:
        """the same file again, with the link cut in the middle of it"""
        relay = self._relay
        before, carried = relay.connections, relay.carried

        def cut_in_the_middle(got: int) -> None:
            nonlocal carried
            if self._broken != "cut" and relay.connections == before and got >= self._size // 3:
                carried = relay.carried
                relay.cut()
                wait_until(lambda: relay.connections > before, "the client did not dial again")

        self._download(cut_in_the_middle)
        check(relay.connections > before, "the link was never cut")
        rest = (relay.carried - carried) // MIB
        check(rest > 0, "the link was cut too late: everything had gone through it")
        print(f"      the caller noticed nothing; {rest} MiB came after the client had dialled again")

    def _download(self, progress: Callable[[int], None], spoiled: str = "-") -> None:
        answer = self._caller(f"/_token/{self._token}/large.bin")
        digest, got, start = hashlib.sha256(), 0, time.monotonic()
        while block := answer.read(256 * 1024):
            digest.update(block)
            got += len(block)
            progress(got)
        if spoiled == self._broken:
            digest.update(b"one byte too many")
        check(got == self._size and digest.hexdigest() == self._digest, f"got {got} bytes, and not those of the file")
        seconds = time.monotonic() - start
        print(f"      {got // MIB} MiB in {seconds:.1f} s ({got / MIB / seconds:.0f} MiB/s), SHA-256 equal")

    def away(self) -> None:
        """a request made while the client is away, answered when it returns"""
        self._client.send(signal.SIGTERM)
        check(self._client.wait() == 0, "the client did not end in order")
        answers: list[http.client.HTTPResponse | Exception] = []

        def ask() -> None:
            try:
                answers.append(self._caller("/page.html", self._token))
            except OSError as error:
                answers.append(error)

        caller = threading.Thread(target=ask, daemon=True)
        caller.start()
        wait_until(lambda: "req_pending=1" in self._stats(), "the request does not wait in the queue")
        print("      it waits in the queue; the client returns")
        if self._broken != "away":
            self._client = self._start_client()
        caller.join(WAIT if self._broken != "away" else 1.0)
        check(bool(answers), "the request is not answered")
        answer = answers[0]
        if isinstance(answer, Exception):
            raise StepFailed(str(answer))
        self._expect_page(answer)

    def _stats(self) -> str:
        return self._caller("/_stats").read().decode()

    def stop(self) -> None:
        """SIGTERM: both ends finish what runs, and end"""
        for process in (self._client, self._server):
            process.send(signal.SIGTERM if self._broken != "stop" else signal.SIGKILL)
            status = process.wait()
            check(status == 0, f"the {process.name} ended with {status}")


STEPS = ("origin", "server", "client", "path", "header", "missing", "large", "cut", "away", "stop")


def wait_until(condition: Callable[[], bool], otherwise: str) -> None:
    """Look every few milliseconds: processes that know nothing of each other have no other way."""
    deadline = time.monotonic() + WAIT
    while not condition():
        check(time.monotonic() < deadline, otherwise)
        time.sleep(0.01)


@contextmanager
def demonstration(size: int, backend: str) -> Iterator[Demo]:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        yield Demo(stack, Path(folder), size, backend)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--quick", action="store_true", help="a file of 24 MiB in place of 64 MiB")
    options = parser.parse_args()
    start = time.monotonic()
    with demonstration((24 if options.quick else 64) * MIB, options.backend) as demo:
        for number, name in enumerate(STEPS, 1):
            step = getattr(demo, name)
            print(f"{number:3}. {step.__doc__}", flush=True)
            try:
                step()
            except (StepFailed, OSError, subprocess.TimeoutExpired, http.client.HTTPException) as error:
                print(f"FAILED at {name}: {error}", flush=True)
                return 1
    print(f"All {len(STEPS)} steps went well, in {time.monotonic() - start:.1f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
