"""What is counted, and the text of it: judged by the parser of Prometheus' own client."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tunnelkit.core.metrics import BUCKETS, Gauges, Metrics, render


def samples(metrics: Metrics, gauges: Gauges | None = None) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = render(metrics, gauges or Gauges(tunnels=0)).decode()
    return {
        (sample.name.removeprefix("tunnelkit_"), tuple(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.parametrize(("seconds", "first"), [(0.0, "0.005"), (0.005, "0.005"), (0.0051, "0.01"), (61.0, "+Inf")])
def test_a_duration_counts_in_every_bucket_that_holds_it(seconds: float, first: str) -> None:
    metrics = Metrics(())
    metrics.answered(200, received=3, sent=5, seconds=seconds)
    found = samples(metrics)
    bounds = [*(f"{bound:g}" for bound in BUCKETS), "+Inf"]
    counts = [found["request_duration_seconds_bucket", (("le", bound),)] for bound in bounds]
    assert counts == [float(index >= bounds.index(first)) for index in range(len(bounds))]
    assert found["request_duration_seconds_count", ()] == 1
    assert found["request_duration_seconds_sum", ()] == seconds
    assert found["request_body_bytes_total", ()] == 3
    assert found["response_body_bytes_total", ()] == 5
    assert found["responses_total", (("status", "200"),)] == 1


def test_resumes_and_moves() -> None:
    metrics = Metrics(())
    metrics.attached("websocket", before=None)
    metrics.attached("websocket", before="websocket")  # taken over before its loss was noticed
    metrics.attached("websocket", before="longpoll")
    found = samples(metrics)
    assert found["resumes_total", (("transport", "websocket"),)] == 2
    assert found["moves_total", (("transport", "websocket"),)] == 1


def test_what_a_peer_may_choose_is_no_label() -> None:
    metrics = Metrics({"unauthorized"})
    for code in ("unauthorized", "of-a-hook", "of-another"):
        metrics.refused(code)
    for code in ("superseded", "whatever a client said"):
        metrics.ended(code)
    found = samples(metrics)
    assert found["refusals_total", (("code", "unauthorized"),)] == 1
    assert found["refusals_total", (("code", "other"),)] == 2
    assert found["sessions_ended_total", (("reason", "superseded"),)] == 1
    assert found["sessions_ended_total", (("reason", "other"),)] == 1


def test_gauges() -> None:
    gauges = Gauges(
        tunnels=2,
        sessions={"websocket": 3, 'odd"\\\n': 1},
        detached=4,
        active=5,
        queues=iter([6, 1]),
        buffered=7,
        buffered_limit=8,
    )
    found = samples(Metrics(()), gauges)
    assert found["sessions", (("transport", "websocket"),)] == 3
    assert found["sessions", (("transport", 'odd"\\\n'),)] == 1
    names = ("sessions_detached", "tunnels", "requests_active", "queue_requests", "queue_longest")
    assert [found[name, ()] for name in names] == [4, 2, 5, 7, 6]
    assert [found[name, ()] for name in ("buffered_bytes", "buffered_limit_bytes")] == [7, 8]


def test_an_idle_server() -> None:
    found = samples(Metrics(()))
    assert found["queue_longest", ()] == 0
    assert found["requests_total", ()] == 0
    assert found["registrations_total", ()] == 0
    assert found["requests_unauthorised_total", ()] == 0
