"""What cannot be replaced in modules that are compiled: a test that tried would test nothing (hatch_build.py)."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

__all__ = ["refuse_vain_patches"]

_setattr: Any = pytest.MonkeyPatch.setattr


def refuse_vain_patches() -> None:
    """From now on ``monkeypatch.setattr`` fails where what is compiled would not look."""
    pytest.MonkeyPatch.setattr = _checked  # type: ignore[method-assign]


def _checked(self: pytest.MonkeyPatch, target: Any, name: Any, *args: Any, **options: Any) -> None:
    module, attribute = (target, name) if isinstance(target, ModuleType) else _split(target)
    if module is not None and _is_compiled(module) and _is_inlined(module.__name__, attribute):
        pytest.fail(f"{module.__name__} is compiled, and looks at no other {attribute}: mark the test `interpreted`")
    _setattr(self, target, name, *args, **options)


def _split(target: object) -> tuple[ModuleType | None, str]:
    if not isinstance(target, str):
        return None, ""
    module, _, attribute = target.rpartition(".")
    return sys.modules.get(module), attribute  # a class's attribute is none of a module


def _is_compiled(module: ModuleType) -> bool:
    return module.__name__.startswith("tunnelkit.") and Path(str(module.__file__)).suffix != ".py"


@cache
def _is_inlined(module_name: str, name: str) -> bool:
    """Whether it is a constant, or a function or class of a compiled module."""
    module = importlib.import_module(module_name)
    file = Path(str(module.__file__))
    source = file if file.suffix == ".py" else file.with_name(module_name.rpartition(".")[2] + ".py")
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name:
            return ast.unparse(node.annotation).startswith("Final")
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == name:
            return _is_compiled(module)
        if isinstance(node, ast.ImportFrom) and any((each.asname or each.name) == name for each in node.names):
            origin = importlib.util.resolve_name("." * node.level + (node.module or ""), str(module.__package__))
            return origin.startswith("tunnelkit.") and _is_inlined(origin, name)
    return False
