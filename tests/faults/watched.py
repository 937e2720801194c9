"""Run a program as it is, and tell from beside its event loop how many tasks it has.

    python -u -m tests.faults.watched ANSWERS LIMITS PROGRAM ARGUMENT ...

``ANSWERS`` is an open file descriptor. For each line on the standard input one JSON object is written to it: how many
tasks there are; for the line ``where`` also what each of them waits for, and for ``collect`` after a collection of
garbage, so that nothing is measured which only waits for the next one. ``LIMITS`` are fields of ``Limits``, as JSON,
that the program takes for its defaults: no flag sets those clocks, and tests cannot wait for all of them.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel

from tests.hangs import waits
from tunnelkit import Limits

__all__ = ["Counter", "change_defaults"]


def change_defaults(values: dict[str, Any]) -> None:
    """Of all ``Limits`` that are made from now on."""
    defaults = Limits.__init__.__kwdefaults__
    assert defaults is not None
    assert set(values) <= set(defaults), set(values) - set(defaults)
    defaults.update(values)


class Counter:
    """Asks the event loop that the program runs. A thread and two pipes, so that it adds no task and no socket."""

    def __init__(self, answers: int) -> None:
        self._answers = answers
        self._token: anyio.lowlevel.EventLoopToken | None = None

    def runs(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """``anyio.run``, of which this is told."""

        def watched(main: Callable[..., Awaitable[Any]], *arguments: Any, **options: Any) -> Any:
            async def inside(*arguments: Any) -> Any:
                self._token = anyio.lowlevel.current_token()
                return await main(*arguments)

            return run(inside, *arguments, **options)

        return watched

    def serve(self) -> None:
        """Until the other end of the standard input is closed: nobody is left then who would end this process. Not by
        sys.stdin, whose lock outlives this thread."""
        while question := os.read(0, 100):
            answer = self._asked(question.strip())
            os.write(self._answers, json.dumps(answer).encode() + b"\n")
        os._exit(1)

    def _asked(self, question: bytes) -> dict[str, Any]:
        if self._token is None:
            return {"tasks": 0}
        try:
            return anyio.from_thread.run_sync(self._answer, question, token=self._token)
        except anyio.RunFinishedError:
            return {"tasks": 0}

    def _answer(self, question: bytes) -> dict[str, Any]:
        answer: dict[str, Any] = {"tasks": len(anyio.get_running_tasks())}
        if question == b"where":
            answer["where"] = waits()
        elif question == b"collect":
            gc.collect()
        return answer


def main(answers: str, limits: str, program: str, *arguments: str) -> None:
    change_defaults(json.loads(limits))
    counter = Counter(int(answers))
    anyio.run = counter.runs(anyio.run)  # type: ignore[assignment]
    threading.Thread(target=counter.serve, daemon=True).start()
    sys.argv = [program, *arguments]
    sys.path.insert(0, str(Path(program).parent))
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
