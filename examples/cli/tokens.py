"""What the server's flags, files and [[token]] tables say of single tokens. Sources are asked again at a reload."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from . import kinds
from .files import read_secret
from .options import TOKEN
from .parsing import Settings, UsageError, read_tables

__all__ = ["caller_source", "known_tokens", "names", "password_source", "policy_source"]


def token_tables(settings: Settings) -> list[Settings]:
    """The [[token]] tables as the file holds them now."""
    return read_tables(settings["config"], "token", TOKEN) if settings["config"] is not None else []


def passwords(settings: Settings) -> dict[str, str]:
    """Every token's password, from all the places that can hold them, as they are now."""
    found: dict[str, str] = dict(settings["passwords"] or {})
    if settings["passwords_file"] is not None:
        found |= read_secret(settings["passwords_file"], "--passwords-file", kinds.password_lines)
    for table in token_tables(settings):
        token, password = table["token"]
        if password or table.get("password"):
            found[token] = password or table["password"]
    return found


def password_source(settings: Settings) -> Callable[[], Mapping[str, str]] | None:
    """What the library calls at start and at every reload."""
    if not (settings["passwords"] or settings["passwords_file"] or settings["config"]):
        return None

    return lambda: passwords(settings)


def known_tokens(settings: Settings) -> list[str]:
    """The tokens of the tables, with a password or without: read at start and at every reload."""
    tokens = [table["token"][0] for table in token_tables(settings)]
    if settings["known_tokens_only"] and not tokens and not passwords(settings):
        raise UsageError("--known-tokens-only: no token is listed; add --passwords-file, or [[token]] to --config")
    return tokens


def names(settings: Settings) -> dict[str, str]:
    """Those of the [[token]] tables with their tokens: read at start and at every reload."""
    found: dict[str, str] = {}
    for table in token_tables(settings):
        name = table.get("name")
        if name in found:
            raise UsageError(f"{table.place}: name: another token has this name; choose another")
        if name is not None:
            found[name] = table["token"][0]
    return found


def policy_source(settings: Settings) -> Callable[[], Mapping[str, str]]:
    """What the library calls at start and at every reload."""
    return lambda: {table["token"][0]: table["policy"] for table in token_tables(settings) if "policy" in table}


def callers(settings: Settings) -> dict[str, dict[str, str]]:
    """Whom callers must be, by token or name, from all the places that can hold it, as they are now."""
    path = settings["callers_file"]
    found: dict[str, dict[str, str]] = {}
    if path is not None:
        found = read_secret(path, "--callers-file", kinds.caller_lines)
    for table in token_tables(settings):
        users = dict(table.get("callers", ()))
        if users:
            found[table["token"][0]] = found.get(table["token"][0], {}) | users
    return found


def caller_source(settings: Settings) -> Callable[[], Mapping[str, Mapping[str, str]]]:
    """What the library calls at start and at every reload."""
    return lambda: callers(settings)
