"""What may be compiled (hatch_build.py) is written so that it behaves alike either way.

mypyc's classes have no room for weak references, except where they inherit from a class that is not compiled, be it
``Generic`` or ``ABC``; and there a weak reference ends in freed memory (mypyc 2.4). A closure is such an object too.
And no interpreted class can inherit from a compiled one.
"""

from __future__ import annotations

import ast
import os
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from .conftest import COMPILED

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src/tunnelkit"
HOOK = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]
MODULES: list[str] = HOOK["custom"]["modules"]
HARMLESS = {"Enum", "IntEnum", "StrEnum", "Protocol"}  # these stay Python's own classes
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def tree_of(module: str) -> ast.Module:
    return ast.parse((PACKAGE / module).read_text())


def classes(tree: ast.Module) -> Iterator[tuple[str, list[str]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield node.name, [ast.unparse(base).partition("[")[0] for base in node.bases]


def imports(tree: ast.Module) -> dict[str, str]:
    """The names that a module imports from modules, and the last part of each module's name."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    return {alias.asname or alias.name: str(node.module).split(".")[-1] for node in found for alias in node.names}


@pytest.mark.parametrize("module", MODULES)
def test_its_classes_inherit_from_nothing_interpreted(module: str) -> None:
    tree = tree_of(module)
    known = {name for name, _ in classes(tree)} | HARMLESS
    known |= {name for name, origin in imports(tree).items() if origin in {Path(each).stem for each in MODULES}}
    assert [(name, base) for name, bases in classes(tree) for base in bases if base not in known] == []


@pytest.mark.parametrize("module", MODULES)
def test_it_has_no_closures_and_no_asynchronous_generators(module: str) -> None:
    for outer in ast.walk(tree_of(module)):
        if isinstance(outer, FUNCTIONS):
            inner = [node for node in ast.walk(outer) if node is not outer and isinstance(node, FUNCTIONS)]
            assert [ast.unparse(node) for node in inner] == []
        if isinstance(outer, ast.AsyncFunctionDef):
            assert not any(isinstance(node, ast.Yield) for node in ast.walk(outer)), outer.name


@pytest.mark.parametrize("module", MODULES)
def test_nothing_of_a_class_body_calls_or_names_its_functions(module: str) -> None:
    """mypyc has no namespace of a class body: the name is looked for in the module, when the class is made."""
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.ClassDef):
            functions = {each.name for each in node.body if isinstance(each, FUNCTIONS[:2])}
            values = [each.value for each in node.body if isinstance(each, ast.Assign | ast.AnnAssign) and each.value]
            named = {name.id for value in values for name in ast.walk(value) if isinstance(name, ast.Name)}
            assert not functions & named, node.name


@pytest.mark.parametrize("module", MODULES)
def test_no_constant_is_a_tuple_of_floats_without_a_type(module: str) -> None:
    """mypyc takes one of floats for one that was not set yet (2.4). ``Final[tuple[float, ...]]`` is no such."""
    for node in tree_of(module).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "Final":
            numbers = isinstance(node.value, ast.Tuple) and any(
                isinstance(each, ast.Constant) and isinstance(each.value, float) for each in node.value.elts
            )
            assert not numbers, ast.unparse(node.target)


def test_nothing_interpreted_inherits_from_them() -> None:
    compiled = {
        (Path(module).stem, name)
        for module in MODULES
        for name, bases in classes(tree_of(module))
        if not HARMLESS & set(bases)
    }
    others = [str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py")]
    for module in set(others) - set(MODULES):
        tree = tree_of(module)
        known = imports(tree)
        heirs = [
            (name, base) for name, bases in classes(tree) for base in bases if (known.get(base), base) in compiled
        ]
        assert heirs == [], module


@pytest.mark.skipif(
    os.environ.get("TUNNELKIT_TEST_COMPILED") != "1", reason="nothing is compiled; see `make compiled`"
)
@pytest.mark.parametrize("module", MODULES)
def test_it_is_compiled_and_its_objects_take_no_weak_reference(module: str) -> None:
    assert COMPILED
    loaded = import_module("tunnelkit." + module.removesuffix(".py").replace("/", "."))
    assert not str(loaded.__file__).endswith(".py")
    for name, bases in classes(tree_of(module)):
        if not HARMLESS & set(bases):
            assert getattr(loaded, name).__weakrefoffset__ == 0, name
