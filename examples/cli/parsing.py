"""Arguments over environment over configuration file, each value checked, each error one line.

Flags take one dash or two, ``--flag value`` or ``--flag=value``, as WStunnel's do; there are no abbreviations.
A value may begin with a dash: tokens do.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tunnelkit.logs import printable

from .options import Option, Refused

__all__ = ["Settings", "UsageError", "help_text", "parse", "read_tables"]


class UsageError(Exception):
    """One line for the user, naming the field and the fix."""


class Settings(dict[str, Any]):
    """The value of every option by its key; ``tables`` are the configuration's [[tunnel]] and [[token]] tables."""

    def __init__(
        self,
        values: Mapping[str, Any],
        *,
        given: set[str],
        from_file: set[str],
        tables: Mapping[str, list[Settings]] = MappingProxyType({}),
        place: str = "",
        in_place: Set[str] = frozenset(),
    ) -> None:
        super().__init__(values)
        self.given = given  # keys of what was set, by whatever way
        self.from_file = from_file  # keys that the configuration file holds
        self.tables = tables
        self.place = place  # of a table in the file, for messages; "" where there is none
        self.in_place = in_place  # keys that stand there

    def over(self, table: Settings) -> Settings:
        """These settings with those of a table in their place."""
        return Settings(
            self | table,
            given=self.given | table.given,
            from_file=self.from_file | table.from_file,
            tables=self.tables,
            place=table.place,
            in_place=table.given,
        )

    def with_value(self, key: str, value: Any) -> Settings:
        """These settings with another value of one."""
        return Settings(
            self | {key: value},
            given=self.given,
            from_file=self.from_file,
            tables=self.tables,
            place=self.place,
            in_place=self.in_place,
        )

    def name(self, key: str) -> str:
        """What the user knows a setting by: its flag, or the table that has it, or should have it."""
        if self.place and (key in self.in_place or key not in self.given):
            return f"{self.place}: {key}"
        return f"--{key}".replace("_", "-")


def parse(
    options: Sequence[Option | Refused],
    arguments: Sequence[str],
    environment: Mapping[str, str],
    tables: Mapping[str, Sequence[Option | Refused]] | None = None,
) -> Settings:
    """Read everything. ``tables`` names the arrays of tables that the configuration may have, with their keys."""
    by_argument = _arguments(options, arguments)
    values = _from_environment(options, environment)
    found: dict[str, list[Settings]] = {}
    by_file: dict[str, Any] = {}
    path: Path | None = (values | by_argument).get("config")
    if path is not None:
        document = _read_toml(path)
        for name, keys in (tables or {}).items():
            if name in document and not _is_setting(options, name, document[name]):
                found[name] = _tables(path, name, document.pop(name), keys)
        by_file = _from_table(options, document, str(path))
    values = by_file | values | by_argument
    defaults = {option.key: _default(option) for option in options if isinstance(option, Option)}
    return Settings(defaults | values, given=set(values), from_file=set(by_file), tables=found)


def _is_setting(options: Sequence[Option | Refused], name: str, value: Any) -> bool:
    """Of a name that tables have: there may be an option of that name too, whose values are no tables."""
    items = value if isinstance(value, list) else [value]
    return any(option.name == name for option in options) and not any(isinstance(item, dict) for item in items)


def _default(option: Option) -> Any:
    return [] if option.repeat else option.default


def _convert(option: Option, where: str, value: str) -> Any:
    try:
        return option.kind(value)
    except ValueError as error:
        # What has an "@" may be a URL with a password in front of it.
        shown = "" if option.secret or not value or "@" in value else f" (it is {value!r})"
        raise UsageError(f"{where}: {error}{shown}") from None


def _collect(option: Option, where: str, texts: Sequence[str]) -> Any:
    converted = [_convert(option, where, text) for text in texts]
    return converted if option.repeat else converted[-1]


# -- arguments --------------------------------------------------------------------------------


def _arguments(options: Sequence[Option | Refused], arguments: Sequence[str]) -> dict[str, Any]:
    names = {name: option for option in options for name in (option.name, *getattr(option, "aliases", ()))}
    texts: dict[str, list[str]] = {}
    rest = list(arguments)
    while rest:
        flag, value = _split(rest.pop(0))
        option = names.get(flag)
        if option is None:
            raise UsageError(_unknown(flag, names))
        if isinstance(option, Refused):
            raise UsageError(f"--{flag} is not supported: {option.reason}")
        if value is None and option.switch:
            value = "true"
        elif value is None:
            if not rest:
                raise UsageError(f"--{flag}: a value is missing; write --{flag} {option.metavar}")
            value = rest.pop(0)
        texts.setdefault(option.name, []).append(value)
    return {
        option.key: _collect(option, f"--{option.name}", texts[option.name])
        for option in options
        if isinstance(option, Option) and option.name in texts
    }


def _split(argument: str) -> tuple[str, str | None]:
    name = argument.removeprefix("-").removeprefix("-")
    if not argument.startswith("-") or not name:
        # Not shown: whoever forgot the flag's name may have written a secret here.
        raise UsageError("every argument is a flag (--name value), and one is not; --help lists the flags")
    flag, equals, value = name.partition("=")
    return flag, value if equals else None


def _unknown(flag: str, names: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(flag, names, n=1)
    hint = f"did you mean --{close[0]}?" if close else "--help lists the flags"
    return f"--{printable(flag[:40])}: there is no such flag; {hint}"


# -- environment and file -----------------------------------------------------------------------


def _from_environment(options: Sequence[Option | Refused], environment: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for option in options:
        if isinstance(option, Option) and not option.only_argument and option.variable in environment:
            text = environment[option.variable]
            values[option.key] = _collect(option, option.variable, text.split(",") if option.repeat else [text])
    return values


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config: cannot read {path}: {error.strerror}; give the path of a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config: {path} is not TOML: {error}") from None
    except RecursionError:
        raise UsageError(f"--config: {path} is nested too deep") from None


def _from_table(options: Sequence[Option | Refused], table: Mapping[str, Any], where: str) -> dict[str, Any]:
    settable = (option for option in options if isinstance(option, Option) and option.in_file)
    known = {option.key: option for option in settable if not option.only_argument}
    values: dict[str, Any] = {}
    for key, value in table.items():
        option = known.get(key.replace("-", "_"))
        if option is None:
            close = difflib.get_close_matches(key, known, n=1)
            raise UsageError(
                f"{where}: there is no setting {key!r}" + (f"; did you mean {close[0]!r}?" if close else "")
            )
        items = value if isinstance(value, list) else [value]
        if not items and option.repeat:
            values[option.key] = []
        elif all(isinstance(item, (str, int, float)) for item in items) and (len(items) == 1 or option.repeat):
            values[option.key] = _collect(option, f"{where}: {key}", [_toml_text(item) for item in items])
        else:
            raise UsageError(f"{where}: {key}: must be one value" + (" or a list of values" if option.repeat else ""))
    return values


def read_tables(path: Path, name: str, options: Sequence[Option]) -> list[Settings]:
    """The tables called ``name`` as the file holds them now."""
    return _tables(path, name, _read_toml(path).get(name, []), options)


def _toml_text(item: str | float) -> str:
    return str(item).lower() if isinstance(item, bool) else str(item)


def _tables(path: Path, name: str, array: Any, options: Sequence[Option | Refused]) -> list[Settings]:
    if not isinstance(array, list) or not all(isinstance(table, dict) for table in array):
        raise UsageError(f"{path}: {name}: write its settings under [[{name}]]")
    places = [f"{path}: [[{name}]] {number}" for number in range(1, len(array) + 1)]
    found = [(place, _from_table(options, table, place)) for place, table in zip(places, array, strict=True)]
    return [Settings(values, given=set(values), from_file=set(values), place=place) for place, values in found]


# -- help -----------------------------------------------------------------------------------------


def help_text(name: str, purpose: str, options: Sequence[Option | Refused]) -> str:
    lines = [f"usage: {name} [--flag value ...]", "", purpose, ""]
    for option in options:
        if isinstance(option, Option):
            lines.append(f"  --{option.name} {option.metavar}".rstrip())
            default = f" (default: {option.default})" if option.default not in (None, False, "") else ""
            lines.append(f"        {option.help}{default}")
    lines += [
        "",
        "Each flag may also be set as TUNNELKIT_<FLAG> in the environment (TUNNELKIT_LOG_LEVEL), and as a key of the",
        "file given with --config (log_level). Arguments win over the environment, which wins over the file.",
    ]
    return "\n".join(lines)
