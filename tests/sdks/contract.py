"""The tests that every provider SDK must pass, and the facts that its module must state."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Literal

import pytest
from werkzeug import Request, Response

from cagent_session import (
    MissingSessionId,
    gateway_headers,
    instrument,
    session_scope,
    uninstrument,
)
from cagent_session.testing import Call, ModelsGateway

THREADS = 8
HEADERS = gateway_headers("https://provider.example/v1", provider="provider", model="model")

Jobs = list[Callable[[], None]]
Runner = Callable[[Jobs], None]


def run_in_turn(jobs: Jobs) -> None:
    for job in jobs:
        job()


class Provider(ModelsGateway):
    """A provider. It answers like the gateway, but needs no marker. It records the headers."""

    def __init__(self) -> None:
        super().__init__(marker=None)
        self.headers: list[dict[str, str]] = []

    def dispatch(self, request: Request) -> Response:
        self.headers.append(dict(request.headers))
        return super().dispatch(request)


class AttributesCalls:
    """Every call of an SDK belongs to the session in which it is made.

    A subclass tests one SDK, with the clients of the SDK's example. Its methods whose names begin
    with ``ask_`` are ways to call: they get a client and a prompt, and return the answer's text, or
    ``True`` if the answer has no text. Methods whose names begin with ``stream_`` return an
    iterator of the text's pieces instead. Coroutine functions get the asynchronous client.

    A test that takes such a method's name, or ``line``, runs for each of the *lines*: with the
    example's client that has this library's own lines for the SDK, and with its plain client after
    ``instrument()``. Any other test uses the first of the *lines*.

    examples/sdks/README.rst has two tables of the SDKs. The docstrings of tests are the notes of
    the first table. The constants ``missing_raises``, ``missing_tries``, ``streams_belong`` and
    ``async_calls_arrive`` are the second table.
    """

    example: Any  # the module in examples/sdks
    lines: tuple[str, ...] = ("own lines", "instrument")
    only_instrumented: tuple[str, ...] = ()  # ways to call that the own lines don't attribute
    paths: tuple[str, ...]  # where the calls go, as the provider documents it
    retries: bool  # whether the SDK repeats a call that was answered 503

    # With missing="raise", a call in no session fails with this error. The SDK tries it as often
    # as one of these numbers says.
    missing_raises: str
    missing_tries: tuple[int, ...]

    line_in_use: str
    missing: Literal["omit", "raise"] = "omit"

    @pytest.fixture(autouse=True)
    def line(self, request: pytest.FixtureRequest) -> Iterator[str]:
        self.line_in_use = getattr(request, "param", self.lines[0])
        yield self.line_in_use
        uninstrument()

    def client(self, url: str, headers: dict[str, str]) -> Any:
        """Return a client for *url*. It is a provider's URL if there are no *headers*."""
        return self.make("client", url, headers)

    def async_client(self, url: str, headers: dict[str, str]) -> Any:
        return self.make("async_client", url, headers)

    def make(self, kind: str, url: str, headers: dict[str, str]) -> Any:
        """Make a client with the line that is in use. Some examples have one for both kinds."""
        prefix = "make_" if self.line_in_use == "own lines" else "make_plain_"
        either = getattr(self.example, f"{prefix}client")
        make = getattr(self.example, f"{prefix}{kind}", either)
        if self.line_in_use == "own lines":
            return make(url, {**headers})  # some SDKs add to them
        gateway = url if headers else "https://gateway.example"
        instrument(gateway, headers=HEADERS, missing=self.missing)
        return make(url)

    async def close(self, client: Any) -> None:
        """Close an asynchronous client. SDKs have different names for that."""
        for name in ("aclose", "close"):
            method: Any = getattr(client, name, None)
            if method is not None:
                outcome: Awaitable[None] | None = method()
                if outcome is not None:
                    await outcome
                return

    def ask_like_the_example(self, client: Any, prompt: str) -> Any:
        return self.example.ask(client, "model", prompt)

    def retries_when(self, way: str) -> bool:
        """Return whether the SDK repeats a call of this kind that was answered 503."""
        return self.retries

    def missing_tries_when(self, way: str) -> tuple[int, ...]:
        """Return how often the SDK may try a call of this kind that is in no session."""
        return self.missing_tries

    def ask(
        self,
        way: str,
        url: str,
        headers: dict[str, str],
        session_ids: Sequence[str | None],
        run: Runner = run_in_turn,
    ) -> None:
        """Make one client, and one call in each of the sessions.

        *run* makes the synchronous calls. Asynchronous calls run at the same time. The prompt names
        the session.
        """
        ask: Any = getattr(self, way)
        answers: list[tuple[str | None, Any]] = []

        def call(client: Any, session_id: str | None) -> None:
            with session_scope(session_id):
                answers.append((session_id, text_of(ask(client, f"I am {session_id}"))))

        async def call_async(client: Any, session_id: str | None) -> None:
            with session_scope(session_id):
                answer = await ask(client, f"I am {session_id}")
                answers.append((session_id, await async_text_of(answer)))

        async def call_all_async() -> list[Any]:
            client = self.async_client(url, headers)
            calls = [call_async(client, session_id) for session_id in session_ids]
            outcomes: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
            await self.close(client)
            return outcomes

        if inspect.iscoroutinefunction(ask):
            for error in filter(None, asyncio.run(call_all_async())):
                raise error
        else:
            client = self.client(url, headers)
            run([functools.partial(call, client, session_id) for session_id in session_ids])
        assert len(answers) == len(session_ids)
        assert all(
            answer in (True, f"You said: I am {session_id}") for session_id, answer in answers
        ), answers

    def calls(self, gateway: ModelsGateway) -> list[Call]:
        """Return the calls of a model. Some SDKs also send other requests."""
        return [call for call in gateway.calls if call.method == "POST"]

    def test_a_call_arrives_with_its_marker_and_session(
        self, way: str, gateway: ModelsGateway
    ) -> None:
        self.ask(way, gateway.url, HEADERS, ["sess-1"])
        (call,) = self.calls(gateway)
        assert (call.session_id, call.status) == ("sess-1", 200)
        assert {name: call.headers.get(name) for name in HEADERS} == HEADERS
        assert call.path in self.paths
        assert call.prompt_tokens == 3  # "I am sess-1"
        assert call.completion_tokens == (0 if "embed" in call.path.lower() else 5)

    def test_one_client_serves_two_sessions_and_none(
        self, way: str, gateway: ModelsGateway
    ) -> None:
        self.ask(way, gateway.url, HEADERS, ["sess-1", "sess-2", None])
        calls = self.calls(gateway)
        assert sorted(str(call.session_id) for call in calls) == ["None", "sess-1", "sess-2"]
        assert all(f"I am {call.session_id}".encode() in call.body for call in calls)

    def test_a_call_to_the_provider_has_none_of_our_headers(
        self, way: str, provider: Provider
    ) -> None:
        self.ask(way, provider.url, {}, ["sess-1"])
        assert self.calls(provider)
        assert not our_headers_in(provider.headers)

    def test_a_redirect_to_another_host_has_none_of_our_headers(
        self, way: str, gateway: ModelsGateway, provider: Provider
    ) -> None:
        # Some SDKs follow the redirect, others raise an error.
        elsewhere = {"Location": provider.url_for("/elsewhere")}
        gateway.expect_request(re.compile("")).respond_with_data("", 307, elsewhere)
        with pytest.raises(Exception) as caught:
            self.ask(way, gateway.url, HEADERS, ["sess-1"])
        assert not isinstance(caught.value, AssertionError)
        assert {call.session_id for call in self.calls(gateway)} == {"sess-1"}
        assert not our_headers_in(provider.headers)

    def test_the_sdk_retries_as_before_and_in_the_same_session(
        self, way: str, gateway: ModelsGateway
    ) -> None:
        retries = self.retries_when(way)
        refuse_once(gateway)
        with contextlib.nullcontext() if retries else pytest.raises(Exception) as caught:
            self.ask(way, gateway.url, HEADERS, ["sess-1"])
        assert caught is None or not isinstance(caught.value, AssertionError)
        calls = self.calls(gateway)
        assert [call.status for call in calls] == ([503, 200] if retries else [503])
        assert {call.session_id for call in calls} == {"sess-1"}

    def test_threads_share_a_client_and_keep_their_sessions(
        self, way: str, gateway: ModelsGateway
    ) -> None:
        # For an asynchronous client these are tasks.
        session_ids = [f"sess-{number}" for number in range(THREADS)]
        self.ask(way, gateway.url, HEADERS, session_ids, run=run_in_threads)
        calls = self.calls(gateway)
        assert sorted(call.session_id or "" for call in calls) == session_ids
        assert all(f"I am {call.session_id}".encode() in call.body for call in calls)

    def test_a_missing_session_raises_the_error_that_the_table_names(
        self,
        way: str,
        gateway: ModelsGateway,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        self.missing = "raise"
        for name in ("mount", "session_factory", "session_id_hook"):
            if function := getattr(self.example, name, None):
                raising = functools.partial(function, missing="raise")
                monkeypatch.setattr(self.example, name, raising)
        do_not_wait_between_tries(monkeypatch)
        with (
            caplog.at_level(logging.DEBUG, "cagent_session"),
            pytest.raises(Exception) as caught,
        ):
            self.ask(way, gateway.url, HEADERS, [None])
        tries = [r for r in caplog.messages if r.startswith("no session: POST")]
        assert any(isinstance(error, MissingSessionId) for error in causes_of(caught.value))
        assert not self.calls(gateway)
        assert type(caught.value).__name__ == self.missing_raises
        assert len(tries) in self.missing_tries_when(way)

    def test_its_example_runs(self, line: str) -> None:
        # The example needs no key. It would fail if a call was in no session.
        without_keys = {name: value for name, value in os.environ.items() if value != "key"}
        options = ["--own-lines"] if line == "own lines" else []
        command = [sys.executable, "-W", "ignore", self.example.__file__, *options]
        done = subprocess.run(
            command, env=without_keys, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stderr
        assert len(re.findall(r"(?m)^\S{36} (You said: |an embedding of )", done.stdout)) == 2
        assert len(re.findall(r"(?m)^\S{36} +1 +[1-9]\d*$", done.stdout)) == 2


class Streams(AttributesCalls):
    """The SDK has streams: methods whose names begin with ``stream_``."""

    # A stream belongs to the session in which it is "created" or "first read".
    streams_belong: str

    def test_streams_belong_to_the_session_that_the_table_states(
        self, stream: str, gateway: ModelsGateway
    ) -> None:
        self.read_after_the_scope(stream, gateway.url)
        (call,) = self.calls(gateway)
        assert call.session_id == {"created": "sess-1", "first read": None}[self.streams_belong]

    def read_after_the_scope(self, name: str, url: str) -> None:
        stream: Any = getattr(self, name)

        async def read_async() -> None:
            client = self.async_client(url, HEADERS)
            with session_scope("sess-1"):
                pieces = await stream(client, "I am sess-1")
            assert await async_text_of(pieces) == "You said: I am sess-1"
            await self.close(client)

        if inspect.iscoroutinefunction(stream):
            asyncio.run(read_async())
            return
        client = self.client(url, HEADERS)
        with session_scope("sess-1"):
            pieces = stream(client, "I am sess-1")
        assert text_of(pieces) == "You said: I am sess-1"


class AsyncNeedsMore(AttributesCalls):
    """The lines of ``make_client`` do not attribute the SDK's asynchronous calls."""

    # Without instrument(), such calls arrive "unmarked", or marked but "in no session".
    async_calls_arrive: str

    async def call_async(self, client: Any, gateway: str, headers: dict[str, str]) -> Any:
        """Make an asynchronous call after ``make_client`` has returned *client*."""
        raise NotImplementedError

    def test_asynchronous_calls_arrive_as_the_table_states(
        self, line: str, gateway: ModelsGateway
    ) -> None:
        client = self.client(gateway.url, HEADERS)

        async def call() -> None:
            # The gateway refuses a call that is unmarked.
            with session_scope("sess-1"), contextlib.suppress(Exception):
                await self.call_async(client, gateway.url, {**HEADERS})

        asyncio.run(call())
        arrived = {(call.forward is not None, call.session_id) for call in self.calls(gateway)}
        is_marked = self.async_calls_arrive == "in no session"
        assert arrived == {(True, "sess-1") if line == "instrument" else (is_marked, None)}


class KeepsTimeouts(AttributesCalls):
    """The client with the own lines has the same time-outs as the plain client."""

    def test_time_outs_are_those_of_the_sdk(
        self, provider: Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        timeouts: list[Any] = []
        for library in ("httpx", "httpx2"):
            record_timeouts(library, timeouts, monkeypatch)
        for client in (
            self.example.make_plain_client(provider.url),
            self.example.make_client(provider.url, {}),
        ):
            self.ask_like_the_example(client, "Hello")
        plain, ours = timeouts
        assert ours == plain


class StatesUsage(AttributesCalls):
    """The SDK states an answer's tokens: methods whose names begin with ``usage_`` return them."""

    def test_the_sdk_states_what_the_session_is_billed(
        self, usage: str, gateway: ModelsGateway
    ) -> None:
        client = self.client(gateway.url, HEADERS)
        with session_scope("sess-1"):
            stated = tuple(getattr(self, usage)(client, "I am sess-1"))
        billed = gateway.usage()["sess-1"]
        assert stated == (billed.prompt_tokens, billed.completion_tokens) == (3, 5)


def text_of(answer: Any) -> Any:
    return answer if isinstance(answer, (str, bool)) else "".join(answer)


async def async_text_of(answer: Any) -> Any:
    return answer if isinstance(answer, (str, bool)) else "".join([piece async for piece in answer])


def our_headers_in(requests: list[dict[str, str]]) -> set[str]:
    """Return the names, in lower case, of the headers that are meant for the gateway only."""
    names = {name.lower() for headers in requests for name in headers}
    return {name for name in names if name.startswith("x-cagent-")}


def causes_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield *error*, its cause, the cause's cause and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def record_timeouts(library: str, timeouts: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Append the time-outs of each request that *library* sends, if it is loaded."""
    if library not in sys.modules:
        return
    for kind, method in (
        ("HTTPTransport", "handle_request"),
        ("AsyncHTTPTransport", "handle_async_request"),
    ):
        transport: Any = getattr(sys.modules[library], kind)
        send: Any = getattr(transport, method)

        def record(self: Any, request: Any, send: Any = send) -> Any:
            timeouts.append(request.extensions["timeout"])
            return send(self, request)

        monkeypatch.setattr(transport, method, record)


def do_not_wait_between_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_sleep(_: float) -> None:
        pass

    monkeypatch.setattr("time.sleep", lambda _: None)
    if "anyio" in sys.modules:
        monkeypatch.setattr("anyio.sleep", no_sleep)


def run_in_threads(jobs: Jobs) -> None:
    """Run all jobs at the same time, each in a thread of its own."""
    barrier, errors = threading.Barrier(len(jobs)), []

    def run(job: Callable[[], None]) -> None:
        barrier.wait(30)
        try:
            job()
        except BaseException as error:  # noqa: BLE001 - raised in the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=run, args=[job]) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for error in errors:
        raise error


def refuse_once(gateway: ModelsGateway) -> None:
    """Answer the next POST with 503 in a form that all SDKs read, and ask to retry at once."""
    busy = {
        "error": {"message": "busy"},
        "message": "busy",
        "error_code": "TEMPORARILY_UNAVAILABLE",
    }
    headers = {"Retry-After": "0", "Retry-After-Ms": "1"}
    gateway.expect_oneshot_request(re.compile(""), method="POST").respond_with_json(
        busy, 503, headers
    )


def messages_of(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]
