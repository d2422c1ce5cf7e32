"""Is every call of openai-agents, on openai 3 and httpx2, attributed to its session?"""

from __future__ import annotations

from typing import Any

import pytest
from agents import Agent, Runner, set_default_openai_client, set_tracing_disabled
from contract import Attributed
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from cagent_session import async_session_id_hook

SDK = "openai-agents==0.24.0"

AGENT = Agent("assistant")

pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed event loop:ResourceWarning",  # run_sync leaves its own open
    "ignore:asynchronous generator:ResourceWarning",  # and what is streamed is not read to its end
)


class TestOpenAIAgents(Attributed):
    retries = True
    paths = ("/v1/responses",)

    def client(self, gateway: str, headers: dict[str, str]) -> None:
        hooks = {"request": [async_session_id_hook(gateway)]}
        http_client = DefaultAsyncHttpxClient(event_hooks=hooks, headers=headers)
        set_default_openai_client(AsyncOpenAI(base_url=f"{gateway}/v1", http_client=http_client))
        set_tracing_disabled(disabled=True)

    async_client = client

    def ask_plain(self, client: None, prompt: str) -> Any:
        return Runner.run_sync(AGENT, prompt).final_output

    async def ask_async(self, client: None, prompt: str) -> Any:
        return (await Runner.run(AGENT, prompt)).final_output

    async def ask_async_streamed(self, client: None, prompt: str) -> Any:
        result = Runner.run_streamed(AGENT, prompt)
        async for _ in result.stream_events():
            pass
        return result.final_output
