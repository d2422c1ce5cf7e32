"""The calls of mistralai, which is on httpx2."""

from __future__ import annotations

from typing import Any

import with_mistralai
from contract import AsyncNeedsMore, KeepsTimeouts, StatesUsage, Streams, messages_of
from mistralai.client import Mistral

SDK = "mistralai==3.7.0"


class TestMistral(StatesUsage, Streams, AsyncNeedsMore, KeepsTimeouts):
    example = with_mistralai
    paths = ("/v1/chat/completions", "/v1/embeddings")
    retries = False
    streams_belong = "created"
    missing_raises = "MissingSessionId"
    missing_tries = (1,)
    async_calls_arrive = "unmarked"

    def stream_chat(self, client: Mistral, prompt: str) -> Any:
        stream = client.chat.stream(model="mistral", messages=messages_of(prompt))
        return (event.data.choices[0].delta.content or "" for event in stream)

    def ask_embeddings(self, client: Mistral, prompt: str) -> Any:
        answer = client.embeddings.create(model="mistral-embed", inputs=[prompt])
        return len(answer.data[0].embedding) > 0

    def usage_stream(self, client: Mistral, prompt: str) -> Any:
        with client.chat.stream(model="mistral", messages=messages_of(prompt)) as stream:
            (usage,) = (event.data.usage for event in stream if event.data.usage)
        return usage.prompt_tokens, usage.completion_tokens

    async def ask_async(self, client: Mistral, prompt: str) -> Any:
        answer = await client.chat.complete_async(model="mistral", messages=messages_of(prompt))
        return answer.choices[0].message.content

    async def stream_async(self, client: Mistral, prompt: str) -> Any:
        stream = await client.chat.stream_async(model="mistral", messages=messages_of(prompt))
        return (event.data.choices[0].delta.content or "" async for event in stream)

    async def call_async(self, client: Mistral, gateway: str, headers: dict[str, str]) -> Any:
        return await self.ask_async(client, "Hello")
