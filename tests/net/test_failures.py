from __future__ import annotations

import errno

from tunnelkit.errors import StreamBroken
from tunnelkit.net.failures import reason_of, stream_broken


def test_reasons() -> None:
    assert reason_of(None) == "closed"
    assert reason_of(ConnectionResetError(errno.ECONNRESET, "Connection reset")) == "connection reset by the peer"
    assert reason_of(OSError(errno.EISDIR, "secret path")) == "Is a directory"
    assert reason_of(OSError("no number")) == "OSError"
    assert reason_of(ValueError("secret")) == "ValueError"


def test_stream_broken() -> None:
    broken = stream_broken(BrokenPipeError(errno.EPIPE, "x"))
    assert isinstance(broken, StreamBroken)
    assert str(broken) == "the peer closed the connection"
