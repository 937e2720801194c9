"""HTTP Archive 1.2 (http://www.softwareishard.com/blog/har-12-spec/) of what an inspector keeps. Pure."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from . import __version__

if TYPE_CHECKING:
    from .inspector import Inspected, InspectedBody

__all__ = ["entry", "har", "text_of"]

_UNKNOWN = -1  # HAR's word for a size or time that is not known


def har(exchanges: Iterable[Inspected]) -> dict[str, object]:
    """Those that are over. Bodies that were cut say so in ``comment``; what is no UTF-8 is in base64."""
    return {
        "log": {
            "version": "1.2",
            "creator": {"name": "tunnelkit", "version": __version__},
            "entries": [entry(exchange) for exchange in exchanges if exchange.outcome],
        }
    }


def entry(exchange: Inspected) -> dict[str, Any]:
    wait = exchange.answered if exchange.status is not None else exchange.seconds
    return {
        "startedDateTime": datetime.fromtimestamp(exchange.started, UTC).isoformat(),
        "time": _ms(exchange.seconds),
        "request": _request(exchange),
        "response": _response(exchange),
        "cache": {},
        "timings": {"send": 0, "wait": _ms(wait), "receive": _ms(max(exchange.seconds - wait, 0.0))},
        "comment": f"{exchange.outcome} {exchange.tunnel}".strip(),
    }


def _request(exchange: Inspected) -> dict[str, Any]:
    found: dict[str, Any] = {
        "method": exchange.method,
        "url": f"http://{_host(exchange.fields)}{exchange.target}",
        "httpVersion": "HTTP/1.1",
        "cookies": [],
        "headers": _pairs(exchange.fields),
        "queryString": _pairs(parse_qsl(exchange.target.partition("?")[2], keep_blank_values=True)),
        "headersSize": _UNKNOWN,
        "bodySize": exchange.body.size,
    }
    if exchange.body.size:
        text, encoding = text_of(exchange.body)
        data = {"mimeType": _type_of(exchange.fields), "params": [], "text": text}
        found["postData"] = {**data, **_comment(exchange.body, encoding)}
    return found


def _response(exchange: Inspected) -> dict[str, Any]:
    text, encoding = text_of(exchange.answer_body)
    body = exchange.answer_body
    content = {"size": body.size, "mimeType": _type_of(exchange.answer_fields), "text": text}
    if encoding:
        content["encoding"] = encoding
    location = next((value for name, value in exchange.answer_fields if name.lower() == "location"), "")
    return {
        "status": exchange.status or 0,
        "statusText": exchange.reason,
        "httpVersion": "HTTP/1.1",
        "cookies": [],
        "headers": _pairs(exchange.answer_fields),
        "content": {**content, **_comment(body, "")},
        "redirectURL": location,
        "headersSize": _UNKNOWN,
        "bodySize": body.size,
    }


def text_of(body: InspectedBody) -> tuple[str, str]:
    """What is kept of a body, and how it is encoded: "" for text, else "base64"."""
    try:
        return body.data.decode("utf-8"), ""
    except UnicodeDecodeError:
        return b64encode(body.data).decode("ascii"), "base64"


def _comment(body: InspectedBody, encoding: str) -> dict[str, str]:
    words = [encoding] if encoding else []
    if not body.whole:
        words.append(f"the first {body.kept} of {body.size} bytes")
    return {"comment": ", ".join(words)} if words else {}


def _pairs(pairs: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in pairs]


def _host(fields: list[tuple[str, str]]) -> str:
    return next((value for name, value in fields if name.lower() == "host"), "localhost")


def _type_of(fields: list[tuple[str, str]]) -> str:
    return next((value for name, value in fields if name.lower() == "content-type"), "")


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
