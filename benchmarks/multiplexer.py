"""What the multiplexer costs by itself: small exchanges and one bulk stream between two ends, without any I/O.

Run: ``python benchmarks/multiplexer.py``. CPU time, both ends in one process; the best of some rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tunnelkit.config import DEFAULT_LIMITS, MIB
from tunnelkit.core.budget import Budget
from tunnelkit.core.frames import StreamKind
from tunnelkit.core.multiplexer import Data, Multiplexer

HEAD = b"h" * 300
BODY = b"b" * 200
CHUNK = bytes(64 * 1024)


def make(client: bool) -> Multiplexer:
    limits = DEFAULT_LIMITS
    return Multiplexer(
        client=client,
        limits=limits,
        peer_floor=limits.stream_floor,
        peer_max_streams=limits.max_streams,
        budget=Budget(limits.max_buffered_bytes),
    )


def pass_on(sender: Multiplexer, receiver: Multiplexer, limit: int = 65_500) -> None:
    message = b"".join(sender.frames_to_send(limit))
    sender.take_room_events()
    for event in receiver.receive_data(message, 0.0):
        if type(event) is Data:
            receiver.consume(event.stream_id, len(event.data))


def small_exchange(server: Multiplexer, client: Multiplexer) -> None:
    stream = server.open_stream(StreamKind.HTTP)
    server.send_head(stream, HEAD, fin=True)
    pass_on(server, client)
    client.send_head(stream, HEAD)
    client.send_data(stream, BODY, fin=True)
    pass_on(client, server)


def small_exchanges(server: Multiplexer, client: Multiplexer, count: int) -> None:
    for _ in range(count):
        small_exchange(server, client)


def bulk(server: Multiplexer, client: Multiplexer, size: int) -> None:
    stream = server.open_stream(StreamKind.HTTP)
    pass_on(server, client)
    sent = 0
    while sent < size:
        while room := client.send_room(stream):
            client.send_data(stream, CHUNK[:room])
            sent += room
        pass_on(client, server)
        if server.has_output:
            pass_on(server, client)
    server.reset(stream, 1)
    pass_on(server, client)


def main() -> None:
    server, client = make(False), make(True)
    best = min(_timed(lambda: small_exchanges(server, client, 10_000)) for _ in range(7))
    print(f"small exchange: {best / 10_000 * 1e6 / 2:.1f} us an end")
    best = min(_timed(lambda: bulk(server, client, 256 * MIB)) for _ in range(5))
    print(f"bulk: {256 * MIB / best / 1e6:.0f} MB/s, {best / 4096 * 1e6:.1f} us for 64 KiB, both ends")


def _timed(function: Callable[[], object]) -> float:
    began = time.process_time()
    function()
    return time.process_time() - began


if __name__ == "__main__":
    main()
