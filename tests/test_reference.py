"""docs/reference.md is what the code says (``scripts/make_reference.py`` writes it)."""

from __future__ import annotations

import runpy
from dataclasses import fields
from pathlib import Path
from typing import Any

from cli.options import CLIENT, SERVER, TOKEN, TUNNEL, Option
from tunnelkit import Limits
from tunnelkit.core.metrics import ENDS
from tunnelkit.problem import CODES

ROOT = Path(__file__).resolve().parent.parent
SCRIPT: dict[str, Any] = runpy.run_path(str(ROOT / "scripts" / "make_reference.py"))


def test_it_is_up_to_date() -> None:
    written = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert written == SCRIPT["reference"](), "run make reference"


def test_it_lists_everything() -> None:
    text: str = SCRIPT["reference"]()
    for option in (*SERVER, *CLIENT):
        assert f"`--{option.name}" in text
        if isinstance(option, Option) and not option.only_argument:
            assert f"`{option.variable}`" in text
    for key in (*TOKEN, *TUNNEL):
        assert f"`{key.key}`" in text
    for limit in fields(Limits):
        (row,) = (line for line in text.splitlines() if line.startswith(f"| `{limit.name}` |"))
        assert row.split("|")[3].strip(), f"{limit.name} has no word on what it is"
    for code in CODES:
        assert f"[`{code}`](errors.md#{code})" in text
    for code in ENDS:
        assert f"| `{code}` |" in text
