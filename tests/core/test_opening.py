from __future__ import annotations

import pytest

from tunnelkit.config import Limits
from tunnelkit.core.message import HEADER_SIZE, IGNORABLE, MAX_EPOCH, Kind, build, split_header
from tunnelkit.core.opening import (
    Attached,
    ClientOpening,
    OpeningInput,
    OpeningResult,
    OpeningState,
    ServerOpening,
)
from tunnelkit.errors import LocalProtocolError, RemoteProtocolError
from tunnelkit.proof import attach_tag

LIMITS = Limits()
TAG = attach_tag(bytes(32), "n-1", 3)
SKIPPED = b"\x63" + bytes((IGNORABLE,)) + bytes(HEADER_SIZE - 2)


def server() -> ServerOpening:
    return ServerOpening(3, TAG, LIMITS)


def client(*, ordered: bool = True) -> ClientOpening:
    return ClientOpening(3, TAG, LIMITS, ordered=ordered)


def refused(opening: ServerOpening | ClientOpening, message: bytes) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        opening.receive_message(message)
    return caught.value.code


def test_both_ends_attach() -> None:
    ours, theirs = client(), server()
    probe = bytes(LIMITS.ping_payload_limit)
    echo = theirs.receive_message(ours.ping_message(probe))
    assert echo.reply is not None
    assert ours.receive_message(echo.reply) == OpeningResult(verified=True)
    assert theirs.receive_message(ours.attach_message(700)) == OpeningResult(attached=Attached(3, 700))
    answer = theirs.attach_message(900)
    assert len(answer) == HEADER_SIZE
    assert ours.receive_message(answer) == OpeningResult(attached=Attached(3, 900))
    assert ours.state is theirs.state is OpeningState.DONE
    assert repr(ours) == "<ClientOpening epoch 3 DONE>"


def test_a_round_trip_need_not_be_proved() -> None:
    theirs = server()
    assert theirs.receive_message(client().attach_message(0)).attached == Attached(3, 0)
    assert theirs.state is OpeningState.ATTACHING


@pytest.mark.parametrize("opening", [server(), client(), client(ordered=False)])
def test_kinds_of_the_future_are_skipped(opening: ServerOpening | ClientOpening) -> None:
    assert opening.receive_message(SKIPPED) == OpeningResult()


@pytest.mark.parametrize("epoch", [0, MAX_EPOCH + 1])
def test_epochs_have_a_range(epoch: int) -> None:
    with pytest.raises(LocalProtocolError):
        ServerOpening(epoch, TAG, LIMITS)


class TestServer:
    def test_attach_repeats_epoch_and_tag(self) -> None:
        assert refused(server(), build(Kind.ATTACH, 4, 0, 0, [TAG])) == "bad_proof"
        assert refused(server(), build(Kind.ATTACH, 3, 0, 0, [bytes(32)])) == "bad_proof"
        assert refused(server(), build(Kind.ATTACH, 3, 0, 0, [TAG[:-1]])) == "bad_proof"
        assert refused(server(), build(Kind.ATTACH, 3, 0, 0)) == "bad_proof"

    @pytest.mark.parametrize("kind", [Kind.DATA, Kind.ACK, Kind.BYE, Kind.PONG])
    def test_nothing_else_passes(self, kind: Kind) -> None:
        assert refused(server(), build(kind, 3, 0, 0, [b"x"])) == "not_attached"

    @pytest.mark.parametrize("kind", Kind)
    def test_nothing_follows_attach(self, kind: Kind) -> None:
        """Neither before the answer nor after it: then the session reads."""
        theirs = server()
        theirs.receive_message(client().attach_message(0))
        assert refused(theirs, build(kind, 0, 0, 0)) == "not_attached"
        theirs.attach_message(0)
        assert refused(theirs, build(kind, 0, 0, 0)) == "not_attached"

    def test_pings_are_bounded_and_of_epoch_0(self) -> None:
        assert refused(server(), build(Kind.PING, 0, 0, 0, [bytes(LIMITS.ping_payload_limit + 1)])) == "ping_too_long"
        assert refused(server(), build(Kind.PING, 1, 0, 0)) == "bad_epoch"

    def test_the_answer_comes_after_attach_once(self) -> None:
        theirs = server()
        with pytest.raises(LocalProtocolError):
            theirs.attach_message(0)
        theirs.receive_message(client().attach_message(0))
        theirs.attach_message(0)
        with pytest.raises(LocalProtocolError):
            theirs.attach_message(0)


class TestClient:
    def test_the_server_does_not_ping_yet(self) -> None:
        """Its PING could cross ATTACH, and the PONG would reach an attached session."""
        assert refused(client(), build(Kind.PING, 0, 0, 0, [b"hello"])) == "not_attached"

    def test_a_pong_repeats_the_ping(self) -> None:
        ours = client()
        assert refused(ours, build(Kind.PONG, 0, 0, 0, [b"hello"])) == "bad_pong"
        ours.ping_message(b"hello")
        assert refused(ours, build(Kind.PONG, 0, 0, 0, [b"hellO"])) == "bad_pong"
        assert refused(ours, build(Kind.PONG, 0, 0, 0, [bytes(LIMITS.ping_payload_limit + 1)])) == "ping_too_long"

    def test_a_ping_is_bounded(self) -> None:
        with pytest.raises(LocalProtocolError):
            client().ping_message(bytes(LIMITS.ping_payload_limit + 1))

    def test_a_tag_has_one_size(self) -> None:
        with pytest.raises(LocalProtocolError):
            ClientOpening(3, b"short", LIMITS)

    def test_attach_is_written_once(self) -> None:
        ours = client()
        ours.attach_message(0)
        with pytest.raises(LocalProtocolError):
            ours.attach_message(0)

    def test_the_answer_comes_after_attach(self) -> None:
        assert refused(client(), build(Kind.ATTACH, 3, 0, 0)) == "not_attached"

    def test_the_answer_is_of_the_epoch_and_empty(self) -> None:
        ours = client()
        ours.attach_message(0)
        assert refused(ours, build(Kind.ATTACH, 2, 0, 0)) == "bad_epoch"
        assert refused(ours, build(Kind.ATTACH, 3, 0, 0, [b"x"])) == "bad_attach"

    @pytest.mark.parametrize("kind", set(Kind) - {Kind.ATTACH})
    def test_with_order_nothing_overtakes_the_answer(self, kind: Kind) -> None:
        ours = client()
        ours.attach_message(0)
        assert refused(ours, build(kind, 3, 0, 0)) == "not_attached"

    @pytest.mark.parametrize("kind", set(Kind) - {Kind.ATTACH})
    def test_without_order_anything_of_the_epoch_is_an_answer(self, kind: Kind) -> None:
        ours = client(ordered=False)
        message = build(kind, 3, 0, 55)
        assert refused(ours, message) == "not_attached"
        ours.attach_message(0)
        assert refused(ours, build(kind, 2, 0, 55)) == "bad_epoch"
        assert ours.receive_message(message) == OpeningResult(attached=Attached(3, 55), unread=message)

    def test_a_late_pong_may_come_after_attach_was_written(self) -> None:
        ours = client()
        ping = ours.ping_message(b"x")
        ours.attach_message(0)
        echo = server().receive_message(ping).reply
        assert echo is not None
        assert ours.receive_message(echo).verified


WRITES = {OpeningInput.PING: lambda opening: opening.ping_message(b"x"),
          OpeningInput.WRITE_ATTACH: lambda opening: opening.attach_message(0)}  # fmt: skip


@pytest.mark.parametrize("state", OpeningState)
@pytest.mark.parametrize("move", WRITES)
def test_every_move_of_the_client(state: OpeningState, move: OpeningInput) -> None:
    ours = client()
    if state is not OpeningState.OPENING:
        ours.attach_message(0)
    if state is OpeningState.DONE:
        ours.receive_message(build(Kind.ATTACH, 3, 0, 0))
    assert ours.state is state
    legal = {(OpeningState.OPENING, OpeningInput.PING): OpeningState.OPENING,
             (OpeningState.OPENING, OpeningInput.WRITE_ATTACH): OpeningState.ATTACHING}  # fmt: skip
    if (state, move) in legal:
        message = WRITES[move](ours)
        assert split_header(message)[0] in (Kind.PING, Kind.ATTACH)
        assert ours.state is legal[state, move]
    else:
        with pytest.raises(LocalProtocolError):
            WRITES[move](ours)
        assert ours.state is state
