"""What the command lines say to whoever started them. A full disk behind standard output or error ends nothing."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

__all__ = ["fail", "say", "warn"]


def say(line: str) -> None:
    """For programs that read it: see docs/compatibility.md."""
    with suppress(OSError):
        print(line, flush=True)


def warn(text: str) -> None:
    _to_people(f"warning: {text}")


def fail(text: str) -> None:
    _to_people(f"error: {text}")


def _to_people(text: str) -> None:
    with suppress(OSError):
        print(f"{Path(sys.argv[0]).name}: {text}", file=sys.stderr, flush=True)
