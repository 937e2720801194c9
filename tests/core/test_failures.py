"""What the core raises can be told apart by whoever has the session."""

from __future__ import annotations

from tunnelkit.core.failures import ConnectionFailed, GoingAway, NoRoom
from tunnelkit.errors import LocalProtocolError, RemoteProtocolError


def test_a_failed_connection_says_why_and_by_which_code() -> None:
    failed = ConnectionFailed("a ping was not answered", code="ping_timeout")
    assert isinstance(failed, RemoteProtocolError)
    assert (failed.reason, failed.code, str(failed)) == ("a ping was not answered", "ping_timeout", failed.reason)


def test_no_stream_now_is_not_no_stream_any_more() -> None:
    for kind in (NoRoom, GoingAway):
        assert isinstance(kind("no", code="no_room"), LocalProtocolError)
    assert not issubclass(NoRoom, GoingAway)
    assert not issubclass(GoingAway, NoRoom)
