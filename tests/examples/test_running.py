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


COLLECTOR = """\
import gc, sys
sys.path.insert(0, sys.argv[1])
from cli.options import SERVER
from cli.running import run_program

async def main(settings):
    made = [[] for _ in range(10)]
    print(gc.get_freeze_count(), sum(each is one for each in gc.get_objects() for one in made))
    return 0

sys.exit(run_program("", SERVER, {}, main, []))
"""


def test_the_collector_passes_over_what_a_program_begins_with_and_not_over_what_follows() -> None:
    folder = Path(running.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", COLLECTOR, str(folder)], stdout=subprocess.PIPE, check=True, timeout=50
    )
    frozen, seen = map(int, done.stdout.split())
    assert frozen > 10_000  # tunnelkit's own modules and those that it needs
    assert seen == 10
