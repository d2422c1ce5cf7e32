"""The calls of agno, which is on openai 3 and httpx2."""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import Any

import pytest
import with_agno
from agno.agent import Agent
from agno.db.in_memory import InMemoryDb
from agno.models.openai import OpenAIChat
from agno.run.agent import RunErrorEvent, RunOutput
from agno.run.base import RunStatus
from contract import HEADERS, KeepsTimeouts, StatesUsage, Streams

from cagent_session import SessionExecutor, session_id_hook, session_scope
from cagent_session.testing import ModelsGateway

SDK = "agno[openai]==3.1.10"


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

    @pytest.mark.parametrize(
        "option", ["enable_agentic_memory", "enable_session_summaries", "update_memory_on_run"]
    )
    def test_instrumented_calls_for_memories_belong_to_their_session(
        self, option: str, gateway: ModelsGateway
    ) -> None:
        self.line_in_use = "instrument"
        client = self.client(gateway.url, HEADERS)
        options: dict[str, Any] = {option: True}

        async def run(session_id: str) -> None:
            with session_scope(session_id):
                await agent(client, **options).arun("I like tea")

        async def run_both() -> None:
            await asyncio.gather(run("sess-1"), run("sess-2"))

        asyncio.run(run_both())
        first, second = (len(gateway.calls_in(session_id)) for session_id in ("sess-1", "sess-2"))
        assert first == second > 1
        assert len(gateway.calls) == first + second
        assert {name: gateway.calls[-1].headers.get(name) for name in HEADERS} == HEADERS

    def test_the_own_lines_do_not_reach_calls_for_memories(self, gateway: ModelsGateway) -> None:
        """With its own lines, calls for memories arrive marked, but in no session."""
        assert calls_of_a_run_with_memory(self.client(gateway.url, HEADERS), gateway) == {
            "an answer": "sess-1",
            "a memory": None,
        }

    def test_instrumented_calls_for_memories_in_threads(self, gateway: ModelsGateway) -> None:
        """With ``update_memory_on_run``, ``run`` makes memories in threads, in no session."""
        self.line_in_use = "instrument"
        assert calls_of_a_run_with_memory(self.client(gateway.url, HEADERS), gateway) == {
            "an answer": "sess-1",
            "a memory": None,
        }

    def test_a_session_executor_for_memories(self, gateway: ModelsGateway) -> None:
        """Then a subclass's ``background_executor`` must return a ``SessionExecutor``."""

        class SessionAgent(Agent):  # type: ignore[misc] # where agno isn't installed, it is Any
            @property
            def background_executor(self) -> Any:
                return SessionExecutor(super().background_executor)

        self.line_in_use = "instrument"
        client = self.client(gateway.url, HEADERS)
        assert calls_of_a_run_with_memory(client, gateway, SessionAgent) == {
            "an answer": "sess-1",
            "a memory": "sess-1",
        }


def agent(client: OpenAIChat, kind: type[Agent] = Agent, **options: Any) -> Agent:
    return kind(model=client, telemetry=False, db=InMemoryDb(), user_id="user", **options)


def text(answer: Any) -> str:
    """Return the text of a run, or of an event of it. Raise an error if the run has failed."""
    failed = isinstance(answer, RunOutput) and answer.status is RunStatus.error
    if failed or isinstance(answer, RunErrorEvent):
        raise RuntimeError(answer.content)
    return answer.content or ""


def calls_of_a_run_with_memory(
    client: OpenAIChat, gateway: ModelsGateway, kind: type[Agent] = Agent
) -> dict[str, str | None]:
    """Return the sessions of the calls of a synchronous run, by what the model was asked for."""
    with session_scope("sess-1"):
        agent(client, kind, update_memory_on_run=True).run("I like tea")
    return {
        "a memory" if b"Memory Manager" in call.body else "an answer": call.session_id
        for call in gateway.calls
        if call.forward
    }
