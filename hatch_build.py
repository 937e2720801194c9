"""Compiles the modules that requests pass through into the wheel, with mypyc, where ``TUNNELKIT_COMPILE=1`` asks.

The sources are the same either way, and are in the wheel too. A compiled module stands beside its source, and Python
prefers it. It needs a C compiler, and the wheel is for one platform and one version of Python.
"""

from __future__ import annotations

import os
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
setup(name="{package}", ext_modules=mypycify([*options, *{modules!r}], opt_level="{level}", group_name="{package}"))
"""


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
    (folder / "setup.py").write_text(SETUP.format(package=PACKAGE, modules=paths, level=level))
    done = subprocess.run([sys.executable, "setup.py", "build_ext", "--inplace"], cwd=folder, capture_output=True)
    if done.returncode:
        sys.stderr.buffer.write(done.stdout + done.stderr)
        raise SystemExit("the modules could not be compiled; without TUNNELKIT_COMPILE they are taken as they are")
    return [
        path
        for pattern in (f"{PACKAGE}__mypyc.*", f"{PACKAGE}/**/*.so", f"{PACKAGE}/**/*.pyd")
        for path in folder.glob(pattern)
    ]
