"""Functions around each exchange, at either end: what they see, may change, and may answer in the origin's place.

    async def middleware(exchange: HttpExchange, call_next: CallNext) -> HttpAnswer:
        answer = await call_next(exchange)      # returns with the head of the answer; bodies stream past
        answer.set_header("Server", "mine")
        return answer

Bodies are never held: what is under way waits, in its sender, until the function returned.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from .heads import Fields, RequestHead, ResponseHead, field_values

__all__ = [
    "CallNext",
    "HttpAnswer",
    "HttpExchange",
    "Middleware",
    "chained",
    "changed_answer",
    "changed_request",
    "own_body",
    "stands_alone",
]

# What says where a body ends is its sender's word, and stays.
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
# No body follows these, whatever their fields say (RFC 9110 6.4.1).
_BODILESS = frozenset({204, 304})


class _Headers:
    fields: Fields
    """Name and value of each header field, as bytes, in order."""

    def header(self, name: str) -> str | None:
        """The value of a field, several joined with a comma; None where there is none."""
        values = field_values(self.fields, name.lower().encode("latin-1"))
        return b", ".join(values).decode("latin-1") if values else None

    def set_header(self, name: str, value: str) -> None:
        """Put this field in the place of all of its name."""
        self.remove_header(name)
        self.fields.append((name.encode("latin-1"), value.encode("latin-1")))

    def remove_header(self, name: str) -> None:
        """Take away all of its name."""
        key = name.lower().encode("latin-1")
        self.fields = [(each, value) for each, value in self.fields if each.lower() != key]


@dataclass(kw_only=True)
class HttpExchange(_Headers):
    """A request on its way. ``method``, ``target`` and ``fields`` may be changed before ``call_next``; a
    Content-Length or Transfer-Encoding in them counts for nothing, since the body is the caller's."""

    method: str
    target: str
    """Path and query, as the origin is asked for them: without the token."""
    fields: Fields = field(repr=False)
    caller: str = ""
    """The caller's address, where this end knows it."""
    tunnel: str = ""
    """At the server, what stands for the tunnel in log lines: of its token a start and a digest, or its name."""
    upgrade: bool = False
    """It asks for another protocol (a websocket), or for a stream of bytes."""


@dataclass
class HttpAnswer(_Headers):
    """The head of an answer. What ``call_next`` returns may be changed and is returned; its body follows by itself.
    One made here, with its small ``body``, takes the place of the origin's: what was asked of that is cancelled."""

    status: int
    fields: Fields = field(default_factory=list, repr=False)
    body: bytes = field(default=b"", repr=False)
    head: ResponseHead | None = field(default=None, repr=False)
    """What came from the origin; None for an answer made here."""

    @classmethod
    def of(cls, head: ResponseHead) -> HttpAnswer:
        return cls(head.status, list(head.fields), head=head)


# What middleware is given to go on with: called once or not at all. It returns with the head of the answer, and
# raises ``errors.StreamBroken`` when the caller has left.
CallNext: TypeAlias = Callable[[HttpExchange], Awaitable[HttpAnswer]]
# What is given to either end as ``middleware``. What it raises costs its exchange alone; its end cancels it.
Middleware: TypeAlias = Callable[[HttpExchange, CallNext], Awaitable[HttpAnswer]]


def chained(middleware: Sequence[Middleware], innermost: CallNext) -> CallNext:
    """One call of all of them, the first around all others."""
    call = innermost
    for each in reversed(middleware):
        call = _around(each, call)
    return call


def _around(middleware: Middleware, call_next: CallNext) -> CallNext:
    async def call(exchange: HttpExchange) -> HttpAnswer:
        return await middleware(exchange, call_next)

    return call


def changed_request(exchange: HttpExchange, head: RequestHead, *, target: bytes) -> RequestHead:
    """``head`` with what was changed, and ``target``. Raises ValueError for what is no text of a head."""
    return RequestHead(exchange.method.encode("ascii"), target, _framed(exchange.fields, head.fields), head.version)


def stands_alone(answer: HttpAnswer) -> bool:
    """Whether nothing of the origin's body follows: behind an answer made here, and behind one whose status was
    changed to one without a body."""
    head = answer.head
    return head is None or (answer.status in _BODILESS and head.status not in _BODILESS)


def changed_answer(answer: HttpAnswer) -> ResponseHead:
    """The head that goes on, of an answer of either kind."""
    head = answer.head
    if head is None or stands_alone(answer):
        fields = [pair for pair in answer.fields if pair[0].lower() not in _FRAMING]
        if answer.status not in _BODILESS:
            fields.append((b"Content-Length", b"%d" % len(answer.body)))
        return ResponseHead(answer.status, fields)
    if answer.status == head.status and answer.fields == head.fields:
        return head
    reason = head.reason if answer.status == head.status else b""
    return ResponseHead(answer.status, _framed(answer.fields, head.fields), reason, head.version)


def own_body(answer: HttpAnswer, method: bytes) -> bytes:
    """What follows an answer that ``stands_alone``, to a request by ``method``."""
    return b"" if answer.status in _BODILESS or method == b"HEAD" else answer.body


def _framed(fields: Fields, before: Fields) -> Fields:
    kept = [pair for pair in before if pair[0].lower() in _FRAMING]
    now = [pair for pair in fields if pair[0].lower() in _FRAMING]
    if kept == now:
        return fields
    return [pair for pair in fields if pair[0].lower() not in _FRAMING] + kept
