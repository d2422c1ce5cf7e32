"""What must hold for every provider SDK? The tests that each module here inherits."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import re
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from werkzeug import Request, Response

from cagent_session import gateway_headers, session_scope
from cagent_session.testing import Call, ModelsGateway

EXAMPLES = Path(__file__).parents[2] / "examples" / "sdks"
THREADS = 8
HEADERS = gateway_headers("https://provider.example/v1", provider="provider", model="model")


Jobs = list[Callable[[], None]]
Runner = Callable[[Jobs], None]


def run_in_turn(jobs: Jobs) -> None:
    for job in jobs:
        job()


class Provider(ModelsGateway):
    """A provider: what speaks the gateway's wire formats, and asks for no marker. It records what reached it."""

    def __init__(self) -> None:
        super().__init__()
        self.headers: list[dict[str, str]] = []

    def dispatch(self, request: Request) -> Response:
        self.headers.append(dict(request.headers))
        request.environ.setdefault("HTTP_X_CAGENT_FORWARD", "none")
        return super().dispatch(request)


class Attributed:
    """Every call of an SDK's client belongs to its session.

    A subclass is an SDK. It has a ``client``, an ``async_client`` if the SDK has one, and functions whose names begin
    with ``ask_``: each is a way to call, gets the client and a prompt, and returns the answer's text, or ``True`` where
    the answer has none. An asynchronous one gets the asynchronous client. ``retries`` tells whether the SDK, with us or
    without, sends a call again that was answered 503, and ``paths`` where its calls go, as the provider documents them.
    """

    retries: bool
    paths: tuple[str, ...]

    def client(self, gateway: str, headers: dict[str, str]) -> Any:
        """Return a client: the lines that a user writes."""
        raise NotImplementedError

    def async_client(self, gateway: str, headers: dict[str, str]) -> Any:
        """Return an asynchronous client."""
        raise NotImplementedError

    def retries_when(self, way: str) -> bool:
        """Tell it for one way to call, where not all are alike."""
        return self.retries

    def ask(
        self,
        way: str,
        url: str,
        headers: dict[str, str],
        session_ids: Sequence[str | None],
        run: Runner = run_in_turn,
    ) -> None:
        """Make one client, and one call in each of the sessions: synchronous ones by *run*, asynchronous ones at once.

        The prompt names the session, so that a call can be told from another.
        """
        ask: Any = getattr(self, way)
        answers: list[tuple[str | None, Any]] = []

        def call(client: Any, session_id: str | None) -> None:
            with session_scope(session_id):
                answers.append((session_id, ask(client, f"I am {session_id}")))

        async def call_async(client: Any, session_id: str | None) -> None:
            with session_scope(session_id):
                answers.append((session_id, await ask(client, f"I am {session_id}")))

        async def call_all_async() -> None:
            client = self.async_client(url, headers)
            calls = [call_async(client, session_id) for session_id in session_ids]
            outcomes: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
            await close(client)
            for error in filter(None, outcomes):
                raise error

        if inspect.iscoroutinefunction(ask):
            asyncio.run(call_all_async())
        else:
            client = self.client(url, headers)
            run([functools.partial(call, client, session_id) for session_id in session_ids])
        assert len(answers) == len(session_ids)
        assert all(
            answer in (True, f"You said: I am {session_id}") for session_id, answer in answers
        ), answers

    def calls(self, gateway: ModelsGateway) -> list[Call]:
        """Return the calls of a model that reached *gateway*: some SDKs look around first."""
        return [call for call in gateway.calls if call.method == "POST"]

    def test_a_call_arrives_marked_and_with_its_session(
        self, way: str, gateway: ModelsGateway
    ) -> None:
        self.ask(way, gateway.url, HEADERS, ["sess-1"])
        (call,) = self.calls(gateway)
        assert (call.session_id, call.forward, call.status) == (
            "sess-1",
            HEADERS["X-Cagent-Forward"],
            200,
        )
        assert {name: call.headers.get(name) for name in HEADERS} == HEADERS
        assert call.path in self.paths
        assert call.prompt_tokens == 3  # "I am sess-1"
        assert call.completion_tokens == (0 if "embedding" in way else 5)  # "You said: I am sess-1"

    def test_one_client_serves_two_sessions_and_none(
        self, way: str, gateway: ModelsGateway
    ) -> None:
        self.ask(way, gateway.url, HEADERS, ["sess-1", "sess-2", None])
        calls = self.calls(gateway)
        assert sorted(str(call.session_id) for call in calls) == ["None", "sess-1", "sess-2"]
        assert all(f"I am {call.session_id}".encode() in call.body for call in calls)

    def test_a_call_to_the_provider_itself_carries_nothing_of_ours(
        self, way: str, provider: Provider
    ) -> None:
        self.ask(way, provider.url, {}, ["sess-1"])
        assert self.calls(provider)
        assert not ours_among(provider.headers)

    def test_a_redirect_elsewhere_takes_nothing_of_ours_along(
        self, way: str, gateway: ModelsGateway, provider: Provider
    ) -> None:
        """Some SDKs follow it, others raise."""
        elsewhere = {"Location": provider.url_for("/elsewhere")}
        gateway.expect_request(re.compile("")).respond_with_data("", 307, elsewhere)
        with pytest.raises(Exception) as caught:
            self.ask(way, gateway.url, HEADERS, ["sess-1"])
        assert not isinstance(caught.value, AssertionError)
        assert {call.session_id for call in self.calls(gateway)} == {"sess-1"}
        assert ours_among(provider.headers) == set()

    def test_retries_are_the_sdks_own_and_keep_the_session(
        self, way: str, gateway: ModelsGateway
    ) -> None:
        refuse_once(gateway)
        if self.retries_when(way):
            self.ask(way, gateway.url, HEADERS, ["sess-1"])
        else:
            with pytest.raises(Exception) as caught:
                self.ask(way, gateway.url, HEADERS, ["sess-1"])
            assert not isinstance(caught.value, AssertionError)
        calls = self.calls(gateway)
        assert [call.status for call in calls] == ([503, 200] if self.retries_when(way) else [503])
        assert {call.session_id for call in calls} == {"sess-1"}

    def test_threads_share_one_client_and_mix_nothing_up(
        self, way: str, gateway: ModelsGateway
    ) -> None:
        """For an asynchronous client, tasks."""
        session_ids = [f"sess-{number}" for number in range(THREADS)]
        self.ask(way, gateway.url, HEADERS, session_ids, run=run_in_threads)
        calls = self.calls(gateway)
        assert sorted(call.session_id or "" for call in calls) == session_ids
        assert all(f"I am {call.session_id}".encode() in call.body for call in calls)

    def test_its_example_runs_through_a_gateway_of_its_own(self) -> None:
        """Without a key; it fails where a call is in no session."""
        output = self.run_example(
            {name: value for name, value in os.environ.items() if value != "key"}
        )
        assert len(re.findall(r"(?m)^\S{36} .*(You said: |embedding of )", output)) == 2
        assert len(re.findall(r"(?m)^\S{36} +\d+ +[1-9]\d*$", output)) == 2

    def test_its_example_runs_through_yours(self, gateway: ModelsGateway) -> None:
        session_ids = re.findall(
            r"(?m)^(\S{36}) ", self.run_example(None, "--models-gateway", f"{gateway.url}/")
        )
        assert len(session_ids) == 2
        assert [call.session_id for call in self.calls(gateway)] == session_ids

    def run_example(self, environment: dict[str, str] | None, *arguments: str) -> str:
        """Run ``with_groq.py``, the example of ``test_groq.py``."""
        name = Path(inspect.getfile(type(self))).name.replace("test_", "with_")
        command = [sys.executable, "-W", "ignore", str(EXAMPLES / name), *arguments]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


class TellsUsage(Attributed):
    """An SDK that tells the tokens: functions whose names begin with ``figures_`` return those of prompt and answer."""

    def test_the_sdk_is_told_what_the_session_is_billed(
        self, figures: str, gateway: ModelsGateway
    ) -> None:
        client = self.client(gateway.url, HEADERS)
        with session_scope("sess-1"):
            told = tuple(getattr(self, figures)(client, "I am sess-1"))
        billed = gateway.usage()["sess-1"]
        assert told == (billed.prompt_tokens, billed.completion_tokens) == (3, 5)


def ours_among(requests: list[dict[str, str]]) -> set[str]:
    """Return the names, in lower case, of the headers that only a gateway should get."""
    names = {name.lower() for headers in requests for name in headers}
    return {name for name in names if name.startswith("x-cagent-")}


def run_in_threads(jobs: Jobs) -> None:
    """Run all at the same time, each in a thread of its own."""
    together, errors = threading.Barrier(len(jobs)), []

    def run(job: Callable[[], None]) -> None:
        together.wait(30)
        try:
            job()
        except BaseException as error:  # noqa: BLE001 - raised where the test sees it
            errors.append(error)

    threads = [threading.Thread(target=run, args=[job]) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for error in errors:
        raise error


def refuse_once(gateway: ModelsGateway) -> None:
    """Answer the next POST with 503, in words that all SDKs read, and ask to try again at once."""
    busy = {
        "error": {"message": "busy"},
        "message": "busy",
        "error_code": "TEMPORARILY_UNAVAILABLE",
    }
    headers = {"Retry-After": "0", "Retry-After-Ms": "1"}
    gateway.expect_oneshot_request(re.compile(""), method="POST").respond_with_json(
        busy, 503, headers
    )


async def close(client: Any) -> None:
    """Close a client, by whichever name its SDK has for that."""
    for name in ("aclose", "close"):
        method: Any = getattr(client, name, None)
        if method is not None:
            outcome: Awaitable[None] | None = method()
            if outcome is not None:
                await outcome
            return
