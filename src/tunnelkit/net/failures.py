"""What the operating system's errors are called in tunnelkit's own."""

from __future__ import annotations

import errno
import os

from ..errors import StreamBroken

__all__ = ["reason_of", "stream_broken"]

# Written out, so that the texts are the same on every platform and name no address.
_REASONS = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset by the peer",
    errno.EPIPE: "the peer closed the connection",
    errno.ECONNABORTED: "connection aborted",
    errno.ETIMEDOUT: "no answer: timed out",
    errno.EHOSTUNREACH: "host unreachable",
    errno.ENETUNREACH: "network unreachable",
    errno.EACCES: "not permitted",
    errno.EPERM: "not permitted",
    errno.EADDRNOTAVAIL: "no local address to dial from",
    errno.ENOENT: "no such socket file",
    errno.EMFILE: "too many open files in this process",
    errno.ENFILE: "too many open files in the system",
}


def reason_of(exc: BaseException | None) -> str:
    """A few words, without addresses or secrets."""
    if isinstance(exc, OSError) and exc.errno is not None:
        return _REASONS.get(exc.errno) or os.strerror(exc.errno)
    return "closed" if exc is None else type(exc).__name__


def stream_broken(failure: BaseException | str | None) -> StreamBroken:
    """The error for a byte stream that failed so, or was closed on this side (None). A stream that stays keeps the
    reason and not the exception, whose frames have the stream."""
    return StreamBroken(failure if isinstance(failure, str) else reason_of(failure))
