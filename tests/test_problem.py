from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from http import HTTPStatus
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tunnelkit
from tunnelkit.heads import RequestHead, ResponseHead, validate_response
from tunnelkit.problem import CODES, DOCS, PROBLEM_JSON, TYPE, code_of, problem, problem_json

PACKAGE = Path(tunnelkit.__file__).parent
ROOT = Path(__file__).parents[1]

# RFC 9209 2.3.
PROXY_ERRORS = """
    dns_timeout dns_error destination_not_found destination_unavailable destination_ip_prohibited
    destination_ip_unroutable connection_refused connection_terminated connection_timeout connection_read_timeout
    connection_write_timeout connection_limit_reached tls_protocol_error tls_certificate_error tls_alert_received
    http_request_error http_request_denied http_response_incomplete http_response_header_section_size
    http_response_header_size http_response_body_size http_response_trailer_section_size http_response_trailer_size
    http_response_transfer_coding http_response_content_coding http_response_timeout http_upgrade_failed
    http_protocol_error proxy_internal_response proxy_internal_error proxy_configuration_error proxy_loop_detected
"""


def request(*accept: bytes, method: bytes = b"GET") -> RequestHead:
    return RequestHead(method, b"/", [(b"Host", b"h"), *[(b"Accept", value) for value in accept]])


def values(head: ResponseHead, name: bytes) -> list[bytes]:
    return [value for key, value in head.fields if key == name]


# -- whose answer it is ------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["queue_full", "not_one_of_ours"])
def test_a_problem_is_known_by_its_code(code: str) -> None:
    assert code_of(problem(503, code)[0]) == code


@pytest.mark.parametrize(
    "told",
    [[], [b"nginx; error=connection_timeout"], [b'tunnelkit; details="a", nginx'], [b'tunnelkit; details="a"'] * 2],
)
def test_other_answers_have_no_code(told: list[bytes]) -> None:
    assert code_of(ResponseHead(502, [(b"Proxy-Status", value) for value in told])) is None


# -- shape -------------------------------------------------------------------------------------


def test_as_text() -> None:
    head, body = problem(
        503, "queue_full", "20 requests wait", request(b"*/*"), retry_after=0.2, outcome="never_sent"
    )
    assert (head.status, head.reason) == (503, b"Service Unavailable")
    assert body.decode() == (
        "503 Too many requests wait for this tunnel\n20 requests wait\noutcome: never_sent\n"
        f"code: queue_full (see {DOCS}#queue_full)\n"
    )
    assert head.fields == [
        (b"Content-Length", b"%d" % len(body)),
        (b"Proxy-Status", b'tunnelkit; error=connection_limit_reached; details="queue_full"'),
        (b"Referrer-Policy", b"no-referrer"),
        (b"Content-Type", b"text/plain; charset=utf-8"),
        (b"Cache-Control", b"no-store"),
        (b"X-Content-Type-Options", b"nosniff"),
        (b"Retry-After", b"1"),
    ]


def test_as_json() -> None:
    head, body = problem(502, "tunnel_lost", "lost", request(b"application/json"), outcome="sent")
    assert values(head, b"Content-Type") == [b"application/problem+json"]
    assert values(head, b"Content-Length") == [b"%d" % len(body)]
    assert json.loads(body) == {
        "type": "urn:tunnelkit:error:tunnel_lost",
        "title": CODES["tunnel_lost"].title,
        "status": 502,
        "code": "tunnel_lost",
        "docs": f"{DOCS}#tunnel_lost",
        "detail": "lost",
        "outcome": "sent",
    }


def test_the_shortest() -> None:
    _, body = problem(400, "bad_request")
    assert body.decode() == f"400 The request is malformed\ncode: bad_request (see {DOCS}#bad_request)\n"
    _, body = problem(400, "bad_request", "", request(b"application/problem+json"))
    assert "detail" not in json.loads(body)


def test_for_a_program_that_is_no_caller() -> None:
    fields, body = problem_json(401, "unauthorized", "wrong password", retry_after=1.2)
    assert fields == [
        (b"Content-Type", PROBLEM_JSON),
        (b"Cache-Control", b"no-store"),
        (b"X-Content-Type-Options", b"nosniff"),
        (b"Retry-After", b"2"),
        (b"WWW-Authenticate", b'Basic realm="tunnelkit", charset="UTF-8"'),
    ]
    assert json.loads(body) == {
        "type": TYPE + "unauthorized",
        "title": CODES["unauthorized"].title,
        "status": 401,
        "code": "unauthorized",
        "docs": f"{DOCS}#unauthorized",
        "detail": "wrong password",
    }


def test_a_status_that_nobody_registered() -> None:
    """An authorisation hook may refuse with any."""
    assert json.loads(problem_json(430, "of_a_hook")[1])["title"] == ""
    assert problem(430, "of_a_hook")[0].reason == b""


def test_head_has_the_length_but_no_body() -> None:
    head, body = problem(404, "no_tunnel", "x", request(method=b"HEAD"))
    assert body == b""
    assert values(head, b"Content-Length") == [b"%d" % len(problem(404, "no_tunnel", "x", request())[1])]


def test_fields_that_a_status_demands() -> None:
    assert values(problem(401, "unauthorized")[0], b"WWW-Authenticate")
    assert b"GET" in values(problem(405, "method_not_allowed")[0], b"Allow")[0]
    assert values(problem(503, "draining", retry_after=-1.0)[0], b"Retry-After") == [b"0"]


def test_a_code_from_elsewhere() -> None:
    head, body = problem(418, "teapot", "short and stout", request())
    assert values(head, b"Proxy-Status") == [b'tunnelkit; details="teapot"']
    assert body.startswith(f"418 {HTTPStatus(418).phrase}\nshort and stout\n".encode())


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("accept", [b"", b"application/json"])
def test_every_answer_is_a_valid_response(code: str, accept: bytes) -> None:
    head, _ = problem(CODES[code].status, code, "détail\x00", request(accept))
    validate_response(head)


# -- Accept ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "as_json"),
    [
        ([], False),
        ([b""], False),
        ([b"*/*"], False),
        ([b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"], False),
        ([b"application/problem+json"], True),
        ([b"Application/JSON"], True),
        ([b"application/json, */*"], True),
        ([b"application/json, text/plain"], False),
        ([b"application/json, text/plain;q=0.9"], True),
        ([b"application/json;q=0.8", b"text/plain;q=0.9"], False),
        ([b"text/*;q=0.5, application/*;q=0.6"], True),
        ([b"application/json;q=0, */*"], False),
        ([b"application/json;q=0"], False),
        ([b"application/json;charset=utf-8; q=0.5"], True),
        ([b"application/json;q=x"], False),
        ([b"text/plain;q=0, */*"], True),
        ([b"image/png"], False),
        ([b"application/json;q=nan"], False),
        ([b"application/json;q=inf, text/plain"], False),
    ],
)
def test_accept(accept: list[bytes], as_json: bool) -> None:
    head, _ = problem(404, "no_tunnel", head=request(*accept))
    assert (values(head, b"Content-Type") == [b"application/problem+json"]) is as_json


@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"*/*;q=.", b";;q=1e999", b"application/json;q=-1"])))
def test_any_accept_is_answered(accept: list[bytes]) -> None:
    problem(404, "no_tunnel", head=request(*accept))


# -- the table ---------------------------------------------------------------------------------


def test_error_types_are_registered() -> None:
    assert {code.error for code in CODES.values()} <= set(PROXY_ERRORS.split())


def test_the_documentation_lists_the_codes() -> None:
    text = (ROOT / DOCS).read_text(encoding="utf-8")
    entries = re.findall(r"^### (\w+)\n\n`(\d{3})` `(\w+)` (.+)\.\n\n(?=\S)", text, re.MULTILINE)
    assert {code: (int(status), error, title) for code, status, error, title in entries} == {
        code: (entry.status, entry.error, entry.title) for code, entry in CODES.items()
    }
    assert len(entries) == len(CODES)


RAISERS = {"HeadError", "QueueError", "Rejected", "Refusal", "fail", "_fail", "refuse"}


def codes_in(path: Path) -> Iterator[str]:
    """The codes, as far as they are literals, of the errors and refusals that a module makes."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            constants = [arg.value if isinstance(arg, ast.Constant) else None for arg in node.args]
            behind_status = [code for status, code in pairwise(constants) if isinstance(status, int)]
            named = [getattr(keyword.value, "value", None) for keyword in node.keywords if keyword.arg == "code"]
            if name in RAISERS:
                yield from (code for code in behind_status + named if isinstance(code, str))


def test_every_code_that_is_used_is_listed() -> None:
    used = {code for path in PACKAGE.rglob("*.py") for code in codes_in(path)}
    assert {"bad_host", "queue_full", "unauthorized"} <= used  # the search finds what it should
    assert used <= CODES.keys()


def test_every_code_that_is_listed_is_used() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py") if path.name != "problem.py")
    assert [code for code in CODES if f'"{code}"' not in text] == []
