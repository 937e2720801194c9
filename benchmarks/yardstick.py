"""A piece of work that is always the same. What a request costs is told in multiples of it too: a machine that others
share runs everything slower, this as well."""

from __future__ import annotations

import statistics
import time

import h11

__all__ = ["h11_cycle"]

FIELDS = [("Server", "nginx"), ("Date", "Sat, 21 Nov 2026 08:00:00 GMT"), ("Content-Type", "text/plain")]
FIELDS += [("Vary", "Accept"), ("Connection", "keep-alive"), ("Content-Length", "0")]
REQUEST = b"GET /small HTTP/1.1\r\nHost: tunnel.test\r\n%b\r\n" % b"".join(
    b"X-Field-%d: value-%d\r\n" % (number, number) for number in range(7)
)
BATCHES, CYCLES = 5, 200


def h11_cycle() -> float:
    """Seconds of processor time that h11 needs as a server for a GET with 8 fields and a 200 with 6."""
    return statistics.median(_batch() for _ in range(BATCHES))


def _batch() -> float:
    connection = h11.Connection(h11.SERVER)
    began = time.thread_time()
    for _ in range(CYCLES):
        connection.receive_data(REQUEST)
        connection.next_event()
        connection.next_event()
        connection.send(h11.Response(status_code=200, headers=FIELDS))
        connection.send(h11.EndOfMessage())
        connection.start_next_cycle()
    return (time.thread_time() - began) / CYCLES
