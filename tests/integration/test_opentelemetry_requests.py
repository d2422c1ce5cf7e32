"""Tests with OpenTelemetry's instrumentation of requests: the headers and the spans of calls.

The SDK and the instrumentation are real. The tests mount and instrument in different orders.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, format_span_id
from requests.structures import CaseInsensitiveDict
from urllib3.util import Retry

from cagent_session import (
    MissingSessionId,
    MissingSessionIdWarning,
    SessionExecutor,
    mount,
    session_factory,
    session_scope,
    unmount,
)
from cagent_session.integrations.opentelemetry import SessionIdSpanProcessor
from cagent_session.testing import ModelsGateway

MARKED = {"X-Cagent-Forward": "https://api.openai.com/v1"}
ORDERS = [
    "instrument, mount",
    "mount, instrument",
    "instrument, make",
    "make, instrument",
    "instrument, uninstrument, mount, instrument",
    "instrument, mount, uninstrument, instrument",
    "mount, instrument, unmount, mount",
]

Connect = Callable[..., requests.Session]


@pytest.fixture
def provider() -> Iterator[TracerProvider]:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SessionIdSpanProcessor())
    yield provider
    provider.shutdown()


@pytest.fixture
def spans(provider: TracerProvider) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


@pytest.fixture
def set_up(provider: TracerProvider) -> Iterator[Connect]:
    """Return a function that makes a session in the named steps. They are undone afterwards."""
    send, stack = requests.Session.send, ExitStack()
    instrumentor = RequestsInstrumentor()

    def set_up(steps: str, gateway: str | None = None, **options: Any) -> requests.Session:
        session = requests.Session()
        for step in steps.split(", "):
            if step == "instrument":
                instrumentor.instrument(tracer_provider=provider)
            elif step == "uninstrument":
                instrumentor.uninstrument()
            elif step == "make":
                session = session_factory(requests.Session, gateway, **options)()
            elif step == "mount":
                mount(session, gateway, **options)
            else:
                unmount(session)
        session.trust_env = False
        return stack.enter_context(session)

    with stack:
        yield set_up
    if instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.uninstrument()
    assert requests.Session.send is send


@pytest.fixture(params=ORDERS)
def connect(request: pytest.FixtureRequest, set_up: Connect) -> Connect:
    """Return a function that makes a mounted and instrumented session, in one of the orders."""
    return lambda gateway=None, **options: set_up(request.param, gateway, **options)


def ids_of(span: Any) -> tuple[Any, Any]:
    return span.attributes.get("session.id"), span.attributes.get("gen_ai.conversation.id")


def span_of(arrived: Any, spans: Any) -> Any:
    """Return the client span with the ID in the request's header ``traceparent``."""
    sent = CaseInsensitiveDict(arrived.headers)["traceparent"].split("-")[2]
    (span,) = (
        span for span in spans.get_finished_spans() if format_span_id(span.context.span_id) == sent
    )
    assert span.kind is SpanKind.CLIENT
    return span


@pytest.mark.parametrize(
    ("bound", "scope", "callers", "arrives"),
    [
        (True, "sess-1", None, "sess-1"),
        (True, "sess-1", "callers", "sess-1"),
        (True, None, None, None),
        (True, None, "callers", "callers"),
        (False, "sess-1", None, None),
        (False, "sess-1", "callers", None),
        (False, None, None, None),
        (False, None, "callers", None),
    ],
)
def test_headers_follow_the_rule_and_the_span_gets_the_session(
    connect: Connect, spans: Any, gateway: Any, bound: bool, scope: Any, callers: Any, arrives: Any
) -> None:
    """The span always gets the session ID, because the server does not see the span."""
    http = connect()
    headers = {**(MARKED if bound else {}), **({"X-Cagent-Session-Id": callers} if callers else {})}
    with session_scope(scope):
        http.post(gateway.url, headers=headers, timeout=10)
    assert gateway.session_ids == [arrives]
    assert ids_of(span_of(gateway.arrived[0], spans)) == (scope, scope)
    assert len(spans.get_finished_spans()) == 1


def test_only_a_pinned_gateway_gets_the_session(
    connect: Connect, spans: Any, gateway: Any, elsewhere: Any
) -> None:
    http = connect(gateway.url)
    with session_scope("sess-1"):
        http.post(gateway.url, headers=MARKED, timeout=10)
        http.post(elsewhere.url, headers={**MARKED, "X-Cagent-Session-Id": "callers"}, timeout=10)
    assert (gateway.session_ids, elsewhere.session_ids) == (["sess-1"], [None])
    assert [ids_of(span) for span in spans.get_finished_spans()] == [("sess-1", "sess-1")] * 2


def test_a_redirect_off_the_origin_keeps_only_the_trace_header(
    connect: Connect, spans: Any, gateway: Any, elsewhere: Any
) -> None:
    """One span stands for the call and its redirects."""
    gateway.redirect("/one", "/two", 307)
    gateway.redirect("/two", f"{elsewhere.url}/three", 307)
    elsewhere.redirect("/three", f"{gateway.url}/four", 307)
    http = connect()
    with session_scope("sess-1"):
        http.post(f"{gateway.url}/one", headers=MARKED, timeout=10)
    assert gateway.session_ids == ["sess-1", "sess-1", None]
    assert [request.cagent_headers for request in (*elsewhere.arrived, gateway.arrived[2])] == [
        set(),
        set(),
    ]
    (span,) = spans.get_finished_spans()
    assert [span_of(request, spans) for request in (*gateway.arrived, *elsewhere.arrived)] == [
        span
    ] * 4
    assert ids_of(span) == ("sess-1", "sess-1")


def test_a_prepared_request_that_is_sent_again_carries_the_current_session(
    connect: Connect, spans: Any, gateway: Any
) -> None:
    """The library leaves the caller's request unchanged. The instrumentation adds a header."""
    http = connect()
    prepared = http.prepare_request(
        requests.Request("POST", gateway.url, headers=MARKED, json={"model": "m"})
    )
    before = dict(prepared.headers)
    sessions = ["sess-1", "sess-2", None]
    for session_id in sessions:
        with session_scope(session_id):
            response = http.send(prepared, timeout=10)
            http.send(response.request, timeout=10)
    assert gateway.session_ids == [session_id for session_id in sessions for _ in range(2)]
    assert [
        ids_of(span_of(request, spans))[0] for request in gateway.arrived
    ] == gateway.session_ids
    assert {
        name: value for name, value in prepared.headers.items() if name != "traceparent"
    } == before


def test_a_missing_session_is_recorded_on_the_span_and_nothing_is_sent(
    connect: Connect, spans: Any, gateway: Any
) -> None:
    http = connect(missing="raise")
    with pytest.raises(MissingSessionId):
        http.post(gateway.url, headers=MARKED, timeout=10)
    assert gateway.arrived == []
    (span,) = spans.get_finished_spans()
    (recorded,) = span.events
    assert recorded.attributes["exception.type"].endswith("MissingSessionId")
    assert span.status.status_code is StatusCode.ERROR
    assert ids_of(span) == (None, None)
    with session_scope("sess-1"):
        http.post(gateway.url, headers=MARKED, timeout=10)
    assert gateway.session_ids == ["sess-1"]


def test_retries_keep_session_and_span(connect: Connect, spans: Any, gateway: Any) -> None:
    http, statuses = connect(), iter([503, 503, 200])

    def answer(handler: Any, _: Any) -> None:
        handler.send_response(next(statuses))
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    gateway.answers["/"] = answer
    adapters: Any = http.adapters.values()
    for adapter in adapters:
        adapter.max_retries = Retry(
            3, status_forcelist=[503], allowed_methods=None, backoff_factor=0
        )
    with session_scope("sess-1"):
        assert http.post(gateway.url + "/", headers=MARKED, timeout=10).status_code == 200
    assert gateway.session_ids == ["sess-1"] * 3
    (span,) = spans.get_finished_spans()
    assert [span_of(request, spans) for request in gateway.arrived] == [span] * 3
    assert ids_of(span) == ("sess-1", "sess-1")


def test_concurrent_sessions_may_share_a_client(
    connect: Connect, spans: Any, elsewhere: Any
) -> None:
    """Header and span have the same ID. For a call to the provider, only the span has it."""
    ids = [f"sess-{number % 5}" for number in range(24)]
    with ModelsGateway() as gateway, SessionExecutor(ThreadPoolExecutor(8)) as pool:
        http, together = connect(gateway.url), threading.Barrier(8)

        def call(body: dict[str, Any]) -> None:
            together.wait(10)
            http.post(f"{gateway.url}/v1/embeddings", headers=MARKED, json=body, timeout=10)
            http.get(f"{elsewhere.url}/v1/models", timeout=10)

        jobs = []
        for session_id in ids:
            with session_scope(session_id):
                jobs.append(pool.submit(call, {"model": "m", "input": session_id}))
        for job in jobs:
            job.result()
    assert sorted(call.json["input"] for call in gateway.calls) == sorted(ids)
    assert [call.session_id for call in gateway.calls] == [
        call.json["input"] for call in gateway.calls
    ]
    assert [ids_of(span_of(call, spans)) for call in gateway.calls] == [
        (call.session_id,) * 2 for call in gateway.calls
    ]
    assert [request.cagent_headers for request in elsewhere.arrived] == [set()] * len(ids)
    assert len(spans.get_finished_spans()) == 2 * len(ids)


@pytest.mark.parametrize(
    ("steps", "arrives", "traced"),
    [
        ("mount, instrument, uninstrument", "sess-1", False),
        ("instrument, mount, uninstrument", "sess-1", False),
        ("mount, instrument, unmount", None, True),
        ("instrument, mount, unmount", None, True),
    ],
)
def test_unmount_keeps_the_instrumentation_and_uninstrument_keeps_the_adapter(
    set_up: Connect, spans: Any, gateway: Any, steps: str, arrives: str | None, traced: bool
) -> None:
    http = set_up(steps)
    with session_scope("sess-1"):
        http.post(gateway.url, headers=MARKED, timeout=10)
    assert gateway.session_ids == [arrives]
    assert [ids_of(span) for span in spans.get_finished_spans()] == (
        [("sess-1", "sess-1")] if traced else []
    )


def test_the_warning_of_a_missing_session_points_at_the_caller(
    connect: Connect, gateway: Any
) -> None:
    http = connect(missing="warn")
    with pytest.warns(MissingSessionIdWarning) as warned:
        http.post(gateway.url, headers=MARKED, timeout=10)
    assert [Path(warning.filename).name for warning in warned] == [Path(__file__).name]
