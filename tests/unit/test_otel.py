import logging
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from app.telemetry import otel
from app.telemetry.interface import TelemetrySource
from app.telemetry.otel import OtelTracer
from tests.otlp import Collector, collector

PATIENCE_S = 20.0
PLACE = TelemetrySource("FaceWorker", "staging", "detection", "ecs")
TRACED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
NOT_TRACED = TRACED[:-1] + "0"


@pytest.fixture(autouse=True)
def quiet_library() -> Iterator[None]:
    """As app/telemetry/opening.py does it."""
    level = logging.getLogger("opentelemetry").level
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("opentelemetry").setLevel(level)


@pytest.fixture
def traces() -> Iterator[Collector]:
    with collector() as kept:
        yield kept


def test_a_message_and_its_stages_are_spans_of_one_trace(traces: Collector) -> None:
    received_at = time.time()
    with OtelTracer(traces.url, 1, PLACE) as tracer:
        span = tracer.start_message("message", None, received_at)
        with span.activate(), tracer.stage("people"), tracer.stage("write people"):
            tracer.note(gallery="g")
        span.end("done")
    by_name = {one.name: one for one in traces.spans}
    assert set(by_name) == {"message", "people", "write people"}
    assert by_name["write people"].parent_id == by_name["people"].span_id
    assert by_name["people"].parent_id == by_name["message"].span_id
    assert by_name["message"].parent_id == ""
    assert by_name["message"].attributes == {"outcome": "done"}
    assert not by_name["message"].failed


def test_a_message_goes_on_with_its_senders_trace_whatever_the_share(traces: Collector) -> None:
    with OtelTracer(traces.url, 0, PLACE) as tracer:
        span = tracer.start_message("message", TRACED, time.time())
        with span.activate():
            assert tracer.trace_id() == TRACED.split("-")[1]
            sent = tracer.traceparent()
        span.end("done")
    assert sent is not None
    assert sent.split("-")[1] == TRACED.split("-")[1]
    assert sent.split("-")[2] == traces.spans[0].span_id


def test_what_a_sender_does_not_trace_is_not_traced_and_passes_that_on(traces: Collector) -> None:
    with OtelTracer(traces.url, 1, PLACE) as tracer:
        span = tracer.start_message("message", NOT_TRACED, time.time())
        with span.activate(), tracer.stage("fetch"):
            assert tracer.trace_id() is None
            sent = tracer.traceparent()
        span.end("done")
    assert traces.spans == []
    assert sent is not None
    assert sent.endswith("-00")


@pytest.mark.parametrize(
    "traceparent", [None, "", "no trace", "00-00000000000000000000000000000000-00f067aa0ba902b7-01"]
)
def test_a_message_without_a_sound_trace_begins_its_own(traces: Collector, traceparent: str | None) -> None:
    with OtelTracer(traces.url, 1, PLACE) as tracer:
        tracer.start_message("message", traceparent, time.time()).end("done")
    assert [span.parent_id for span in traces.spans] == [""]


def test_about_the_share_that_was_asked_for_is_traced(traces: Collector) -> None:
    with OtelTracer(traces.url, 0.25, PLACE) as tracer:
        for _ in range(1_000):
            tracer.start_message("message", None, time.time()).end("done")
    assert 180 < len(traces.spans) < 320


def test_a_message_that_was_not_done_is_a_failed_span_with_its_outcome(traces: Collector) -> None:
    with OtelTracer(traces.url, 1, PLACE) as tracer:
        tracer.start_message("message", None, time.time()).end("put back")
    (span,) = traces.spans
    assert (span.failed, span.attributes["outcome"]) == (True, "put back")


def test_outside_a_message_there_is_no_trace() -> None:
    with collector() as traces, OtelTracer(traces.url, 1, PLACE) as tracer:
        assert (tracer.trace_id(), tracer.traceparent()) == (None, None)
        with tracer.stage("start"):
            assert tracer.trace_id() is None


def test_a_collector_that_refuses_is_logged_once_and_once_more_after_it_took_some(
    traces: Collector, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otel, "SEND_EVERY_MS", 20)
    with OtelTracer(traces.url, 1, PLACE) as tracer:
        for status, told in ((400, 1), (400, 1), (200, 1), (400, 2)):
            traces.status = status
            before = traces.requests
            tracer.start_message("message", None, time.time()).end("done")
            until = time.monotonic() + 10
            while traces.requests == before and time.monotonic() < until:
                time.sleep(0.01)
            time.sleep(0.1)
            assert caplog.text.count("traces don't reach TRACES_ENDPOINT") == told


@pytest.mark.alone
@pytest.mark.slow
def test_a_collector_that_hangs_holds_up_neither_work_nor_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otel, "CLOSE_WITHIN_S", 0.5)
    # Still longer than the end may take below, so that an end that waited for a send would be seen.
    monkeypatch.setattr(otel, "SEND_TIMEOUT_S", 2.0)
    # One batch alone, for each that waits is tried for SEND_TIMEOUT_S before its thread ends.
    monkeypatch.setattr(otel, "MOST_WAITING", 512)
    with socket.create_server(("127.0.0.1", 0)) as server:
        tracer = OtelTracer(f"http://127.0.0.1:{server.getsockname()[1]}", 1, PLACE)
        begin = time.perf_counter()
        for _ in range(10_000):
            span = tracer.start_message("message", None, time.time())
            with span.activate(), tracer.stage("fetch"):
                pass
            span.end("done")
        working_s = time.perf_counter() - begin
        tracer.__exit__(None, None, None)
        closing_s = time.perf_counter() - begin - working_s
    # The server is gone by now, and so the thread that waited for it ends.
    for thread in threading.enumerate():
        if thread.name.startswith("Otel"):
            thread.join(PATIENCE_S)
    assert working_s / 10_000 < 0.001
    assert closing_s < 1.5
