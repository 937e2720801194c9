from __future__ import annotations

import copy
import json
import logging
import logging.handlers
import pickle
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.logs import (
    ACCESS,
    SERVER,
    AccessLog,
    JsonFormatter,
    TextFormatter,
    log_event,
    mask_target,
    mask_userinfo,
    printable,
)
from tunnelkit.logs.text import MAX_VALUE


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def lines(self, formatter: logging.Formatter) -> list[str]:
        return [formatter.format(record) for record in self.records]


@pytest.fixture
def kept() -> Iterator[Kept]:
    handler = Kept()
    logger = logging.getLogger("tunnelkit")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


def follow_a_request(access: AccessLog | None = None) -> None:
    access = access or AccessLog()
    access.received(id=19, token="tech_x...#1a2b3c", verb=b"GET", url=b"/", addr="10.210.2.11, 53.5.22.247")
    access.sent(id=19, token="tech_x...#1a2b3c", info="GET /", ws="s1")
    access.answer(id=19, token="tech_x...#1a2b3c", ws="s1", length=393)
    access.returned(id=19, token="tech_x...#1a2b3c", status=401, sent=393, seconds=0.0314, outcome="complete")


def test_the_four_lines(kept: Kept) -> None:
    follow_a_request()
    assert [record.getMessage() for record in kept.records] == [
        "HTTP RCV      pkg=tunnelkit.server token=tech_x...#1a2b3c id=19 verb=GET url=/"
        ' addr="10.210.2.11, 53.5.22.247" x-host= try=',
        'WS   SND      pkg=tunnelkit.server token=tech_x...#1a2b3c id=19 info="GET /" ws=s1 try=',
        "WS   RCV      pkg=tunnelkit.server token=tech_x...#1a2b3c id=19 ws=s1 len=393",
        "HTTP RET      pkg=tunnelkit.server token=tech_x...#1a2b3c id=19 status=401 bytes=393 ms=31 outcome=complete",
    ]
    assert [record.levelname for record in kept.records] == ["INFO", "DEBUG", "DEBUG", "INFO"]
    assert {record.name for record in kept.records} == {"tunnelkit.access"}


def test_a_request_line_is_a_whole_record(kept: Kept) -> None:
    """Handlers and formatters of others find in it what they find in any record."""
    before = time.time()
    follow_a_request()
    usual = logging.makeLogRecord({"msg": "x"})
    record = kept.records[-1]
    assert record.__dict__.keys() - {"message"} == usual.__dict__.keys() | {"event", "fields"}
    assert before <= record.created <= time.time()
    assert record.msecs == int((record.created - int(record.created)) * 1000)
    assert record.relativeCreated == pytest.approx((record.created - usual.created) * 1000 + usual.relativeCreated)
    assert (record.threadName, record.process, record.filename) == (usual.threadName, usual.process, "records.py")


STANDARD = sorted({*vars(logging.makeLogRecord({})), "event", "fields"})


@pytest.fixture
def untouched() -> list[logging.LogRecord]:
    """The records of a request that nobody asked for anything yet."""
    logger, handler = logging.Logger("tunnelkit.access"), Kept()
    logger.addHandler(handler)
    follow_a_request(AccessLog(logger=logger))
    return handler.records


@pytest.mark.parametrize("name", STANDARD)
def test_each_attribute_of_a_request_line_is_there_when_it_is_asked_for(
    untouched: list[logging.LogRecord], name: str
) -> None:
    for record in untouched:
        value = getattr(record, name)
        assert value == record.__dict__[name] == vars(copy.copy(record))[name]
        delattr(record, name)
        assert not hasattr(record, name)
        assert not hasattr(record, "no_such_attribute")


def test_what_is_set_before_the_rest_is_made_stays(untouched: list[logging.LogRecord]) -> None:
    record = untouched[0]
    record.created, record.threadName = 1000.5, "mine"
    assert (record.msecs, record.threadName, record.__dict__["threadName"]) == (500, "mine", "mine")


@pytest.mark.parametrize(("style", "form"), [("%", "%({})s"), ("{", "{{{}}}"), ("$", "${{{}}}")])
def test_formatters_of_all_styles_show_all_of_a_request_line(
    kept: Kept, style: Literal["%", "{", "$"], form: str
) -> None:
    follow_a_request()
    names = [*STANDARD, "message", "asctime"]
    text = logging.Formatter("|".join(map(form.format, names)), style=style).format(kept.records[-1])
    shown = dict(zip(names, text.split("|"), strict=True))
    assert shown["message"].startswith("HTTP RET      pkg=tunnelkit.server")
    assert (shown["name"], shown["levelname"], shown["event"]) == ("tunnelkit.access", "INFO", "HTTP RET")
    assert shown["fields"] == str(kept.records[-1].__dict__["fields"])
    assert shown["asctime"].endswith(f",{int(float(shown['msecs'])):03}")


def test_a_request_line_is_copied_and_pickled_as_a_usual_record(untouched: list[logging.LogRecord]) -> None:
    first, second, third, _ = untouched
    copies = copy.copy(first), copy.deepcopy(second), pickle.loads(pickle.dumps(third))
    for record, other in zip(untouched, copies, strict=False):
        assert type(other) is logging.LogRecord
        assert other.__dict__ == record.__dict__
        assert TextFormatter().format(other) == TextFormatter().format(record)


def test_a_request_line_passes_through_a_socket(untouched: list[logging.LogRecord]) -> None:
    record = untouched[-1]
    pickled = logging.handlers.SocketHandler("", 1).makePickle(record)
    received = logging.makeLogRecord(pickle.loads(pickled[4:]))
    assert (received.getMessage(), received.created) == (record.getMessage(), record.created)
    assert received.__dict__["fields"] == record.__dict__["fields"]


def test_a_queue_of_request_lines(kept: Kept) -> None:
    queue: SimpleQueue[logging.LogRecord] = SimpleQueue()
    handler = logging.handlers.QueueHandler(queue)  # which copies them
    ACCESS.addHandler(handler)
    follow_a_request()
    ACCESS.removeHandler(handler)
    for record in kept.records:
        other = queue.get_nowait()
        assert (other.getMessage(), other.created) == (record.getMessage(), record.created)
        assert other.__dict__["fields"] == record.__dict__["fields"]


def test_a_request_line_from_a_filter_is_what_the_filter_made_of_it(kept: Kept) -> None:
    def change(record: logging.LogRecord) -> bool:
        fields = record.__dict__["fields"]
        if record.__dict__["event"] == "WS   RCV":
            record.msg, record.args = "%s\n%s", ("now", "another")
        elif fields["id"] == 19 and record.levelno == logging.INFO:
            record.__dict__["fields"] = fields | {"token": "-"}
            record.msg, record.levelname, record.extra = "one\ntwo", "LOUD", 7
        return bool(record.__dict__["event"] != "WS   SND")

    ACCESS.addFilter(change)
    try:
        follow_a_request()
    finally:
        ACCESS.removeFilter(change)
    shown = [line.partition(" ")[2] for line in kept.lines(TextFormatter())]
    assert shown == [r"LOUD    one\x0atwo", r"DEBUG   now\x0aanother", r"LOUD    one\x0atwo"]
    assert [record.__dict__["fields"]["token"] for record in kept.records] == ["-", "tech_x...#1a2b3c", "-"]
    assert copy.copy(kept.records[0]).__dict__["extra"] == 7


def test_how_logging_is_set_up_may_change_between_two_lines(kept: Kept) -> None:
    access, late = AccessLog(), Kept()

    def seen() -> tuple[int, int]:
        access.sent(id=1, token="t", info="GET /")
        counts = len(kept.records), len(late.records)
        kept.records.clear()
        late.records.clear()
        return counts

    assert seen() == (1, 0)
    logging.getLogger().addHandler(late)
    try:
        assert seen() == (1, 1)
        ACCESS.propagate = False
        assert seen() == (0, 0)
        ACCESS.addHandler(late)
        assert seen() == (0, 1)
        late.setLevel(logging.INFO)
        assert seen() == (0, 0)
        ACCESS.propagate = True
        ACCESS.disabled = True
        assert seen() == (0, 0)
        ACCESS.disabled = False
        logging.disable(logging.DEBUG)
        assert seen() == (0, 0)
        logging.disable(logging.NOTSET)
        kept.addFilter(lambda record: False)
        assert seen() == (0, 0)
    finally:
        logging.getLogger().removeHandler(late)
        ACCESS.removeHandler(late)
        ACCESS.propagate, ACCESS.disabled = True, False
        logging.disable(logging.NOTSET)


def test_a_program_says_at_which_level_the_inner_lines_are(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    access = AccessLog()
    ACCESS.setLevel(logging.INFO)
    try:
        access.answer(id=1, token="t")
        monkeypatch.setattr(AccessLog, "inner_level", logging.INFO)
        access.sent(id=1, token="t", info="GET /")
        access.answer(id=1, token="t")
    finally:
        ACCESS.setLevel(logging.NOTSET)
    assert [(record.levelno, record.levelname) for record in kept.records] == [(logging.INFO, "INFO")] * 2


def test_many_tokens_are_not_remembered_for_ever(kept: Kept) -> None:
    access = AccessLog()
    for number in range(1000):
        access.answer(id=number, token=f"token {number}", ws=f"ws{number}")
    assert kept.records[-1].getMessage().endswith('token="token 999" id=999 ws=ws999 len=')
    for kept_text in (access._whose, access._shown):
        assert kept_text.cache_info().currsize <= 256


@pytest.mark.parametrize("odd", ["", "two words", 'a"b', "k=v", "back\\slash", "\x1b[31m", "né", "x" * 2000])
def test_a_request_line_is_what_log_event_makes_of_its_fields(kept: Kept, odd: str) -> None:
    access = AccessLog()
    access.received(id=1, token=odd, verb=odd, url=odd.encode(), addr=odd, x_host=odd)
    access.sent(id=1, token=odd, info=odd, ws=odd, attempt=2)
    access.answer(id=1, token=odd, ws=odd)
    access.returned(id=1, token=odd, status=499, sent=0, seconds=0, outcome=odd)
    for record in kept.records[:]:
        log_event(SERVER, logging.INFO, record.__dict__["event"], **record.__dict__["fields"])
        assert record.getMessage() == kept.records[-1].getMessage()
    assert len(kept.records) == 8


def test_the_fields_are_structured_too(kept: Kept) -> None:
    follow_a_request()
    last = kept.records[-1].__dict__
    assert last["event"] == "HTTP RET"
    assert last["fields"] == {
        "pkg": "tunnelkit.server",
        "token": "tech_x...#1a2b3c",
        "id": 19,
        "status": 401,
        "bytes": 393,
        "ms": 31,
        "outcome": "complete",
    }


@pytest.mark.parametrize(("level", "events"), [(logging.INFO, 2), (logging.WARNING, 0)])
def test_lines_below_the_level_are_not_made(kept: Kept, level: int, events: int) -> None:
    ACCESS.setLevel(level)
    try:
        follow_a_request()
    finally:
        ACCESS.setLevel(logging.NOTSET)
    assert len(kept.records) == events


def test_log_event_looks_at_the_level_first(kept: Kept) -> None:
    SERVER.setLevel(logging.WARNING)
    try:
        log_event(SERVER, logging.INFO, "not seen", n=1)
        log_event(SERVER, logging.WARNING, "seen")
        log_event(SERVER, logging.WARNING, "seen", n=1, rate=0.25, ok=True)
    finally:
        SERVER.setLevel(logging.NOTSET)
    assert [record.getMessage() for record in kept.records] == ["seen", "seen          n=1 rate=0.2 ok=True"]


def test_a_line_of_a_retry_says_so(kept: Kept) -> None:
    AccessLog().sent(id=1, token="t", info="GET /", attempt=2)
    assert kept.records[0].getMessage().endswith("try=2")


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        (b"http://a.test:80", b"http://a.test:80"),
        ("http://a.test", "http://a.test"),
        (b"", b""),
        (b"http://user:s3cret@a.test", "http://...@a.test"),
        ("http://s3cret@a.test/x", "http://...@a.test/x"),
        (b"http://a@s3cret@b.test", "http://...@b.test"),
        (b"s3cret@a.test", "...@a.test"),
    ],
)
def test_a_userinfo_is_not_shown(url: str | bytes, masked: str | bytes) -> None:
    assert mask_userinfo(url) == masked


# -- hostile text ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        (b"bytes", "bytes"),
        (None, ""),
        (7, "7"),
        (1.25, "1.2"),
        ("naïve ☃", "naïve ☃"),
        ("a\r\nb", r"a\x0d\x0ab"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\u202eb\u200bc", r"a\u202eb\u200bc"),
        ("\u2028", r"\u2028"),
        ("\U000e0001", r"\U000e0001"),
        (b"\xff", r"\xff"),
        ("x" * (MAX_VALUE + 5), "x" * MAX_VALUE + "[+5]"),
    ],
)
def test_printable(value: str | bytes | float | None, text: str) -> None:
    assert printable(value) == text


@given(st.text() | st.binary())
def test_printable_text_is_one_printable_line(value: str | bytes) -> None:
    assert printable(value).isprintable()


def test_values_are_quoted_where_they_must_be(kept: Kept) -> None:
    log_event(
        SERVER, logging.INFO, "e", a="", b="x y", c='say "hi"', d="k=v", e="back\\slash", f="né", g=b"n\xc3\xa9"
    )
    quoted = r'a= b="x y" c="say \"hi\"" d="k=v" e="back\\slash" f=né g=né'
    assert kept.records[0].getMessage() == f"e             {quoted}"


def test_no_value_can_forge_a_field(kept: Kept) -> None:
    log_event(SERVER, logging.INFO, "e", url='/" status=200 x="\\', status=404)
    assert kept.records[0].getMessage() == r'e             url="/\" status=200 x=\"\\" status=404'


@pytest.mark.parametrize(
    ("target", "masked"),
    [
        ("/", "/"),
        (b"/_token/my_b!g_$secret!!/a?b=c", "/_token/my_b!g_$.../a?b=c"),
        ("/base/_token/my_b!g_$secret!!/a", "/base/_token/my_b!g_$.../a"),
        ("GET /_token/my_b!g_$secret!! x", "GET /_token/my_b!g_$... x"),
        ("/_token/short/", "/_token/sh.../"),
        ("/in?next=%2F_token%2Fmy_b!g_$secret!!%2Fa", "/in?next=%2F_token%2Fmy_b!g_$..."),
        ("/%5ftoken/my_b!g_$secret!!/a", "/%5ftoken/my_b!g_$.../a"),
        ("/_token//", "/_token/.../"),
        ("http://h/_token/my_b!g_$secret!!#f", "http://h/_token/my_b!g_$...#f"),
    ],
)
def test_the_token_in_a_target_is_masked(target: str | bytes, masked: str) -> None:
    assert mask_target(target) == masked


# -- formatters -----------------------------------------------------------------------------------


def fail_and_log() -> None:
    try:
        raise ValueError("evil\n2026-01-01T00:00:00+0000 INFO forged")
    except ValueError:
        SERVER.exception("it %s", "failed\nforged too")


def test_text_lines_cannot_be_forged(kept: Kept) -> None:
    fail_and_log()
    first, *rest = kept.lines(TextFormatter())[0].splitlines()
    assert first.endswith(r"ERROR   it failed\x0aforged too")
    assert rest
    assert all(line.startswith("    ") for line in rest)


def test_text_lines_start_with_time_and_level(kept: Kept) -> None:
    SERVER.info("hello")
    time, level, message = kept.lines(TextFormatter())[0].split()
    assert len(time) == len("2026-11-21T02:21:58+0000")
    assert (level, message) == ("INFO", "hello")


def test_each_second_has_its_own_time(kept: Kept) -> None:
    formatter = TextFormatter()
    for created in (1000.25, 1000.75, 1001.0):
        SERVER.info("x")
        kept.records[-1].created = created
    lines = kept.lines(formatter)
    assert lines[0] == lines[1] != lines[2]
    assert lines == [TextFormatter().format(record) for record in kept.records]


def test_json_of_an_event(kept: Kept) -> None:
    log_event(SERVER, logging.INFO, "HTTP RCV", id=3, url=b"/\x1b", level="not overwritten", ok=None, token="té")
    document = json.loads(kept.lines(JsonFormatter())[0])
    assert document.pop("time").endswith("+00:00")
    assert document == {
        "level": "info",
        "logger": "tunnelkit.server",
        "message": "HTTP RCV",
        "id": 3,
        "url": r"/\x1b",
        "ok": None,
        "token": "té",
    }


@given(st.floats(0, 4e9) | st.integers(0, 4 * 10**12).map(lambda ms: ms / 1000) | st.just(1.9999996))
def test_the_time_in_json_is_what_datetime_says(created: float) -> None:
    record = logging.makeLogRecord({"created": created})
    time = datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds")
    formatter = JsonFormatter()
    assert [json.loads(formatter.format(record))["time"] for _ in range(2)] == [time] * 2


def test_json_of_a_plain_record_and_of_an_exception(kept: Kept) -> None:
    fail_and_log()
    line = kept.lines(JsonFormatter())[0]
    assert "\n" not in line
    document = json.loads(line)
    assert document["message"] == r"it failed\x0aforged too"
    assert "ValueError" in document["exception"]


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_a_traceback_is_printable_and_bounded(kept: Kept, formatter: logging.Formatter) -> None:
    try:
        raise ValueError("x\x1b[31m\u202e" + "\n\x07" * 1000 + "y" * 10_000 + "the end")
    except ValueError:
        SERVER.exception("failed")
    (line,) = kept.lines(formatter)
    text = json.loads(line)["exception"] if isinstance(formatter, JsonFormatter) else line
    assert all(each.isprintable() for each in text.splitlines())
    assert len(text.splitlines()) <= 201
    assert len(text) < 201 * 20 + 2 * MAX_VALUE


def test_the_package_says_nothing_by_itself() -> None:
    handlers = logging.getLogger("tunnelkit").handlers
    assert any(isinstance(handler, logging.NullHandler) for handler in handlers)


@pytest.mark.parametrize("query", ["", "x" * 1000])
def test_what_is_asked_again_is_shown_again(kept: Kept, query: str) -> None:
    """What is remembered of a request is what is shown of it: never its token, nor the user of an X-Host."""
    access = AccessLog()
    for number in range(3):
        url = f"/_token/my_b!g_$secret!!/?{query}".encode()
        access.received(id=number, token="t", verb=b"GET", url=url, addr="a", x_host=b"http://user:s3cret@a.test")
        access.sent(id=number, token="t", info=b"GET " + url)
    texts = [record.getMessage().replace(f"id={record.__dict__['fields']['id']}", "id=0") for record in kept.records]
    assert texts[:2] * 3 == texts
    assert not any("secret" in text or "s3cret" in text for text in texts)
    assert all("secret" not in str(record.__dict__["fields"]) for record in kept.records)


def test_lines_may_be_taken_in_place_of_records(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """They say what the records' messages do, under the same levels."""
    follow_a_request()
    taken: list[tuple[float, int, str]] = []

    class Taker:
        def take_line(self, created: float, level: int, text: str) -> None:
            taken.append((created, level, text))

    records = [*kept.records]
    before = time.time()
    monkeypatch.setattr(AccessLog, "lines", Taker())
    follow_a_request()
    assert len(records) == 4
    assert kept.records == records
    assert [(level, text) for _, level, text in taken] == [(each.levelno, each.getMessage()) for each in records]
    assert all(before <= created <= time.time() for created, _, _ in taken)
    formatter = TextFormatter()
    for record, (_, level, text) in zip(records, taken, strict=True):
        assert formatter.format_line(record.created, level, text) == TextFormatter().format(record)


def test_lines_that_are_taken_have_their_own_seconds_and_levels() -> None:
    formatter = TextFormatter()
    lines = [
        formatter.format_line(created, level, "x")
        for level in (logging.INFO, 15)
        for created in (1000.25, 1000.75, 1001)
    ]
    assert lines[0] == lines[1] != lines[2]
    assert lines[3] == lines[4] != lines[5]
    assert lines[0].split()[1:] == ["INFO", "x"]
    assert lines[3].split()[1:] == ["Level", "15", "x"]


def test_filters_keep_their_say_though_lines_are_taken(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    class Taker:
        def take_line(self, created: float, level: int, text: str) -> None:
            raise AssertionError(text)

    def one(record: logging.LogRecord) -> bool:
        return bool(record.__dict__["event"] == "HTTP RET")

    monkeypatch.setattr(AccessLog, "lines", Taker())
    ACCESS.addFilter(one)
    try:
        follow_a_request()
    finally:
        ACCESS.removeFilter(one)
    assert [record.__dict__["event"] for record in kept.records] == ["HTTP RET"]


def test_a_line_begins_as_its_formatter_and_its_record_say() -> None:
    class Own(TextFormatter):
        def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
            return "now"

    formatter = Own()
    records = [logging.makeLogRecord({"msg": "x", "levelno": 20, "levelname": name}) for name in ("INFO", "NOTICE")]
    assert [formatter.format(record) for record in records] == ["now INFO    x", "now NOTICE  x"]
    assert formatter.format_line(records[0].created, 20, "x") == "now INFO    x"
