"""``examples/tunnel_client.py``, but its long-poll never streams. No flag says so: it finds out by itself."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from tunnelkit.transports.longpoll import LongPollTransport

PROGRAM = Path(__file__).resolve().parent.parent.parent / "examples" / "tunnel_client.py"

if __name__ == "__main__":
    defaults = LongPollTransport.__init__.__kwdefaults__
    assert defaults is not None
    assert defaults["mode"] == "auto"
    defaults["mode"] = "strict"
    sys.path.insert(0, str(PROGRAM.parent))
    runpy.run_path(str(PROGRAM), run_name="__main__")
