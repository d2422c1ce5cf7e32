"""Does every span say whose session it was started in?"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ConcurrentMultiSpanProcessor, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Decision, StaticSampler
from opentelemetry.trace import Tracer

from cagent_session import carry_session, in_session, session_scope
from cagent_session.integrations.opentelemetry import SessionIdSpanProcessor

IDS = ("session.id", "gen_ai.conversation.id")

MakeProvider = Callable[..., TracerProvider]


class Spans(InMemorySpanExporter):
    """Keeps the spans that ended, as an exporter gets them."""

    @property
    def session_ids(self) -> dict[str, Any]:
        """The session of each span by its name: what both attributes say, or they."""
        ids = {
            span.name: tuple((span.attributes or {}).get(name) for name in IDS)
            for span in self.get_finished_spans()
        }
        return {name: one if one == other else (one, other) for name, (one, other) in ids.items()}


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture
def make_provider() -> Iterator[MakeProvider]:
    """Make providers with these processors; the process's global one stays unset."""
    providers: list[TracerProvider] = []

    def make(*processors: SpanProcessor, **options: Any) -> TracerProvider:
        provider = TracerProvider(shutdown_on_exit=False, **options)
        providers.append(provider)
        for processor in processors:
            provider.add_span_processor(processor)
        return provider

    yield make
    for provider in providers:
        provider.shutdown()


@pytest.fixture(params=["ours first", "ours last"])
def tracer(request: pytest.FixtureRequest, make_provider: MakeProvider, spans: Spans) -> Tracer:
    """Return a tracer that exports to *spans*; the order of the processors does not matter."""
    processors = [SessionIdSpanProcessor(), SimpleSpanProcessor(spans)]
    provider = make_provider(
        *(processors if request.param == "ours first" else reversed(processors))
    )
    return provider.get_tracer("agent")


def trace(tracer: Tracer, name: str, **attributes: str) -> None:
    tracer.start_span(name, attributes=attributes).end()


def test_a_span_says_the_session_it_was_started_in(tracer: Tracer, spans: Spans) -> None:
    trace(tracer, "before")
    with session_scope("outer"):
        trace(tracer, "outside")
        with session_scope("inner"):
            trace(tracer, "inside")
        with session_scope(None):
            trace(tracer, "in none")
        trace(tracer, "outside again")
    trace(tracer, "after")
    names = ["before", "outside", "inside", "in none", "outside again", "after"]
    assert spans.session_ids == dict(
        zip(names, [None, "outer", "inner", None, "outer", None], strict=True)
    )


def test_a_span_outside_has_no_attribute_of_ours(tracer: Tracer, spans: Spans) -> None:
    trace(tracer, "outside", kind="tool")
    with session_scope("sess-1"):
        trace(tracer, "inside", kind="tool")
    outside, inside = spans.get_finished_spans()
    assert dict(outside.attributes or {}) == {"kind": "tool"}
    assert dict(inside.attributes or {}) == {"kind": "tool", **dict.fromkeys(IDS, "sess-1")}


@pytest.mark.parametrize(("session_id", "exported"), [("sess-1", "sess-1"), (None, "callers")])
def test_the_session_in_scope_replaces_what_a_span_was_started_with(
    tracer: Tracer, spans: Spans, session_id: str | None, exported: str
) -> None:
    with session_scope(session_id):
        trace(tracer, "both", **dict.fromkeys(IDS, "callers"))
        trace(tracer, "one", **{IDS[1]: "callers"})
    assert spans.session_ids == {
        "both": exported,
        "one": exported if session_id else (None, "callers"),
    }


def test_what_is_set_later_stays(tracer: Tracer, spans: Spans) -> None:
    with session_scope("sess-1"), tracer.start_as_current_span("run loop") as span:
        span.set_attribute(IDS[1], "by hand")
    assert spans.session_ids == {"run loop": ("sess-1", "by hand")}


def test_a_child_span_says_its_own_session_not_its_parents(tracer: Tracer, spans: Spans) -> None:
    with session_scope("main"), tracer.start_as_current_span("run loop"):
        trace(tracer, "tool")
        with session_scope("sub"):
            trace(tracer, "sub-session")
        with session_scope(None):
            trace(tracer, "housekeeping")
    assert spans.session_ids == {
        "run loop": "main",
        "tool": "main",
        "sub-session": "sub",
        "housekeeping": None,
    }
    *children, parent = spans.get_finished_spans()
    assert [child.parent for child in children] == [parent.context] * 3


@pytest.mark.parametrize(
    ("started_in", "ended_in"), [("sess-1", None), ("sess-1", "sess-2"), (None, "sess-2")]
)
def test_a_span_that_ends_elsewhere_says_where_it_was_started(
    tracer: Tracer, spans: Spans, started_in: str | None, ended_in: str | None
) -> None:
    with session_scope(started_in):
        span = tracer.start_span("stream")
    with session_scope(ended_in):
        span.end()
    assert spans.session_ids == {"stream": started_in}


def test_a_span_in_a_thread_says_the_session_that_was_carried_there(
    tracer: Tracer, spans: Spans, inherited_by_threads: Callable[[str], str | None]
) -> None:
    with session_scope("sess-1"):
        for name, job in {"plain": trace, "carried": carry_session(trace)}.items():
            thread = threading.Thread(target=job, args=[tracer, name])
            thread.start()
            thread.join()
    assert spans.session_ids == {"plain": inherited_by_threads("sess-1"), "carried": "sess-1"}


def test_each_of_many_tasks_has_spans_of_its_own_session(tracer: Tracer, spans: Spans) -> None:
    ids = [f"sess-{number}" for number in range(8)]

    @in_session("session_id")
    async def work(session_id: str) -> None:
        for step in range(3):
            with tracer.start_as_current_span(f"{session_id} {step}"):
                await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*map(work, ids))

    asyncio.run(main())
    assert spans.session_ids == {
        f"{session_id} {step}": session_id for session_id in ids for step in range(3)
    }


def test_a_span_that_is_not_sampled_is_left_alone(
    make_provider: MakeProvider, spans: Spans
) -> None:
    sampler = StaticSampler(Decision.DROP)
    tracer = make_provider(
        SessionIdSpanProcessor(), SimpleSpanProcessor(spans), sampler=sampler
    ).get_tracer("agent")
    with session_scope("sess-1"), tracer.start_as_current_span("dropped") as span:
        assert not span.is_recording()
    assert spans.session_ids == {}


def test_a_span_that_is_recorded_but_not_exported_has_it(make_provider: MakeProvider) -> None:
    provider: Any = make_provider(
        SessionIdSpanProcessor(), sampler=StaticSampler(Decision.RECORD_ONLY)
    )
    with (
        session_scope("sess-1"),
        provider.get_tracer("agent").start_as_current_span("recorded") as span,
    ):
        assert dict(span.attributes) == dict.fromkeys(IDS, "sess-1")


def test_beside_a_concurrent_processor_it_knows_the_session_and_inside_it_does_not(
    make_provider: MakeProvider,
    spans: Spans,
    inherited_by_threads: Callable[[str], str | None],
) -> None:
    """The concurrent processor calls what is inside in threads of its own."""
    inside, beside = ConcurrentMultiSpanProcessor(), ConcurrentMultiSpanProcessor()
    inside.add_span_processor(SessionIdSpanProcessor())
    for concurrent in (inside, beside):
        concurrent.add_span_processor(SimpleSpanProcessor(spans))
    with session_scope("sess-1"):
        trace(make_provider(inside).get_tracer("agent"), "inside")
        trace(make_provider(SessionIdSpanProcessor(), beside).get_tracer("agent"), "beside")
    assert spans.session_ids == {"inside": inherited_by_threads("sess-1"), "beside": "sess-1"}


def test_a_flush_reaches_those_that_export(make_provider: MakeProvider, spans: Spans) -> None:
    """Most releases of the SDK stop at the first processor that does not return True, and its base class does not."""
    exporting = BatchSpanProcessor(spans, schedule_delay_millis=600_000)
    provider = make_provider(SessionIdSpanProcessor(), exporting)
    with session_scope("sess-1"):
        trace(provider.get_tracer("agent"), "flushed")
    assert provider.force_flush() is True
    assert spans.session_ids == {"flushed": "sess-1"}
    assert SessionIdSpanProcessor().force_flush(1) is True


def test_shut_down_it_goes_on_saying_the_session(make_provider: MakeProvider) -> None:
    """It holds nothing: what it wrote to is for others to close."""
    provider: Any = make_provider(ours := SessionIdSpanProcessor())
    ours.shutdown()
    with (
        session_scope("sess-1"),
        provider.get_tracer("agent").start_as_current_span("after") as span,
    ):
        assert dict(span.attributes) == dict.fromkeys(IDS, "sess-1")
