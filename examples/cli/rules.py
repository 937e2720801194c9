"""The [[blacklist]] and [[whitelist]] tables of a configuration file."""

from __future__ import annotations

import re

from tunnelkit import Rule

from .parsing import Settings, UsageError

__all__ = ["place_of", "rules"]


def rules(settings: Settings, name: str) -> list[Rule]:
    """Those of the list ``name``, in the order of the file."""
    return [_rule(table) for table in settings.tables.get(name, [])]


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
    place = settings.tables[name][int(number) - 1].place if number else f"[[{name}]]"
    return f"{place}: {part}" if part else place
