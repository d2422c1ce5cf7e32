"""Tests of the span processor: each span gets the ID of the session in which it starts."""

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

from cagent_session import carry_session, in_session, session_scope, sub_session
from cagent_session.integrations.opentelemetry import SessionIdSpanProcessor

IDS = ("session.id", "gen_ai.conversation.id")

MakeProvider = Callable[..., TracerProvider]


class RecordedSpans(InMemorySpanExporter):
    """An exporter that keeps all spans."""

    @property
    def session_ids(self) -> dict[str, Any]:
        """The session ID of each span, by the span's name. If its root differs, both IDs."""
        ids = {
            span.name: tuple((span.attributes or {}).get(name) for name in IDS)
            for span in self.get_finished_spans()
        }
        return {name: one if one == other else (one, other) for name, (one, other) in ids.items()}


@pytest.fixture
def spans() -> RecordedSpans:
    return RecordedSpans()


@pytest.fixture
def make_provider() -> Iterator[MakeProvider]:
    """Return a function that makes a provider with processors. It is not made global."""
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
def tracer(
    request: pytest.FixtureRequest, make_provider: MakeProvider, spans: RecordedSpans
) -> Tracer:
    """Return a tracer that exports to *spans*. Tests run with both orders of processors."""
    processors = [SessionIdSpanProcessor(), SimpleSpanProcessor(spans)]
    provider = make_provider(
        *(processors if request.param == "ours first" else reversed(processors))
    )
    return provider.get_tracer("agent")


def start_and_end_span(tracer: Tracer, name: str, **attributes: str) -> None:
    tracer.start_span(name, attributes=attributes).end()


def test_each_span_gets_the_session_in_which_it_was_started(
    tracer: Tracer, spans: RecordedSpans
) -> None:
    start_and_end_span(tracer, "before")
    with session_scope("outer"):
        start_and_end_span(tracer, "outside")
        with session_scope("inner"):
            start_and_end_span(tracer, "inside")
        with session_scope(None):
            start_and_end_span(tracer, "in no session")
        start_and_end_span(tracer, "outside again")
    start_and_end_span(tracer, "after")
    names = ["before", "outside", "inside", "in no session", "outside again", "after"]
    assert spans.session_ids == dict(
        zip(names, [None, "outer", "inner", None, "outer", None], strict=True)
    )


def test_a_span_in_a_sub_session_gets_the_root_and_the_sub_session(
    tracer: Tracer, spans: RecordedSpans
) -> None:
    with session_scope("root"), sub_session("outer"), sub_session("inner"):
        start_and_end_span(tracer, "inside", **dict.fromkeys(IDS, "callers"))
        carry_session(start_and_end_span)(tracer, "carried")
        with session_scope("other"):
            start_and_end_span(tracer, "elsewhere")
    inner = ("root", "inner")
    assert spans.session_ids == {"inside": inner, "carried": inner, "elsewhere": "other"}


def test_a_span_in_no_session_gets_no_attribute(tracer: Tracer, spans: RecordedSpans) -> None:
    start_and_end_span(tracer, "outside", kind="tool")
    with session_scope("sess-1"):
        start_and_end_span(tracer, "inside", kind="tool")
    outside, inside = spans.get_finished_spans()
    assert dict(outside.attributes or {}) == {"kind": "tool"}
    assert dict(inside.attributes or {}) == {"kind": "tool", **dict.fromkeys(IDS, "sess-1")}


@pytest.mark.parametrize(("session_id", "exported"), [("sess-1", "sess-1"), (None, "callers")])
def test_the_current_session_replaces_the_attributes_that_a_span_starts_with(
    tracer: Tracer, spans: RecordedSpans, session_id: str | None, exported: str
) -> None:
    with session_scope(session_id):
        start_and_end_span(tracer, "both", **dict.fromkeys(IDS, "callers"))
        start_and_end_span(tracer, "one", **{IDS[1]: "callers"})
    assert spans.session_ids == {
        "both": exported,
        "one": exported if session_id else (None, "callers"),
    }


def test_an_attribute_that_is_set_later_is_kept(tracer: Tracer, spans: RecordedSpans) -> None:
    with session_scope("sess-1"), tracer.start_as_current_span("run loop") as span:
        span.set_attribute(IDS[1], "by hand")
    assert spans.session_ids == {"run loop": ("sess-1", "by hand")}


def test_a_child_span_may_have_another_session_than_its_parent(
    tracer: Tracer, spans: RecordedSpans
) -> None:
    with session_scope("main"), tracer.start_as_current_span("run loop"):
        start_and_end_span(tracer, "tool")
        with session_scope("sub"):
            start_and_end_span(tracer, "sub-session")
        with session_scope(None):
            start_and_end_span(tracer, "housekeeping")
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
def test_a_span_that_ends_in_another_session_keeps_its_own(
    tracer: Tracer, spans: RecordedSpans, started_in: str | None, ended_in: str | None
) -> None:
    with session_scope(started_in):
        span = tracer.start_span("stream")
    with session_scope(ended_in):
        span.end()
    assert spans.session_ids == {"stream": started_in}


def test_a_span_in_a_thread_gets_the_carried_session_but_no_parent(
    tracer: Tracer, spans: RecordedSpans, inherited_by_threads: Callable[[str], str | None]
) -> None:
    with session_scope("sess-1"), tracer.start_as_current_span("parent"):
        jobs = {"plain": start_and_end_span, "carried": carry_session(start_and_end_span)}
        for name, job in jobs.items():
            thread = threading.Thread(target=job, args=[tracer, name])
            thread.start()
            thread.join()
    plain = inherited_by_threads("sess-1")
    assert spans.session_ids == {"plain": plain, "carried": "sess-1", "parent": "sess-1"}
    parents = {span.name: span.parent for span in spans.get_finished_spans()}
    assert [bool(parents[name]) for name in jobs] == [bool(plain)] * 2


def test_concurrent_tasks_have_spans_of_their_own_sessions(
    tracer: Tracer, spans: RecordedSpans
) -> None:
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


def test_a_span_that_is_not_sampled_is_ignored(
    make_provider: MakeProvider, spans: RecordedSpans
) -> None:
    sampler = StaticSampler(Decision.DROP)
    tracer = make_provider(
        SessionIdSpanProcessor(), SimpleSpanProcessor(spans), sampler=sampler
    ).get_tracer("agent")
    with session_scope("sess-1"), tracer.start_as_current_span("dropped") as span:
        assert not span.is_recording()
    assert spans.session_ids == {}


def test_a_span_that_is_recorded_but_not_exported_gets_the_session(
    make_provider: MakeProvider,
) -> None:
    provider: Any = make_provider(
        SessionIdSpanProcessor(), sampler=StaticSampler(Decision.RECORD_ONLY)
    )
    with (
        session_scope("sess-1"),
        provider.get_tracer("agent").start_as_current_span("recorded") as span,
    ):
        assert dict(span.attributes) == dict.fromkeys(IDS, "sess-1")


def test_it_works_next_to_a_concurrent_processor_but_not_inside_one(
    make_provider: MakeProvider,
    spans: RecordedSpans,
    inherited_by_threads: Callable[[str], str | None],
) -> None:
    """A concurrent processor calls its inner processors in threads of its own."""
    inside, beside = ConcurrentMultiSpanProcessor(), ConcurrentMultiSpanProcessor()
    inside.add_span_processor(SessionIdSpanProcessor())
    for concurrent in (inside, beside):
        concurrent.add_span_processor(SimpleSpanProcessor(spans))
    with session_scope("sess-1"):
        start_and_end_span(make_provider(inside).get_tracer("agent"), "inside")
        start_and_end_span(
            make_provider(SessionIdSpanProcessor(), beside).get_tracer("agent"), "beside"
        )
    assert spans.session_ids == {"inside": inherited_by_threads("sess-1"), "beside": "sess-1"}


def test_a_flush_reaches_later_processors(
    make_provider: MakeProvider, spans: RecordedSpans
) -> None:
    """SDKs before 1.42 stop at the first processor that does not return ``True``."""
    exporting = BatchSpanProcessor(spans, schedule_delay_millis=600_000)
    provider = make_provider(SessionIdSpanProcessor(), exporting)
    with session_scope("sess-1"):
        start_and_end_span(provider.get_tracer("agent"), "flushed")
    assert provider.force_flush() is True
    assert spans.session_ids == {"flushed": "sess-1"}
    assert SessionIdSpanProcessor().force_flush(1) is True


def test_the_processor_works_after_its_shutdown(make_provider: MakeProvider) -> None:
    processor = SessionIdSpanProcessor()
    provider: Any = make_provider(processor)
    processor.shutdown()
    with (
        session_scope("sess-1"),
        provider.get_tracer("agent").start_as_current_span("after") as span,
    ):
        assert dict(span.attributes) == dict.fromkeys(IDS, "sess-1")
