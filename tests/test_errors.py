from __future__ import annotations

import inspect

import pytest

from tunnelkit import errors


def test_one_hierarchy() -> None:
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), errors.TunnelkitError), name


def test_every_error_is_public() -> None:
    classes = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, Exception) and value.__module__ == errors.__name__
    }
    assert classes == set(errors.__all__)


def test_a_wrong_setting_names_the_field_and_the_fix() -> None:
    error = errors.ConfigError("port", "must be a number", "give one from 0 to 65535")
    assert str(error) == "port: must be a number; give one from 0 to 65535"
    assert str(errors.ConfigError("port", "must be a number")) == "port: must be a number"
    assert isinstance(error, ValueError)
    assert (error.field, error.problem, error.fix) == ("port", "must be a number", "give one from 0 to 65535")


def test_protocol_errors_are_of_one_side_or_the_other() -> None:
    with pytest.raises(TypeError, match="is abstract"):
        errors.ProtocolError("whose?")
    assert errors.LocalProtocolError("ours").code == "protocol_error"
    assert errors.RemoteProtocolError("theirs", code="unknown_frame").code == "unknown_frame"


def test_errors_of_requests() -> None:
    head = errors.HeadError(400, "bad_host", "two Host fields")
    assert (head.status, head.code, str(head)) == (400, "bad_host", "two Host fields")
    queue = errors.QueueError(503, "queue_full", "no room", retry_after=1.0)
    assert (queue.status, queue.code, queue.retry_after, str(queue)) == (503, "queue_full", 1.0, "no room")


def test_ends_of_sessions_and_connections() -> None:
    assert str(errors.SessionGone("superseded")) == "the session is gone: superseded"
    assert str(errors.StreamReset(5)) == "stream reset by the peer with code 5"
    lost = errors.ConnectionLost("peer went away", clean=True, code=1001)
    assert (lost.clean, lost.code, str(lost)) == (True, 1001, "peer went away")


def test_failed_dials_hint_at_the_cause() -> None:
    assert str(errors.DialError("tls", "no TLS", hint="use ws://")) == "no TLS (use ws://)"
    assert str(errors.DialError("connect", "refused")) == "refused"
    proxy = errors.ProxyError("the proxy said no", status=407)
    assert (proxy.stage, proxy.status) == ("proxy", 407)
    other = errors.AnsweredByOther(200, "a page", hint="a captive portal?", retry_after=2.0)
    assert (other.stage, other.status, other.retry_after) == ("handshake", 200, 2.0)


@pytest.mark.parametrize(
    ("code", "terminal"),
    [
        *[("bad_request", True), ("unauthorized", True), ("forbidden", True)],
        *[("version", True), ("superseded", True), ("name_taken", True)],
        *[("too_many_clients", False), ("unknown_session", False), ("", False)],
    ],
)
def test_only_some_refusals_end_a_client(code: str, terminal: bool) -> None:
    error = errors.RegistrationRefused(401, code, "no")
    assert error.terminal is terminal
    assert str(error) == f"refused by the tunnel server: no (status 401, code {code})"


def test_a_destination_that_is_not_reached_says_why() -> None:
    error = errors.ConnectRefused(403, "destination_refused", "the client does not go there")
    assert (error.status, error.code, error.detail) == (403, "destination_refused", "the client does not go there")
    assert "the client does not go there" in str(error)
