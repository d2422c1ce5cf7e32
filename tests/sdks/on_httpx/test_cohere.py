"""The calls of cohere, which is on httpx."""

from __future__ import annotations

from typing import Any

import with_cohere
from cohere import AsyncClientV2, ClientV2
from contract import KeepsTimeouts, StatesUsage, Streams, messages_of

SDK = "cohere==7.3.1"


class TestCohere(StatesUsage, Streams, KeepsTimeouts):
    example = with_cohere
    paths = ("/v2/chat",)
    streams_belong = "first read"
    missing_raises = "MissingSessionId"
    missing_tries = (1,)

    def retries_when(self, way: str) -> bool:
        return "stream" not in way

    def stream_chat(self, client: ClientV2, prompt: str) -> Any:
        stream = client.chat_stream(model="command-a", messages=messages_of(prompt))
        return (
            event.delta.message.content.text for event in stream if event.type == "content-delta"
        )

    def usage_chat(self, client: ClientV2, prompt: str) -> Any:
        tokens = client.chat(model="command-a", messages=messages_of(prompt)).usage.tokens
        return tokens.input_tokens, tokens.output_tokens

    def usage_stream(self, client: ClientV2, prompt: str) -> Any:
        *_, end = client.chat_stream(model="command-a", messages=messages_of(prompt))
        return end.delta.usage.tokens.input_tokens, end.delta.usage.tokens.output_tokens

    async def ask_async(self, client: AsyncClientV2, prompt: str) -> Any:
        answer = await client.chat(model="command-a", messages=messages_of(prompt))
        return answer.message.content[0].text

    async def stream_async(self, client: AsyncClientV2, prompt: str) -> Any:
        stream = client.chat_stream(model="command-a", messages=messages_of(prompt))
        return (
            event.delta.message.content.text
            async for event in stream
            if event.type == "content-delta"
        )
