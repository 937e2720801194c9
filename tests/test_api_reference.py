"""docs/api.md is what all public docstrings say (``scripts/make_api.py`` writes it), and examples in them run."""

from __future__ import annotations

import doctest
import importlib
import re
import runpy
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT: dict[str, Any] = runpy.run_path(str(ROOT / "scripts" / "make_api.py"))
WITH_EXAMPLES = ("config", "core.callers", "core.credentials", "core.rules", "core.tokens", "logs.text")


def test_it_is_up_to_date_and_no_name_lacks_a_docstring() -> None:
    written = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert written == SCRIPT["api_reference"](), "run make reference"


@pytest.mark.parametrize("module", SCRIPT["PUBLIC"])
def test_it_tells_of_every_public_name(module: str) -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    for name in importlib.import_module(module).__all__:
        assert re.search(rf"^### tunnelkit[\w.]*\.{name}$", text, re.MULTILINE), name


def test_what_it_calls_public_is_what_compatibility_promises() -> None:
    promise = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8").partition("list in `__all__`")[0]
    assert set(SCRIPT["PUBLIC"]) == set(re.findall(r"`(tunnelkit[\w.]*)`", promise))


def test_a_name_without_docstring_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    found = SCRIPT["find"]("tunnelkit.inspector", "Inspector")
    monkeypatch.setattr(found.node, "body", found.node.body[1:])
    with pytest.raises(SCRIPT["Undocumented"], match="Inspector has no docstring"):
        SCRIPT["api_reference"]()


def from_source(name: str) -> ModuleType:
    """In what is compiled, no examples are found."""
    spec = spec_from_file_location(name, ROOT / "src" / f"{name.replace('.', '/')}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples_in_docstrings(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = from_source(f"tunnelkit.{module}")
    monkeypatch.setitem(sys.modules, found.__name__, found)  # where doctest looks whether what it finds is from here
    result = doctest.testmod(found, optionflags=doctest.ELLIPSIS)
    assert result.attempted
    assert not result.failed
