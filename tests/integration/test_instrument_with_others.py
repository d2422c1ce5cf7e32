"""Tests of ``instrument`` beside tracers, mocks and recordings, switched on in either order."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import requests
import requests_mock
import responses
import vcr  # type: ignore[import-untyped]  # it has none
from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cagent_session import gateway_headers, instrument, session_scope, uninstrument
from cagent_session.testing import Call, ModelsGateway

CHAT = "/v1/chat/completions"
QUESTION: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello!"}]}
GATEWAY, PROVIDER = "https://gateway.example", "https://api.openai.com"
HEADERS = gateway_headers("https://api.openai.com/v1")
SEAMS = [
    (requests.Session, "get_adapter"),
    (httpx.Client, "send"),
    (httpx.AsyncClient, "send"),
    (aiohttp.ClientSession, "__init__"),
    (aiohttp.ClientSession, "_request"),
]

Switch = Callable[[str], AbstractContextManager[Any]]


@contextmanager
def instrumented(url: str) -> Iterator[None]:
    instrument(url, headers=HEADERS)
    try:
        yield
    finally:
        uninstrument()


@pytest.fixture(params=["instrument first", "instrument second"])
def both(request: pytest.FixtureRequest) -> Callable[[Switch, str], AbstractContextManager[Any]]:
    """Return a context manager that switches both on. It gives what the other one gives.

    The one that was switched on last is switched off first. No trace is left.
    """

    @contextmanager
    def switched_on(other: Switch, url: str) -> Iterator[Any]:
        before = [vars(owner)[name] for owner, name in SEAMS]
        with ExitStack() as stack:
            if request.param == "instrument first":
                stack.enter_context(instrumented(url))
            given = stack.enter_context(other(url))
            if request.param == "instrument second":
                stack.enter_context(instrumented(url))
            yield given
        assert [vars(owner)[name] for owner, name in SEAMS] == before

    return switched_on


def call_each(url: str) -> None:
    """Make a call by each library. A client of each kind is made here."""
    requests.post(url + CHAT, json=QUESTION, timeout=10)
    httpx.post(url + CHAT, json=QUESTION)

    async def call() -> None:
        async with httpx.AsyncClient() as client:
            await client.post(url + CHAT, json=QUESTION)
        async with aiohttp.ClientSession() as session:
            await (await session.post(url + CHAT, json=QUESTION)).read()

    asyncio.run(call())


def assert_attributed_each(calls: list[Call], session_id: str, header: str) -> None:
    assert [(call.session_id, call.forward) for call in calls] == [
        (session_id, "https://api.openai.com/v1")
    ] * 4
    assert all(header in call.headers for call in calls)


@contextmanager
def opentelemetry(_: str) -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentors: list[Any] = [
        RequestsInstrumentor(),
        HTTPXClientInstrumentor(),
        AioHttpClientInstrumentor(),
    ]
    for instrumentor in instrumentors:
        instrumentor.instrument(tracer_provider=provider)
    yield exporter
    for instrumentor in instrumentors:
        instrumentor.uninstrument()
    provider.shutdown()


SENTRY = """
import sys
import sentry_sdk
from cagent_session import gateway_headers, instrument, session_scope, uninstrument
import test_instrument_with_others as tests

url, order = sys.argv[1:]
switches = [
    lambda: instrument(url, headers=tests.HEADERS),
    lambda: sentry_sdk.init("http://key@127.0.0.1:9/1", traces_sample_rate=1.0),
]
for switch in switches if order == "instrument first" else reversed(switches):
    switch()
with sentry_sdk.start_transaction(name="test") as transaction:
    transaction.sampled = False  # send nothing to Sentry
    with session_scope("sess-1"):
        tests.call_each(url)
    uninstrument()
    with session_scope("sess-1"):
        tests.call_each(url)
"""


@pytest.mark.parametrize("order", ["instrument first", "instrument second"])
def test_sentry(order: str, models_gateway: ModelsGateway) -> None:
    """Sentry can't be switched off again, so it has a process of its own."""
    subprocess.run(
        [sys.executable, "-c", SENTRY, models_gateway.url, order],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        check=True,
        timeout=60,
    )
    during, after = models_gateway.calls[:4], models_gateway.calls[4:]
    assert_attributed_each(during, "sess-1", "Sentry-Trace")
    assert [(call.session_id, call.forward) for call in after] == [(None, None)] * 4


def test_opentelemetry(both: Any, models_gateway: ModelsGateway, session_id: str) -> None:
    with both(opentelemetry, models_gateway.url) as exporter:
        call_each(models_gateway.url)
        assert len(exporter.get_finished_spans()) == 4
    assert_attributed_each(models_gateway.calls, session_id, "Traceparent")


@contextmanager
def mocked_by_responses(url: str) -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock() as mock:
        mock.post(url + CHAT)
        mock.post(PROVIDER + CHAT)
        yield mock


def test_responses_sees_the_headers(both: Any) -> None:
    with both(mocked_by_responses, GATEWAY) as mock, session_scope("sess-1"):
        for origin in (GATEWAY, PROVIDER):
            requests.post(origin + CHAT, json=QUESTION, timeout=10)
        shown = [call.request.headers.get("X-Cagent-Session-Id") for call in mock.calls]
    assert shown == ["sess-1", None]


@contextmanager
def mocked_by_requests_mock(url: str) -> Iterator[requests_mock.Mocker]:
    with requests_mock.Mocker() as mock:
        mock.post(url + CHAT)
        yield mock


def test_a_mocker_of_requests_mock_answers_but_sees_no_header(both: Any) -> None:
    """While a session sends, its ``get_adapter`` is the mocker's. If that changes, use it."""
    with both(mocked_by_requests_mock, GATEWAY) as mock, session_scope("sess-1"):
        assert requests.post(GATEWAY + CHAT, json=QUESTION, timeout=10).ok
        shown = [request.headers.get("X-Cagent-Session-Id") for request in mock.request_history]
    assert shown == [None]


def test_an_adapter_of_requests_mock_sees_the_headers() -> None:
    with requests.Session() as session, instrumented(GATEWAY), session_scope("sess-1"):
        session.mount("https://", mock := requests_mock.Adapter())
        mock.register_uri("POST", GATEWAY + CHAT, request_headers={"X-Cagent-Session-Id": "sess-1"})
        assert session.post(GATEWAY + CHAT, json=QUESTION).ok


def test_vcr_records_calls_and_plays_them_back(
    both: Any, models_gateway: ModelsGateway, tmp_path: Path
) -> None:
    def recorded(_: str) -> Any:
        return vcr.use_cassette(tmp_path / "cassette.yaml", record_mode="once")

    for _ in ("record", "play"):
        with both(recorded, models_gateway.url) as cassette, session_scope("sess-1"):
            call_each(models_gateway.url)
            shown = [request.headers.get("X-Cagent-Session-Id") for request in cassette.requests]
        # It records what aiohttp was asked to send, before aiohttp calls trace configs.
        assert [each and str(each) for each in shown] == ["sess-1", "sess-1", "sess-1", None]
        models_gateway.assert_attributed("sess-1", calls=4)
        assert len(models_gateway.calls) == 4


def test_pytest_httpserver(both: Any, models_gateway: ModelsGateway, session_id: str) -> None:
    @contextmanager
    def expecting(_: str) -> Iterator[None]:
        expected = models_gateway.expect_request(CHAT, headers={"X-Cagent-Session-Id": session_id})
        expected.respond_with_json({})
        yield

    with both(expecting, models_gateway.url):
        call_each(models_gateway.url)
    assert [call.status for call in models_gateway.calls] == [200] * 4
    models_gateway.assert_attributed(session_id, calls=4)
