"""Runs an example as if some modules were not installed, or with another mode of long-poll: no flag says so.

python benchmarks/launch.py --without uvloop --longpoll strict examples/tunnel_client.py ARGUMENT...
"""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path


def hide(names: list[str]) -> None:
    """From now on, importing them fails, and ``importlib.util.find_spec`` finds nothing."""
    for name in names:
        sys.modules[name] = None  # type: ignore[assignment]


def set_longpoll(mode: str) -> None:
    from tunnelkit.transports.longpoll import LongPollTransport

    defaults = LongPollTransport.__init__.__kwdefaults__
    assert defaults is not None
    assert "mode" in defaults
    defaults["mode"] = mode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--without", action="append", default=[], metavar="MODULE")
    parser.add_argument("--longpoll", choices=["strict", "streamed"])
    parser.add_argument("program", type=Path)
    arguments, rest = parser.parse_known_args()
    hide(arguments.without)
    if arguments.longpoll is not None:
        set_longpoll(arguments.longpoll)
    sys.argv = [str(arguments.program), *rest]
    sys.path[0] = str(arguments.program.resolve().parent)
    runpy.run_path(str(arguments.program), run_name="__main__")


if __name__ == "__main__":
    main()
