"""Whatever an app sends, in whatever order: no illegal exchange comes of it, and nothing made-up that looks whole."""

from __future__ import annotations

from typing import Any

import anyio
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit import AsgiOrigin
from tunnelkit.heads import ResponseHead

from .fakes import FakeExchange, request

START = st.builds(
    lambda status, length, trailers: {
        "type": "http.response.start",
        "status": status,
        "headers": [] if length is None else [(b"content-length", b"%d" % length)],
        "trailers": trailers,
    },
    st.sampled_from([200, 204, 304, 404, 100, 101, 99]),
    st.sampled_from([None, None, 0, 3, 6]),
    st.booleans(),
)
BODY = st.builds(
    lambda body, more: {"type": "http.response.body", "body": body, "more_body": more},
    st.sampled_from([b"", b"abc", b"abcdef"]),
    st.booleans(),
)
OTHER = st.sampled_from([
    {"type": "http.response.trailers", "headers": [(b"x", b"y")]},
    {"type": "http.response.trailers", "headers": [(b"x", b"a\nb")], "more_trailers": True},
    {"type": "http.response.early_hint", "links": [b"</a>"]},
    {"type": "http.response.early_hint", "links": [b"a\r\nb"]},
    {"type": "websocket.close"},
    {"type": "lifespan.startup.complete"},
])  # fmt: skip
MESSAGES = st.lists(st.one_of(START, BODY, BODY, OTHER), max_size=8)


@given(MESSAGES, st.sampled_from([b"GET", b"HEAD"]), st.booleans(), st.booleans())
def test_an_answer_is_whole_or_seen_not_to_be(
    messages: list[dict[str, Any]], method: bytes, swallows: bool, raises: bool
) -> None:
    """``FakeExchange`` raises at an illegal move, as the tunnel's own machine does. An app that swallows its errors
    cannot make a broken response whole."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            try:
                await send(message)
            except Exception:
                if not swallows:
                    raise
        if raises:
            raise ValueError("at its end")

    exchange = FakeExchange(request(method))
    anyio.run(AsgiOrigin(app).serve, exchange)
    ends = [item for item in exchange.sent if item == "end" or isinstance(item, list)]
    failures = [item for item in exchange.sent if isinstance(item, tuple)]
    finals = [item for item in exchange.sent if isinstance(item, ResponseHead) and item.status >= 200]
    assert len(ends) <= 1
    assert len(finals) <= 1
    if ends:
        [head] = finals
        lengths = [int(value) for name, value in head.fields if name.lower() == b"content-length"]
        if lengths and method == b"GET" and head.status not in (204, 304):
            assert len(exchange.body) == lengths[0]
    else:
        assert failures  # told, or broken off
        assert exchange.gone == bool(finals)
