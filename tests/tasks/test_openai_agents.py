"""Tests of openai-agents: a streamed run belongs to the session in which it was started."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from agents import Agent, Runner, function_tool, set_default_openai_client, set_tracing_disabled
from guide_lines import execute
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from cagent_session import gateway_headers, session_id_hook, session_scope
from cagent_session.testing import ModelsGateway

SESSIONS = ["sess-1", "sess-2", "sess-3"]


@function_tool
async def look_up(topic: str) -> str:
    """Look something up."""
    return topic


def start_by_line(agent: Any, session_id: str) -> Any:
    names = {"Runner": Runner, "agent": agent, "session_id": session_id, "question": session_id}
    return execute("openai-agents, streamed", **names)["result"]


def start_plain(agent: Any, session_id: str) -> Any:
    return Runner.run_streamed(agent, session_id)


async def read(result: Any, session_id: str) -> None:
    with session_scope(session_id):
        async for _ in result.stream_events():
            pass


@pytest.mark.parametrize(
    ("start", "starter", "sessions"),
    [
        (start_plain, None, [None, None, None]),
        (start_plain, "sess-1", ["sess-1", "sess-1", "sess-1"]),
        (start_by_line, None, SESSIONS),
    ],
)
@pytest.mark.parametrize("readers", [SESSIONS, SESSIONS[::-1]], ids=["same", "other"])
def test_streamed_runs_of_several_sessions(
    start: Any,
    starter: str | None,
    sessions: list[str | None],
    readers: list[str],
    models_gateway: ModelsGateway,
) -> None:
    """Each run calls the model, then a tool, then the model. It matters only who started it."""

    async def main() -> None:
        async with DefaultAsyncHttpxClient(
            event_hooks={"request": [session_id_hook(models_gateway.url)]},
            headers=gateway_headers("https://api.openai.com/v1"),
            trust_env=False,
        ) as http_client:
            client = AsyncOpenAI(
                base_url=f"{models_gateway.url}/v1", api_key="sk-secret", http_client=http_client
            )
            set_default_openai_client(client)
            agent = Agent("assistant", tools=[look_up])
            with session_scope(starter):
                results = [start(agent, session_id) for session_id in SESSIONS]
            await asyncio.gather(*map(read, results, readers))

    set_tracing_disabled(disabled=True)
    asyncio.run(main())
    asked = Counter(
        (call.json["input"][0]["content"], call.session_id) for call in models_gateway.calls
    )
    assert asked == dict.fromkeys(zip(SESSIONS, sessions, strict=True), 2)
