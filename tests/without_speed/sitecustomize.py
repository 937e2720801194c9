"""For ``make bare``, which puts this folder first: Python runs it before all else, also in the programs that tests
start. Nothing finds what the extra ``speed`` installs."""

import sys

for module in ("httptools", "uvloop", "websockets"):
    sys.modules[module] = None  # type: ignore[assignment]
