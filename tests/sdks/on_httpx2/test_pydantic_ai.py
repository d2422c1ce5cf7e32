"""The calls of pydantic-ai, which is on openai 3 and httpx2."""

from __future__ import annotations

from typing import Any

import pytest
import with_pydantic_ai
from contract import KeepsTimeouts, StatesUsage
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

SDK = "pydantic-ai-slim[openai]==2.68.0"


pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed event loop:ResourceWarning"  # run_sync leaves its own open
)


class TestPydanticAI(StatesUsage, KeepsTimeouts):
    example = with_pydantic_ai
    paths = ("/v1/chat/completions",)
    retries = True
    missing_raises = "MissingSessionId"
    missing_tries = (1,)

    def usage_sync(self, provider: OpenAIProvider, prompt: str) -> Any:
        usage = agent(provider).run_sync(prompt).usage()
        return usage.input_tokens, usage.output_tokens

    async def ask_async(self, provider: OpenAIProvider, prompt: str) -> Any:
        return (await agent(provider).run(prompt)).output

    async def ask_async_streamed(self, provider: OpenAIProvider, prompt: str) -> Any:
        async with agent(provider).run_stream(prompt) as answer:
            return await answer.get_output()


def agent(provider: OpenAIProvider) -> Agent:
    return Agent(OpenAIChatModel("gpt-4o", provider=provider))
