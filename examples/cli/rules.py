"""The [[blacklist]] and [[whitelist]] tables of a configuration file."""

from __future__ import annotations

import re
from collections.abc import Callable

from tunnelkit import Rule

from .options import RULE
from .parsing import Settings, UsageError, read_tables

__all__ = ["place_of", "rule_source", "rules"]


def rules(settings: Settings, name: str) -> list[Rule]:
    """Those of the list ``name``, in the order of the file."""
    return [_rule(table) for table in settings.tables.get(name, [])]


def rule_source(settings: Settings, name: str) -> Callable[[], list[Rule]]:
    """What the library asks at start and at every reload for the list ``name``, as the file holds it then."""
    path = settings["config"]
    return lambda: [] if path is None else [_rule(table) for table in read_tables(path, name, RULE)]


def _rule(table: Settings) -> Rule:
    headers: dict[str, str] = {}
    for key, pattern in table.get("headers", ()):
        if key in headers:
            raise UsageError(f"{table.place}: headers: {key} is there twice; join the patterns with |")
        headers[key] = pattern
    return Rule(method=table.get("method"), url=table.get("url"), headers=headers)


_FIELD = re.compile(r"(blacklist|whitelist)(?:\[(\d+)\](?:\.(\w+))?)?")


def place_of(field: str, settings: Settings) -> str | None:
    """Where the file has what the library calls ``blacklist[2].url``; None for other fields."""
    match = _FIELD.fullmatch(field)
    if match is None:
        return None
    name, number, part = match.groups()
    place = f"{settings['config']}: [[{name}]]" + (f" {number}" if number else "")
    return f"{place}: {part}" if part else place
