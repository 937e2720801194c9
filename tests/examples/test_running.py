from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from cli import running

PROGRAM = """\
import resource, sys
sys.path.insert(0, sys.argv[1])
from cli.running import keep_freed_memory
if sys.argv[2] == "keep":
    keep_freed_memory()
below = [b"x" * 60_000 for _ in range(200)]  # fills what is free in the heap, so that all pieces are at its end
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    pieces = [b"x" * 60_000 for _ in range(16)]
    del pieces
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    folder = Path(running.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), how], stdout=subprocess.PIPE, check=True, timeout=50
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_memory_that_was_freed_is_not_fetched_anew_from_the_kernel() -> None:
    """Of which a hundred times a MB is freed here, and so would be 25,000 pages."""
    assert page_faults("keep") < 2_000 < page_faults("leave")
