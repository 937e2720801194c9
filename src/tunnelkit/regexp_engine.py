"""The engine of regular expressions: google-re2 where it is installed, else Python's."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from types import ModuleType

from .core.regexps import Compiled, Engine

__all__ = ["find_engine"]


def find_engine() -> Engine:
    """re2's time is linear, so that patterns of any shape are safe."""
    try:
        re2 = import_module("re2")
    except ImportError:
        return Engine()
    return Engine(partial(_compile, re2), linear_time=True)


def _compile(re2: ModuleType, pattern: str) -> Compiled:
    options = re2.Options()
    options.log_errors = False  # it would write to standard error by itself
    try:
        compiled: Compiled = re2.compile(pattern, options)
    except re2.error as error:  # whose argument is bytes
        raise ValueError(error.args[0].decode("utf-8", "replace")) from None
    return compiled
