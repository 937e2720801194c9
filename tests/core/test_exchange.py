from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.config import Limits
from tunnelkit.core.exchange import (
    INTERIM_LIMIT,
    REQUEST,
    RESPONSE,
    Delivery,
    Exchange,
    Move,
    State,
    Table,
    may_dispatch_again,
)
from tunnelkit.errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from tunnelkit.heads import (
    Fields,
    RequestHead,
    ResponseHead,
    Trailers,
    encode_request,
    encode_response,
    encode_trailers,
)

HOST = (b"Host", b"h")
OFFER = [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
ACCEPT = ResponseHead(101, OFFER)


def get(*fields: tuple[bytes, bytes], method: bytes = b"GET") -> RequestHead:
    return RequestHead(method, b"/", [HOST, *fields])


def length(size: int) -> tuple[bytes, bytes]:
    return (b"Content-Length", b"%d" % size)


class Pair:
    """Both ends of one exchange: what one sends, the other receives."""

    def __init__(self) -> None:
        self.server = Exchange(client=False)
        self.client = Exchange(client=True)

    def request(self, head: RequestHead, *, fin: bool = False) -> None:
        assert self.client.receive_head(self.server.send_request(head, fin=fin), fin=fin) == head

    def response(self, head: ResponseHead, *, fin: bool = False) -> None:
        assert self.server.receive_head(self.client.send_response(head, fin=fin), fin=fin) == head

    def up(self, size: int, *, fin: bool = False) -> None:
        self.server.send_data(size, fin=fin)
        self.client.receive_data(size, fin=fin)

    def down(self, size: int, *, fin: bool = False) -> None:
        self.client.send_data(size, fin=fin)
        self.server.receive_data(size, fin=fin)

    def check(self, *, complete: bool, upgraded: bool = False) -> None:
        for end in (self.server, self.client):
            assert (end.complete, end.upgraded) == (complete, upgraded)


# -- the tables --------------------------------------------------------------------------------


def test_the_tables_name_every_state_that_they_lead_to() -> None:
    for table in (REQUEST, RESPONSE):
        assert {state for moves in table.values() for state in moves.values()} <= table.keys()
        assert State.DONE in table
        assert not any(
            move in table[State.DONE] for move in (Move.DATA, Move.TRAILERS, Move.FIN, Move.FINAL, Move.HEAD)
        )


# How an exchange comes into each state, and what is tried there. Each half by its sender and by its receiver: every
# pair of state and input is legal at both or at neither.
Step: TypeAlias = Callable[[Pair], None]


def asks(*fields: tuple[bytes, bytes], fin: bool = False) -> Step:
    return lambda pair: pair.request(get(*fields), fin=fin)


def answers(head: ResponseHead, *, fin: bool = False) -> Step:
    return lambda pair: pair.response(head, fin=fin)


OK = ResponseHead(200, [])
HALVES: dict[str, dict[State, list[Step]]] = {
    "request": {
        State.IDLE: [],
        State.OFFERED: [asks(*OFFER)],
        State.BODY: [asks()],
        State.ENDING: [asks(*OFFER), answers(OK)],
        State.UPGRADED: [asks(*OFFER), answers(ACCEPT)],
        State.DONE: [asks(fin=True)],
    },
    "response": {
        State.IDLE: [],
        State.WAITING: [asks(*OFFER)],
        State.BODY: [asks(*OFFER), answers(OK)],
        State.UPGRADED: [asks(*OFFER), answers(ACCEPT)],
        State.DONE: [asks(*OFFER), answers(OK, fin=True)],
    },
}
SENDS: dict[Move, Callable[[Exchange], object]] = {
    Move.HEAD: lambda end: end.send_request(get()),
    Move.OFFER: lambda end: end.send_request(get(*OFFER)),
    Move.INTERIM: lambda end: end.send_response(ResponseHead(103, [])),
    Move.FINAL: lambda end: end.send_response(ResponseHead(200, [])),
    Move.SWITCH: lambda end: end.send_response(ACCEPT),
    Move.DATA: lambda end: end.send_data(1),
    Move.TRAILERS: lambda end: end.send_trailers([(b"A", b"b")]),
    Move.FIN: lambda end: end.send_fin(),
}
RECEIVES: dict[Move, Callable[[Exchange], object]] = {
    Move.HEAD: lambda end: end.receive_head(encode_request(get())),
    Move.OFFER: lambda end: end.receive_head(encode_request(get(*OFFER))),
    Move.INTERIM: lambda end: end.receive_head(encode_response(ResponseHead(103, []))),
    Move.FINAL: lambda end: end.receive_head(encode_response(ResponseHead(200, []))),
    Move.SWITCH: lambda end: end.receive_head(encode_response(ACCEPT)),
    Move.DATA: lambda end: end.receive_data(1),
    Move.TRAILERS: lambda end: end.receive_head(encode_trailers([(b"A", b"b")]), fin=True),
    Move.FIN: lambda end: end.receive_data(0, fin=True),
}
OF_THE_RESPONSE = {Move.INTERIM, Move.FINAL, Move.SWITCH}
OF_THE_REQUEST = {Move.HEAD, Move.OFFER}
CASES = [
    (half, state, move)
    for half, states in HALVES.items()
    for state, move in product(states, SENDS)
    if move not in (OF_THE_RESPONSE if half == "request" else OF_THE_REQUEST)
]


@pytest.mark.parametrize(("half", "state", "move"), CASES, ids=lambda value: getattr(value, "name", value))
def test_every_move_in_every_state(half: str, state: State, move: Move) -> None:
    table = REQUEST if half == "request" else RESPONSE
    for inputs, error, server in (
        (SENDS, LocalProtocolError, half == "request"),
        (RECEIVES, RemoteProtocolError, half == "response"),
    ):
        pair = Pair()
        for step in HALVES[half][state]:
            step(pair)
        end = pair.server if server else pair.client
        assert getattr(end, half).state is state
        if move in table[state]:
            inputs[move](end)
        else:
            with pytest.raises(error) as caught:
                inputs[move](end)
            assert caught.value.code == "bad_exchange"


def test_after_trailers_nothing_follows() -> None:
    pair = Pair()
    pair.request(get())
    pair.client.receive_head(pair.server.send_trailers([(b"A", b"b")]), fin=True)
    with pytest.raises(LocalProtocolError):
        pair.server.send_data(1)
    with pytest.raises(RemoteProtocolError):
        pair.client.receive_data(1)


# -- exchanges that go well --------------------------------------------------------------------


def test_a_get() -> None:
    pair = Pair()
    pair.request(get(), fin=True)
    pair.response(ResponseHead(103, []))
    pair.response(ResponseHead(100, []))
    pair.check(complete=False)
    pair.response(ResponseHead(200, [length(5)]))
    pair.down(2)
    pair.down(3, fin=True)
    pair.check(complete=True)


def test_a_post_with_trailers_both_ways() -> None:
    pair = Pair()
    pair.request(get(method=b"POST"))
    pair.up(5)
    trailers: Fields = [(b"A", b"b")]
    assert pair.client.receive_head(pair.server.send_trailers(trailers), fin=True) == Trailers(trailers)
    pair.response(ResponseHead(200, []))
    pair.down(0)
    assert pair.server.receive_head(pair.client.send_trailers([(b"Host", b"x"), *trailers]), fin=True) == Trailers(
        trailers
    )
    pair.check(complete=True)


def test_an_early_answer_leaves_the_request_open() -> None:
    pair = Pair()
    pair.request(get(length(5), method=b"POST"))
    pair.response(ResponseHead(413, [length(0)]), fin=True)
    pair.check(complete=False)
    assert pair.server.delivery is Delivery.ANSWERED
    pair.up(5, fin=True)
    pair.check(complete=True)


def test_interim_responses_come_to_an_end() -> None:
    pair = Pair()
    pair.request(get(), fin=True)
    for _ in range(INTERIM_LIMIT):
        pair.response(ResponseHead(102, []))
    with pytest.raises(RemoteProtocolError) as caught:
        pair.server.receive_head(encode_response(ResponseHead(102, [])))
    assert caught.value.code == "bad_exchange"
    with pytest.raises(LocalProtocolError):
        pair.client.send_response(ResponseHead(102, []))


def test_an_upgrade() -> None:
    pair = Pair()
    pair.request(get(*OFFER, length(0)))
    pair.response(ResponseHead(103, []))
    pair.response(ACCEPT)
    pair.check(complete=False, upgraded=True)
    pair.up(100)
    pair.down(100, fin=True)
    pair.up(100, fin=True)
    pair.check(complete=True, upgraded=True)


def test_a_refused_upgrade() -> None:
    pair = Pair()
    pair.request(get(*OFFER))
    pair.response(ResponseHead(200, [length(2)]))
    pair.up(0, fin=True)
    pair.down(2, fin=True)
    pair.check(complete=True)


@pytest.mark.parametrize(
    ("method", "head"),
    [
        (b"HEAD", ResponseHead(200, [length(5)])),
        (b"GET", ResponseHead(304, [length(5)])),
        (b"GET", ResponseHead(204, [])),
    ],
)
def test_lengths_that_promise_no_body(method: bytes, head: ResponseHead) -> None:
    pair = Pair()
    pair.request(get(method=method), fin=True)
    pair.response(head, fin=True)
    pair.check(complete=True)


# -- lengths that are not kept -----------------------------------------------------------------


def started(request: RequestHead, response: ResponseHead | None = None) -> Pair:
    pair = Pair()
    pair.request(request)
    if response is not None:
        pair.response(response)
    return pair


@pytest.mark.parametrize(
    ("size", "fin", "code"), [(4, True, "short_body"), (6, False, "long_body"), (6, True, "long_body")]
)
def test_bodies_that_are_short_or_long(size: int, fin: bool, code: str) -> None:
    request, response = get(length(5), method=b"POST"), ResponseHead(200, [length(5)])
    tries: list[tuple[type[ProtocolError], Callable[[], None]]] = [
        (LocalProtocolError, lambda: started(request).server.send_data(size, fin=fin)),
        (RemoteProtocolError, lambda: started(request).client.receive_data(size, fin=fin)),
        (LocalProtocolError, lambda: started(request, response).client.send_data(size, fin=fin)),
        (RemoteProtocolError, lambda: started(request, response).server.receive_data(size, fin=fin)),
    ]
    for error, attempt in tries:
        with pytest.raises(error) as caught:
            attempt()
        assert caught.value.code == code


@pytest.mark.parametrize("status", [204, 304])
def test_a_body_where_none_can_be(status: int) -> None:
    pair = started(get(), ResponseHead(status, []))
    with pytest.raises(RemoteProtocolError) as caught:
        pair.server.receive_data(1)
    assert caught.value.code == "long_body"


def test_a_short_body_is_never_complete() -> None:
    pair = Pair()
    pair.request(get(), fin=True)
    pair.response(ResponseHead(200, [length(5)]))
    with pytest.raises(RemoteProtocolError):
        pair.server.receive_data(4, fin=True)
    assert not pair.server.complete
    assert pair.server.delivery is Delivery.PARTLY
    with pytest.raises(RemoteProtocolError):
        pair.server.receive_head(encode_trailers([]), fin=True)


def test_a_length_with_fin_on_the_head() -> None:
    with pytest.raises(LocalProtocolError) as caught:
        Exchange(client=False).send_request(get(length(5)), fin=True)
    assert caught.value.code == "short_body"


# -- what a peer may not send ------------------------------------------------------------------


def test_each_end_sends_its_own_half() -> None:
    with pytest.raises(LocalProtocolError):
        Exchange(client=True).send_request(get())
    with pytest.raises(LocalProtocolError):
        Exchange(client=False).send_response(ResponseHead(200, []))
    with pytest.raises(RemoteProtocolError):
        Exchange(client=False).receive_head(encode_request(get()))
    with pytest.raises(RemoteProtocolError):
        Exchange(client=True).receive_head(encode_response(ResponseHead(200, [])))


@pytest.mark.parametrize(
    "head",
    [
        get((b"A", b"b\rc")),
        get((b"Content-Length", b"+5")),
        get(HOST),
        RequestHead(b"GET", b"/a b", [HOST]),
        get((b"Transfer-Encoding", b"chunked")),
        get(*[(b"A", b"b")] * 20),
    ],
)
def test_heads_are_validated_again(head: RequestHead) -> None:
    end = Exchange(client=True, limits=Limits(field_limit=10))
    with pytest.raises(RemoteProtocolError) as caught:
        end.receive_head(encode_request(head))
    assert caught.value.code == "bad_head"


@pytest.mark.parametrize(
    "block",
    [
        encode_response(ResponseHead(200, [(b"A", b"b\x00")])),
        encode_response(ResponseHead(200, [(b"Transfer-Encoding", b"chunked")])),
        b"\x03200",
        b"",
    ],
)
def test_response_heads_are_validated_again(block: bytes) -> None:
    pair = Pair()
    pair.request(get(), fin=True)
    with pytest.raises(RemoteProtocolError) as caught:
        pair.server.receive_head(block)
    assert caught.value.code == "bad_head"


def test_bad_trailers() -> None:
    for block, fin, code in (
        (encode_trailers([(b"A", b"\x07")]), True, "bad_head"),
        (encode_trailers([(b"A", b"b")]), False, "bad_exchange"),
    ):
        pair = started(get())
        with pytest.raises(RemoteProtocolError) as caught:
            pair.client.receive_head(block, fin=fin)
        assert caught.value.code == code


@pytest.mark.parametrize(
    "taken", [[], [(b"Upgrade", b"websocket, x")], [(b"Upgrade", b"x"), (b"Connection", b"upgrade")]]
)
def test_a_switch_to_what_was_not_offered(taken: Fields) -> None:
    """RFC 9110 7.8 and 15.2.2: to a protocol that was offered, and which it is must be said."""
    pair = Pair()
    pair.request(get(*OFFER))
    with pytest.raises(RemoteProtocolError, match="not offered"):
        pair.server.receive_head(encode_response(ResponseHead(101, taken)))
    with pytest.raises(LocalProtocolError, match="not offered"):
        pair.client.send_response(ResponseHead(101, taken))


@pytest.mark.parametrize(
    ("request_head", "fin"), [(get(), False), (get(), True), (get(*OFFER), True), (get(*OFFER, length(5)), False)]
)
def test_101_must_have_been_asked_for(request_head: RequestHead, fin: bool) -> None:
    pair = Pair()
    pair.request(request_head, fin=fin)
    with pytest.raises(RemoteProtocolError, match="without an offer"):
        pair.server.receive_head(encode_response(ACCEPT))
    with pytest.raises(LocalProtocolError, match="without an offer"):
        pair.client.send_response(ACCEPT)


def test_values_that_look_like_names_change_nothing() -> None:
    pair = Pair()
    pair.request(get(*[(b"A", name) for name in (b"Transfer-Encoding", b"Content-Length", b"Upgrade")]))
    assert pair.client.request.expected is None
    assert pair.client.request.state is State.BODY


def test_an_unvalidated_length_of_our_own_does_not_crash() -> None:
    end = Exchange(client=False)
    end.send_request(get((b"Content-Length", b"x")))
    assert end.request.expected is None


# -- delivery ----------------------------------------------------------------------------------


def test_delivery_step_by_step() -> None:
    pair = Pair()
    pair.request(get(), fin=True)
    assert pair.server.fail(was_sent=False) is Delivery.NEVER_SENT
    assert pair.server.fail(was_sent=True) is Delivery.SENT
    assert Exchange(client=False).fail(was_sent=True) is Delivery.NEVER_SENT  # nothing there to be sent
    assert pair.server.fail(was_sent=True, refused=True) is Delivery.NEVER_SENT
    pair.response(ResponseHead(103, []))
    assert pair.server.fail(was_sent=True) is Delivery.SENT
    pair.response(ResponseHead(200, [length(1)]))
    assert pair.server.fail(was_sent=True) is Delivery.PARTLY
    assert pair.server.fail(was_sent=True, refused=True) is Delivery.PARTLY  # a lie changes nothing
    assert pair.server.told() == "partly"
    pair.down(1, fin=True)
    assert pair.server.delivery is Delivery.ANSWERED
    assert pair.server.told() == "answered"


def test_an_answer_whose_head_was_overtaken_by_its_reset_is_partly_answered() -> None:
    pair = Pair()
    pair.request(get(), fin=True)
    assert pair.server.fail(was_sent=True, broken_off=True) is Delivery.PARTLY
    assert pair.server.outcome is Delivery.PARTLY
    assert not pair.server.may_dispatch_again(has_body=False, body_held=True, other_session_attached=True)


def test_an_upgraded_connection_that_breaks_is_partly_answered() -> None:
    pair = started(get(*OFFER), ACCEPT)
    assert pair.server.fail(was_sent=True) is Delivery.PARTLY


def test_names_for_logs() -> None:
    assert [str(delivery) for delivery in Delivery] == ["never_sent", "sent", "partly", "answered"]


def expected_decision(
    delivery: Delivery, method: bytes, has_body: bool, body_held: bool, other: bool, sent_before: bool
) -> bool:
    """The design's words, written down as cases."""
    match delivery:
        case Delivery.NEVER_SENT if not has_body:
            return True
        case Delivery.NEVER_SENT:
            return body_held
        case Delivery.SENT if method in (b"GET", b"HEAD", b"OPTIONS") and not has_body:
            return other and not sent_before
        case _:
            return False


METHODS = [b"GET", b"HEAD", b"OPTIONS", b"POST", b"PUT", b"DELETE", b"get"]


@pytest.mark.parametrize("delivery", Delivery)
def test_whether_it_may_go_out_again(delivery: Delivery) -> None:
    for method in METHODS:
        for has_body, body_held, other, sent_before in product((False, True), repeat=4):
            answer = may_dispatch_again(
                delivery,
                method,
                has_body=has_body,
                body_held=body_held,
                other_session_attached=other,
                sent_before=sent_before,
            )
            assert answer is expected_decision(delivery, method, has_body, body_held, other, sent_before)


def test_an_exchange_knows_its_former_attempts() -> None:
    def attempt(earlier: Delivery, *, was_sent: bool) -> tuple[bool, Delivery]:
        end = Exchange(client=False, earlier=earlier)
        end.send_request(get(), fin=True)
        end.fail(was_sent=was_sent)
        return end.may_dispatch_again(has_body=False, body_held=True, other_session_attached=True), end.outcome

    assert attempt(Delivery.NEVER_SENT, was_sent=True) == (True, Delivery.SENT)
    assert attempt(Delivery.SENT, was_sent=True) == (False, Delivery.SENT)
    assert attempt(Delivery.SENT, was_sent=False) == (True, Delivery.SENT)  # this attempt left no trace
    assert attempt(Delivery.NEVER_SENT, was_sent=False) == (True, Delivery.NEVER_SENT)


def test_repr() -> None:
    pair = Pair()
    pair.request(RequestHead(b"GET", b"/secret", [HOST]), fin=True)
    assert repr(pair.server) == "<Exchange GET request=DONE response=WAITING status=None>"


# -- any input ---------------------------------------------------------------------------------

blocks = (
    st.binary(max_size=30)
    | st.sampled_from([encode_request(get()), encode_request(get(*OFFER)), encode_request(get(length(2)))])
    | st.sampled_from([encode_response(ResponseHead(status, [])) for status in (100, 101, 200, 204)])
    | st.just(encode_trailers([(b"A", b"b")]))
)
inputs = st.lists(st.tuples(blocks | st.integers(0, 3), st.booleans()), max_size=8)


@given(st.booleans(), inputs)
def test_a_peer_can_only_break_rules(client: bool, events: list[tuple[bytes | int, bool]]) -> None:
    end = Exchange(client=client)
    if not client:
        end.send_request(get(*OFFER))
    try:
        for event, fin in events:
            if isinstance(event, bytes):
                end.receive_head(event, fin=fin)
            else:
                end.receive_data(event, fin=fin)
    except RemoteProtocolError:
        assert not end.complete or end.delivery is Delivery.ANSWERED


# -- the documentation -------------------------------------------------------------------------

COLUMNS = {
    "head": Move.HEAD,
    "head that offers an upgrade": Move.OFFER,
    "request head seen": Move.ASKED,
    "interim head": Move.INTERIM,
    "final head": Move.FINAL,
    "101": Move.SWITCH,
    "101 comes back": Move.SWITCH,
    "another final head comes back": Move.REFUSE,
    "data": Move.DATA,
    "trailers": Move.TRAILERS,
    "FIN": Move.FIN,
}


@pytest.mark.parametrize(("title", "table"), [("request half", REQUEST), ("response half", RESPONSE)])
def test_the_documentation_shows_the_tables(title: str, table: Table) -> None:
    text = (Path(__file__).parents[2] / "docs" / "wire-format.md").read_text(encoding="utf-8")
    rows = text[text.index(f"| {title} |") :].split("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    shown = {
        State[state.upper()]: {
            COLUMNS[column]: State[target.upper()]
            for column, target in zip(cells[0][1:], targets, strict=True)
            if target
        }
        for state, *targets in cells[2:]
    }
    assert shown == table
