"""What wrk, strace and perf say, as it was recorded."""

from __future__ import annotations

import pytest
from benchmarks.programs import BenchmarkError
from benchmarks.rows.counters import parse_perf, parse_strace
from benchmarks.ways import Address
from benchmarks.wrk import Load, Wrk, numbering_script, parse_wrk

WRK = """Running 1s test @ http://127.0.0.1:8080/small
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   365.41us  310.11us   9.61ms   96.11%
    Req/Sec    46.50k     5.21k   51.47k    81.82%
  Latency Distribution
     50%  318.00us
     75%  384.00us
     90%  519.00us
     99%    1.49ms
  50854 requests in 1.10s, 8.44MB read
Requests/sec:  46233.15
Transfer/sec:      7.67MB
"""
STRACE = """% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 66.67    0.000006           3         2         1 epoll_wait
 33.33    0.000003           3         1           sendto
------ ----------- ----------- --------- --------- ----------------
100.00    0.000009           3         3{errors} total
"""


def test_wrk() -> None:
    assert parse_wrk(WRK) == Wrk(50854, 46233.15, 318 * 1e-6, 1.49 * 1e-3)


@pytest.mark.parametrize(
    "line",
    ["  Non-2xx or 3xx responses: 3", "  Socket errors: connect 0, read 0, write 0, timeout 3"],
)
def test_a_run_with_failed_requests_has_no_figures(line: str) -> None:
    with pytest.raises(BenchmarkError, match=line.strip()):
        parse_wrk(WRK.replace("Requests/sec", f"{line}\nRequests/sec"))


def test_a_run_without_answers_has_no_figures() -> None:
    with pytest.raises(BenchmarkError, match="no request"):
        parse_wrk(WRK.replace("50854 requests", "0 requests"))


def test_wrk_that_says_something_else() -> None:
    with pytest.raises(BenchmarkError, match="nothing like"):
        parse_wrk("unable to connect")


def test_what_callers_send_can_hold_the_path() -> None:
    address = Address(80, tls=True, path="/request", fields=(("X-To", "http://origin{path}"),))
    load = Load(address, "/small", connections=4, seconds=0.2, fields=("Connection: close",))
    assert load.command("wrk") == [
        *("wrk", "-t1", "-c4", "-d1s", "--latency", "--timeout", "20s"),
        *("-H", "X-To: http://origin/small", "-H", "Connection: close", "https://127.0.0.1:80/request"),
    ]


def test_a_script_numbers_what_is_to_differ() -> None:
    address = Address(80, path="/all", fields=(("X-Where", "http://a{path}"),))
    script = numbering_script(address, "/x?@@", ["X-Request-Id: @@"])
    assert "wrk.headers['X-Where'] = ('http://a/x?@@'):gsub('@@', n)" in script
    assert "wrk.headers['X-Request-Id'] = ('@@'):gsub('@@', n)" in script
    assert "wrk.format(nil, (('/all'):gsub('@@', n)))" in script


@pytest.mark.parametrize("errors", ["          1", "          "])
def test_strace(errors: str) -> None:
    assert parse_strace(STRACE.format(errors=errors)) == 3


def test_strace_that_saw_nothing() -> None:
    with pytest.raises(BenchmarkError, match="said nothing"):
        parse_strace("")


def test_perf() -> None:
    assert parse_perf("# started on\n\n123456,,instructions:u,100,100.00,,\n") == 123456


def test_perf_on_a_machine_that_does_not_count() -> None:
    with pytest.raises(BenchmarkError, match="does not count"):
        parse_perf("<not supported>,,instructions:u,0,100.00,,\n")
