"""Date is added where it is missing (RFC 9110 6.6.1), and kept where it is not."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime

import pytest

from tunnelkit.heads import ResponseHead
from tunnelkit.http.dates import Dates


def test_a_missing_date_is_added() -> None:
    before = int(time.time())
    head = Dates().on(ResponseHead(404, [(b"X-A", b"1")], b"Not Found"))
    assert head.fields[:-1] == [(b"X-A", b"1")]
    name, value = head.fields[-1]
    assert name == b"Date"
    assert before <= parsedate_to_datetime(value.decode()).timestamp() <= time.time()
    assert (head.status, head.reason) == (404, b"Not Found")


def test_the_origins_own_date_is_kept() -> None:
    head = ResponseHead(200, [(b"date", b"Sat, 21 Nov 2026 02:39:44 GMT")])
    assert Dates().on(head) is head


def test_the_text_changes_with_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    dates = Dates()
    monkeypatch.setattr(time, "time", lambda: 0.9)
    assert dates.now() == b"Thu, 01 Jan 1970 00:00:00 GMT"
    monkeypatch.setattr(time, "time", lambda: 1.0)
    assert dates.now() == b"Thu, 01 Jan 1970 00:00:01 GMT"
