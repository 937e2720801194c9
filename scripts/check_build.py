"""Install each wheel and the sdist, alone in a clean environment, and run the examples against it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PURE = "-none-any.whl"

INSTALLED = """
import pathlib, sys, tunnelkit
folder = pathlib.Path(tunnelkit.__file__).parent
assert folder.is_relative_to(sys.prefix), folder
assert (folder / "py.typed").exists(), "py.typed is missing"
print("tunnelkit", tunnelkit.__version__, "from", folder)
"""

COMPILED = """
import tunnelkit.core.session
assert not tunnelkit.core.session.__file__.endswith(".py"), tunnelkit.core.session.__file__
"""


def run(*command: str | Path, cwd: Path) -> None:
    """Run a command away from the project's folder and environment, so that only what was installed is found."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TUNNELKIT_"))}
    print("+", *command, flush=True)
    subprocess.run(command, cwd=cwd, env=environment, check=True, timeout=180)


def _is_compiled(artifact: Path) -> bool:
    return artifact.suffix == ".whl" and not artifact.name.endswith(PURE)


def check(artifact: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = folder / "venv" / "bin" / "python"
        run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
        run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", artifact, cwd=folder)
        run(python, "-c", INSTALLED + (COMPILED if _is_compiled(artifact) else ""), cwd=folder)
        examples = folder / "examples"
        shutil.copytree(ROOT / "examples", examples, ignore=shutil.ignore_patterns("__pycache__"))
        for script in ("tunnel_server.py", "tunnel_client.py"):
            run(python, examples / script, "--version", cwd=folder)
        run(python, examples / "embedded.py", cwd=folder)
        run(python, examples / "demo.py", "--quick", cwd=folder)


def main(folder: Path) -> int:
    wheels, sdists = [*folder.glob("*.whl")], [*folder.glob("*.tar.gz")]
    artifacts = wheels + sdists
    if len(sdists) != 1 or sum(wheel.name.endswith(PURE) for wheel in wheels) != 1:
        print(f"{folder} must hold one wheel for all machines and one sdist, and holds {[a.name for a in artifacts]}")
        return 1
    for artifact in artifacts:
        print(f"== {artifact.name}", flush=True)
        check(artifact.resolve())
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
