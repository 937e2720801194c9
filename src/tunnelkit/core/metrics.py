"""What the server counts, and how ``/_metrics`` says it: the text format of Prometheus, version 0.0.4.

Written by ourselves rather than with prometheus-client, whose locks and look-ups of labels cost a request six times
as much (8 us to 1.3 us); nothing else is needed of it. A label is never a token, a name, an address or a path, nor
what a peer may choose: codes and reasons that are not known count as "other".
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

__all__ = ["BUCKETS", "CONTENT_TYPE", "ENDS", "Gauges", "Metrics", "render"]

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
# Upper bounds in seconds. What streams for longer (downloads, events, websockets) shows in the last one.
BUCKETS: Final[tuple[float, ...]] = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
# How sessions end, by the codes of either end; docs/reference.md is made from it.
ENDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "closed": "the client ended in order",
        "closed_by_admin": "the administrator closed it",
        "closed_by_server": "the server's own program closed it",
        "grace_expired": "its client did not come back in time",
        "given_up": "its client opened another in its place",
        "superseded": "another client took its place",
        "token_withdrawn": "its token is not in the configuration any more",
        "name_taken": "its name is another token's by the configuration",
        "unauthorized": "its client came back with a password that is wrong by now",
        "forbidden": "its client came back, and may not register any more",
        "server_closing": "the server stops",
        "peer_lost": "a client of another make lost its connection",
        "peer_silent": "a client of another make answered nothing",
        "internal_error": "a fault at one end, whose log tells more",
    }
)
OTHER: Final = "other"


class Metrics:
    """Counters since the start. ``codes``: the refusals that are told apart."""

    def __init__(self, codes: Iterable[str]) -> None:
        self.requests = 0
        self.unauthorised = 0
        self.received_bytes = 0
        self.sent_bytes = 0
        self.registrations = 0
        self.statuses: dict[int, int] = {}  # counted for every request, and a Counter takes twice as long
        self.seconds = 0.0
        self.resumes: Counter[str] = Counter()  # by the transport that the session goes on with
        self.moves: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        self._codes = frozenset(codes)
        self._buckets = [0] * (len(BUCKETS) + 1)

    def answered(self, status: int, *, received: int, sent: int, seconds: float) -> None:
        """A request is over: its body's bytes and its answer's, and how long it was here."""
        statuses = self.statuses
        statuses[status] = statuses.get(status, 0) + 1
        self.received_bytes += received
        self.sent_bytes += sent
        self.seconds += seconds
        self._buckets[bisect_left(BUCKETS, seconds)] += 1

    def attached(self, transport: str, *, before: str | None) -> None:
        """A session that there was has another connection; ``before``: the transport of the one that it still had."""
        counter = self.resumes if before is None or before == transport else self.moves
        counter[transport] += 1

    def refused(self, code: str) -> None:
        """A registration or resume was refused."""
        self.refusals[code if code in self._codes else OTHER] += 1

    def ended(self, code: str) -> None:
        """A session is over."""
        self.ends[code if code in ENDS else OTHER] += 1

    def durations(self) -> Iterator[tuple[str, int]]:
        """(upper bound, how many took no longer), as a histogram wants them."""
        total = 0
        for bound, count in zip((*BUCKETS, None), self._buckets, strict=True):
            total += count
            yield ("+Inf" if bound is None else f"{bound:g}"), total


@dataclass(frozen=True, kw_only=True, slots=True)
class Gauges:
    """The server at this moment."""

    tunnels: int  # tokens with a session
    sessions: Mapping[str, int] = field(default_factory=dict)  # attached ones by transport
    detached: int = 0
    active: int = 0  # requests, wherever they are
    queues: Iterable[int] = ()  # requests that wait, of each token that has any
    buffered: int = 0  # bytes
    buffered_limit: int = 0


# -- the text ----------------------------------------------------------------------------------


def render(metrics: Metrics, gauges: Gauges) -> bytes:
    """All of it, one family after the other."""
    return "".join(f"{line}\n" for family in _families(metrics, gauges) for line in family).encode()


def _families(metrics: Metrics, gauges: Gauges) -> Iterator[Iterable[str]]:
    queues = list(gauges.queues)
    yield _gauge("sessions", "Attached sessions.", "transport", gauges.sessions)
    yield _gauge("sessions_detached", "Sessions that lost their connection, in grace.", "", {"": gauges.detached})
    yield _gauge("tunnels", "Tokens with a session.", "", {"": gauges.tunnels})
    yield _gauge("requests_active", "Requests under way or waiting.", "", {"": gauges.active})
    yield _gauge("queue_requests", "Requests that wait for a client.", "", {"": sum(queues)})
    yield _gauge("queue_longest", "Requests that wait in the longest queue.", "", {"": max(queues, default=0)})
    yield _gauge("buffered_bytes", "Bytes reserved for buffers.", "", {"": gauges.buffered})
    yield _gauge("buffered_limit_bytes", "The most that may be reserved.", "", {"": gauges.buffered_limit})
    yield _counter("requests", "Requests to tunnels.", "", {"": metrics.requests})
    yield _counter("requests_unauthorised", "Others, without a caller's credentials.", "", {"": metrics.unauthorised})
    yield _counter("responses", "Their answers; 499: the caller left.", "status", metrics.statuses)
    yield _counter("request_body_bytes", "Bytes of requests' bodies.", "", {"": metrics.received_bytes})
    yield _counter("response_body_bytes", "Bytes of answers' bodies.", "", {"": metrics.sent_bytes})
    yield _histogram("request_duration_seconds", "From arrival to the end of the answer.", metrics)
    yield _counter("registrations", "New sessions.", "", {"": metrics.registrations})
    yield _counter("resumes", "Sessions that went on after a loss.", "transport", metrics.resumes)
    yield _counter("moves", "Live sessions that went on by another transport.", "transport", metrics.moves)
    yield _counter("refusals", "Registrations and resumes refused.", "code", metrics.refusals)
    yield _counter("sessions_ended", "Sessions that are over.", "reason", metrics.ends)


def _gauge(name: str, text: str, label: str, values: Mapping[str, int]) -> Iterator[str]:
    yield from _heading(name, text, "gauge")
    yield from _samples(name, label, values)


def _counter(name: str, text: str, label: str, values: Mapping[str, int] | Mapping[int, int]) -> Iterator[str]:
    yield from _heading(f"{name}_total", text, "counter")
    yield from _samples(f"{name}_total", label, values)


def _histogram(name: str, text: str, metrics: Metrics) -> Iterator[str]:
    yield from _heading(name, text, "histogram")
    count = 0
    for bound, count in metrics.durations():
        yield f'tunnelkit_{name}_bucket{{le="{bound}"}} {count}'
    yield f"tunnelkit_{name}_sum {metrics.seconds:.6f}"
    yield f"tunnelkit_{name}_count {count}"


def _heading(name: str, text: str, kind: str) -> Iterator[str]:
    yield f"# HELP tunnelkit_{name} {text}"
    yield f"# TYPE tunnelkit_{name} {kind}"


def _samples(name: str, label: str, values: Mapping[str, int] | Mapping[int, int]) -> Iterator[str]:
    for value, count in values.items():
        labels = f'{{{label}="{_escaped(str(value))}"}}' if label else ""
        yield f"tunnelkit_{name}{labels} {count}"


def _escaped(value: str) -> str:
    """A transport of somebody's own may have any name."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
