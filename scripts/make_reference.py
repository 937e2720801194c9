"""Writes docs/reference.md from the code: flags, keys, variables, limits and codes.

The flags stand in ``examples/cli/options.py``, the limits in ``tunnelkit.config.Limits`` (their words are the
comments there), the codes in ``tunnelkit.problem`` and ``tunnelkit.core.metrics``.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples"))

from cli.options import CLIENT, RULE, SERVER, TOKEN, TUNNEL, VARIABLES, Option, Refused  # noqa: E402
from tunnelkit import Limits  # noqa: E402
from tunnelkit.core.metrics import ENDS  # noqa: E402
from tunnelkit.problem import CODES  # noqa: E402

__all__ = ["PATH", "reference"]

PATH = ROOT / "docs" / "reference.md"

INTRODUCTION = """\
# Reference

Every flag, key, environment variable, limit and code. This file is made from the code by `make docs`, and a
test fails when it is not up to date.

Flags take one dash or two, `--flag value` or `--flag=value`. Arguments win over the environment, which wins over the
file of `--config` (TOML). In the environment, several values of a flag that may be given several times are separated
by commas; in the file they are a list. A switch is `true` or `false` there.
"""


def reference() -> str:
    """The whole document."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield INTRODUCTION
    yield "## The server: `tunnel_server.py`\n"
    yield from _flags(SERVER)
    yield "\n### `[[token]]` in its file\n"
    yield "A token that may register. These tables are read again at SIGHUP.\n"
    yield from _keys(TOKEN)
    yield "\n## The client: `tunnel_client.py`\n"
    yield from _flags(CLIENT)
    yield "\n### `[[tunnel]]` in its file\n"
    yield "A tunnel, over what stands at the top of the file and what the flags say. Its keys: "
    yield ", ".join(f"`{option.key}`" for option in TUNNEL) + ".\n"
    yield "## `[[blacklist]]` and `[[whitelist]]` in both files\n"
    yield "Rules for destinations, see [destinations](destinations.md). The server reads its own again at SIGHUP.\n"
    yield from _keys(RULE)
    yield "\n## Other environment variables\n"
    yield "| variable | what it does |\n|---|---|"
    yield from (f"| `{name}` | {_cell(text)} |" for name, text in VARIABLES.items())
    yield "\n## Limits\n"
    yield "Fields of `tunnelkit.Limits`, for both ends. Sizes are bytes, times are seconds, rates bytes a second.\n"
    yield from _limits()
    yield "## Codes\n"
    yield "What callers and tunnel clients are told in the body of an error; [errors](errors.md) explains each.\n"
    yield "| code | status | title |\n|---|---|---|"
    yield from (f"| [`{name}`](errors.md#{name}) | {code.status} | {code.title} |" for name, code in CODES.items())
    yield "\n### Ends of sessions\n"
    yield "In log lines, events and metrics (there all others are `other`: the peer broke the protocol, and how).\n"
    yield "| code | what it means |\n|---|---|"
    yield from (f"| `{name}` | {_cell(text)} |" for name, text in ENDS.items())


def _flags(options: Sequence[Option | Refused]) -> Iterator[str]:
    yield "| flag | environment | key | default | what it is |\n|---|---|---|---|---|"
    for option in options:
        if isinstance(option, Refused):
            yield f"| `--{option.name}` | | | | refused: {_cell(option.reason)} |"
        else:
            yield _flag(option)


def _flag(option: Option) -> str:
    flag = f"`{f'--{option.name} {option.metavar}'.strip()}`"
    others = "".join(f", `{'--' if len(name) > 1 else '-'}{name}`" for name in option.aliases)
    variable = "" if option.only_argument else f"`{option.variable}`"
    key = f"`{option.key}`" if option.in_file and not option.only_argument else ""
    return f"| {_cell(flag + others)} | {variable} | {key} | {_default(option)} | {_cell(option.help)} |"


def _default(option: Option) -> str:
    return f"`{option.default}`" if option.default not in (None, False, "") else ""


def _keys(options: Sequence[Option]) -> Iterator[str]:
    yield "| key | value | what it is |\n|---|---|---|"
    yield from (f"| `{option.key}` | `{_cell(option.metavar)}` | {_cell(option.help)} |" for option in options)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


# -- limits --------------------------------------------------------------------------------------

_SECTION = re.compile(r"\s*# -- (.*?)(?: \(.*\))? -+$")
_FIELD = re.compile(r"\s{4}(\w+): (?:int|float) = ([^#]+?)\s*(?:#\s*(.*))?$")


def _limits() -> Iterator[str]:
    """A table for each section of the class; what a limit means is the comment behind it."""
    source = inspect.getsource(Limits)
    for line in source[source.index("    # -- ") :].splitlines():  # behind the docstring
        if section := _SECTION.match(line):
            yield f"### {section[1][:1].upper()}{section[1][1:]}\n"
            yield "| limit | default | what it is |\n|---|---|---|"
        elif field := _FIELD.match(line):
            yield f"| `{field[1]}` | {_amount(field[2])} | {_cell(field[3] or '')} |"
        elif not line.strip():
            yield ""
        elif line.strip().startswith("def "):
            return


def _amount(source: str) -> str:
    """``4 * MIB`` as people write it."""
    amount = re.sub(r"^(MIB|KIB)$", r"1 * \1", source)
    amount = amount.replace(" * MIB", " MiB").replace(" * KIB", " KiB").replace("_", "")
    return re.sub(r"(\.\d)0+$", r"\1", amount)


if __name__ == "__main__":
    PATH.write_text(reference(), encoding="utf-8")
