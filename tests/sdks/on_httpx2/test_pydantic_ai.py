"""Is every call of pydantic-ai, on openai 3 and httpx2, attributed to its session?"""

from __future__ import annotations

from typing import Any

import pytest
from contract import TellsUsage
from openai import DefaultAsyncHttpxClient
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from cagent_session import async_session_id_hook

SDK = "pydantic-ai-slim[openai]==2.68.0"

model = "gpt-4o"

pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed event loop:ResourceWarning"
)  # run_sync leaves its own open


class TestPydanticAI(TellsUsage):
    retries = True
    paths = ("/v1/chat/completions",)

    def client(self, gateway: str, headers: dict[str, str]) -> Any:
        hooks = {"request": [async_session_id_hook(gateway)]}
        http_client = DefaultAsyncHttpxClient(event_hooks=hooks, headers=headers)
        provider = OpenAIProvider(base_url=f"{gateway}/v1", http_client=http_client)
        return Agent(OpenAIChatModel(model, provider=provider))

    def async_client(self, gateway: str, headers: dict[str, str]) -> Any:
        return self.client(gateway, headers)

    def ask_plain(self, client: Agent, prompt: str) -> Any:
        return client.run_sync(prompt).output

    def figures_plain(self, client: Agent, prompt: str) -> Any:
        usage = client.run_sync(prompt).usage()
        return usage.input_tokens, usage.output_tokens

    async def ask_async(self, client: Agent, prompt: str) -> Any:
        return (await client.run(prompt)).output

    async def ask_async_streamed(self, client: Agent, prompt: str) -> Any:
        async with client.run_stream(prompt) as answer:
            return await answer.get_output()
