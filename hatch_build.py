"""Compiles the modules that requests pass through into the wheel, with mypyc, where ``TUNNELKIT_COMPILE=1`` asks.

The sources are the same either way, and are in the wheel too. A compiled module stands beside its source, and Python
prefers it. It needs a C compiler, and the wheel is for one platform and one version of Python.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "tunnelkit"
SETUP = """\
from mypyc.build import mypycify
from setuptools import setup

options = ["--config-file=", "--ignore-missing-imports"]  # `make types` is what checks types, with all that they name
made = mypycify([*options, *{modules!r}], opt_level="{level}", debug_level="0", group_name="{package}")
for extension in made:  # all share one list
    extension.extra_compile_args = [*extension.extra_compile_args, *{silent!r}]
setup(name="{package}", ext_modules=made)
"""
# What gcc looks for in order to warn takes twice as long as all else that it does with code that mypyc made. Not by
# CFLAGS, which would stand in place of Python's own, and of the NDEBUG among them.
SILENT = [] if sys.platform == "win32" else ["-Wno-all", "-w"]


# mypy holds an attribute that was None a moment ago to be None still, though a call or an await lies between: where
# it is not, compiled code fails. Only what a function gives may be held to be None.
HELD_TO_BE_NONE = re.compile(r'CPy_TypeError\("None", (\w+)\).*?CPy_AddTraceback\("(.*?)", "(.*?)", (\d+)', re.S)


class CompiledModules(BuildHookInterface[BuilderConfig]):
    """``modules`` of the hook's table in pyproject.toml: their paths within the package."""

    def dependencies(self) -> list[str]:
        return [*self.config["needs"], *self.metadata.core.dependencies] if _wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable" or not _wanted():
            return
        self._folder = TemporaryDirectory()
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        for made in _compile(Path(self.root, "src", PACKAGE), Path(self._folder.name), self.config["modules"]):
            build_data["force_include"][str(made)] = made.relative_to(self._folder.name).as_posix()

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if hasattr(self, "_folder"):
            self._folder.cleanup()


def _wanted() -> bool:
    return os.environ.get("TUNNELKIT_COMPILE") == "1"


def _compile(package: Path, folder: Path, modules: list[str]) -> list[Path]:
    """The extensions, made from a copy of ``package`` in ``folder``."""
    shutil.copytree(package, folder / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    paths = [f"{PACKAGE}/{module}" for module in modules]
    level = os.environ.get("MYPYC_OPT_LEVEL", "2")
    (folder / "setup.py").write_text(SETUP.format(package=PACKAGE, modules=paths, level=level, silent=SILENT))
    done = subprocess.run([sys.executable, "setup.py", "build_ext", "--inplace"], cwd=folder, capture_output=True)
    if done.returncode:
        sys.stderr.buffer.write(done.stdout + done.stderr)
        raise SystemExit("the modules could not be compiled; without TUNNELKIT_COMPILE they are taken as they are")
    (source,) = folder.glob("build/__native*.c")
    _check_narrowing(source.read_text())
    return [
        path
        for pattern in (f"{PACKAGE}__mypyc.*", f"{PACKAGE}/**/*.so", f"{PACKAGE}/**/*.pyd")
        for path in folder.glob(pattern)
    ]


def _check_narrowing(code: str) -> None:
    """Raises ``SystemExit`` where an attribute is read that is held to be None."""
    for found in HELD_TO_BE_NONE.finditer(code):
        made = f" {found[1]} = "
        if not code.startswith("PyObject_Vectorcall", code.rindex(made, 0, found.start()) + len(made)):
            raise SystemExit(f"{found[2]}:{found[4]}: {found[3]} reads an attribute that is held to be None")
