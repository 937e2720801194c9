"""The relay as a program: ``python -m tunnelkit.testing PORT TARGET_PORT``.

It prints ``relaying on PORT`` and takes one command a line on its standard input, each of which it confirms.
"""

from __future__ import annotations

import argparse
import sys
from typing import Final

import anyio

from .relay import End, Relay, serve_relay

__all__ = ["COMMANDS", "main"]

COMMANDS: Final = (
    "cut fin|rst|untold, stall, resume, silence SECONDS, mute, refuse, accept, rate BYTES, delay SECONDS, "
    "every SECONDS, idle SECONDS"
)


async def _obey(relay: Relay, words: list[str]) -> str:
    """One command line; what is to be printed."""
    match words:
        case ["cut", how]:
            return f"cut {relay.cut(End[how.upper()], End[how.upper()])}"
        case ["silence", seconds]:
            relay.stall()
            await anyio.sleep(float(seconds))
            relay.resume()
            return "spoke"
        case ["stall" | "resume" | "mute" as what]:
            getattr(relay, what)()
        case ["refuse" | "accept" as what]:
            relay.refusing = what == "refuse"
        case ["rate" | "delay" as what, value]:
            setattr(relay, what, float(value))
        case ["every", seconds]:
            relay.cut_every(float(seconds))
        case ["idle", seconds]:
            relay.drop_idle(float(seconds))
        case _:
            return f"commands: {COMMANDS}"
    return " ".join(words)


async def main(port: int, target: int) -> None:
    async with serve_relay(target, port=port) as relay:
        print(f"relaying on {relay.port}", flush=True)
        async for line in anyio.wrap_file(sys.stdin):
            print(await _obey(relay, line.split()), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tunnelkit.testing", description="A relay with faults.")
    parser.add_argument("port", type=int, help="where it listens on loopback; 0 picks one")
    parser.add_argument("target", type=int, help="the port on loopback that it leads to")
    arguments = parser.parse_args()
    anyio.run(main, arguments.port, arguments.target)
