"""``examples/tunnel_client.py``, whose long-poll never streams: that is for the library's users to say, not for its."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from tunnelkit.transports.longpoll import LongPollTransport

PROGRAM = Path(__file__).resolve().parent.parent.parent / "examples" / "tunnel_client.py"

if __name__ == "__main__":
    assert LongPollTransport.__init__.__kwdefaults__["mode"] == "auto"
    LongPollTransport.__init__.__kwdefaults__["mode"] = "strict"
    sys.path.insert(0, str(PROGRAM.parent))
    runpy.run_path(str(PROGRAM), run_name="__main__")
