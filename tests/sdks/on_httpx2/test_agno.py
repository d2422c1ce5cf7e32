"""The calls of agno, which is on openai 3 and httpx2."""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
from typing import Any

import pytest
import with_agno
from agno.agent import Agent
from agno.db.in_memory import InMemoryDb
from agno.models.openai import OpenAIChat
from agno.run.agent import RunErrorEvent, RunOutput
from agno.run.background import await_background_runs
from agno.run.base import RunStatus
from agno.team import Team
from contract import HEADERS, KeepsTimeouts, StatesUsage, Streams

from cagent_session import instrument, session_id_hook, session_scope, uninstrument
from cagent_session.testing import Call, ModelsGateway

SDK = "agno[openai]==3.1.10"

# How agno asks the model for what it will remember, by the option that switches it on.
PROMPTS = {
    "enable_agentic_memory": b"You are a Memory Manager",
    "enable_session_summaries": b"Analyze the following conversation",
    "learning": b"You are building a memory of this user",
    "update_memory_on_run": b"You are a Memory Manager",
}


def run(agent: Any, *session_ids: str) -> None:
    for session_id in session_ids:
        with session_scope(session_id):
            agent.run("I like tea")


def arun(agent: Any, *session_ids: str, **options: Any) -> None:
    async def run_one(session_id: str) -> None:
        with session_scope(session_id):
            await agent.arun("I like tea", **options)

    async def run_all() -> None:
        await asyncio.gather(*map(run_one, session_ids))
        await await_background_runs()

    asyncio.run(run_all())


run_in_background = functools.partial(arun, background=True)

each_run = pytest.mark.parametrize(
    "run_in", [run, arun, run_in_background], ids=["run", "arun", "background"]
)
each_kind = pytest.mark.parametrize("kind", [Agent, Team])


class TestAgno(StatesUsage, Streams, KeepsTimeouts):
    example = with_agno
    paths = ("/v1/chat/completions",)
    retries = True
    streams_belong = "first read"
    missing_raises = "none"
    missing_tries = (1,)

    def stream_run(self, client: OpenAIChat, prompt: str) -> Any:
        return (text(event) for event in agent(client).run(prompt, stream=True))

    def usage_run(self, client: OpenAIChat, prompt: str) -> Any:
        metrics = agent(client).run(prompt).metrics
        return metrics.input_tokens, metrics.output_tokens

    async def ask_async(self, client: OpenAIChat, prompt: str) -> Any:
        return text(await agent(client).arun(prompt))

    async def stream_async(self, client: OpenAIChat, prompt: str) -> Any:
        return (text(event) async for event in agent(client).arun(prompt, stream=True))

    def test_a_missing_session_raises_the_error_that_the_table_names(
        self,
        way: str,
        gateway: ModelsGateway,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """A run raises no error. Its ``status`` is ``ERROR``, and its text is the error's."""
        self.missing = "raise"
        raising = functools.partial(session_id_hook, missing="raise")
        monkeypatch.setattr(with_agno, "session_id_hook", raising)
        with (
            caplog.at_level(logging.DEBUG, "cagent_session"),
            pytest.raises(RuntimeError, match="is bound for the models gateway but in no session"),
        ):
            self.ask(way, gateway.url, HEADERS, [None])
        tries = [r for r in caplog.messages if r.startswith("no session: POST")]
        assert len(tries) in self.missing_tries
        assert not self.calls(gateway)

    @pytest.mark.parametrize("option", PROMPTS)
    @each_kind
    @each_run
    def test_instrumented_calls_for_memories_belong_to_the_session_of_their_run(
        self, run_in: Any, kind: Any, option: str, gateway: ModelsGateway
    ) -> None:
        """With ``instrument``, calls for memories are in the session of their run."""
        self.line_in_use = "instrument"
        client = self.client(gateway.url, HEADERS)
        run_in(agent(client, kind, **{option: True}), "sess-1", "sess-2")
        kinds, session_ids = ("an answer", "a memory"), ("sess-1", "sess-2")
        assert sessions_of(gateway.calls) == {*itertools.product(kinds, session_ids)}
        for call in gateway.calls:
            assert {name: call.headers.get(name) for name in HEADERS} == HEADERS

    @each_kind
    @each_run
    def test_the_own_lines_do_not_reach_calls_for_memories(
        self, run_in: Any, kind: Any, gateway: ModelsGateway
    ) -> None:
        """With its own lines, calls for memories arrive marked, but in no session."""
        client = (self.client if run_in is run else self.async_client)(gateway.url, HEADERS)
        run_in(agent(client, kind, update_memory_on_run=True), "sess-1")
        assert sessions_of(gateway.calls) == {("an answer", "sess-1"), ("a memory", None)}

    def test_an_agent_that_exists_is_covered_until_uninstrument(
        self, gateway: ModelsGateway
    ) -> None:
        existing = agent(self.client(gateway.url, HEADERS), update_memory_on_run=True)
        executor = existing.background_executor
        instrument(gateway.url, headers=HEADERS)
        run(existing, "sess-1")
        assert sessions_of(gateway.calls) == {("an answer", "sess-1"), ("a memory", "sess-1")}
        uninstrument()
        assert existing.background_executor is executor


def agent(client: OpenAIChat, kind: Any = Agent, **options: Any) -> Any:
    if kind is Team:
        options["members"] = []
    return kind(model=client, telemetry=False, db=InMemoryDb(), user_id="user", **options)


def text(answer: Any) -> str:
    """Return the text of a run, or of an event of it. Raise an error if the run has failed."""
    failed = isinstance(answer, RunOutput) and answer.status is RunStatus.error
    if failed or isinstance(answer, RunErrorEvent):
        raise RuntimeError(answer.content)
    return answer.content or ""


def sessions_of(calls: list[Call]) -> set[tuple[str, str | None]]:
    """Return the sessions of the calls, each with what the model was asked for."""
    return {
        (
            "a memory" if any(p in call.body for p in PROMPTS.values()) else "an answer",
            call.session_id,
        )
        for call in calls
    }
