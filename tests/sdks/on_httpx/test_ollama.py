"""The calls of ollama, which is on httpx."""

from __future__ import annotations

from typing import Any

import with_ollama
from contract import KeepsTimeouts, StatesUsage, Streams, messages_of
from ollama import AsyncClient, Client

SDK = "ollama==0.6.3"


class TestOllama(StatesUsage, Streams, KeepsTimeouts):
    example = with_ollama
    paths = ("/api/chat", "/api/generate")
    retries = False
    streams_belong = "first read"
    missing_raises = "MissingSessionId"
    missing_tries = (1,)

    def stream_chat(self, client: Client, prompt: str) -> Any:
        stream = client.chat("llama", messages_of(prompt), stream=True)
        return (part.message.content or "" for part in stream)

    def ask_generate(self, client: Client, prompt: str) -> Any:
        return client.generate("llama", prompt).response

    def usage_chat(self, client: Client, prompt: str) -> Any:
        answer = client.chat("llama", messages_of(prompt))
        return answer.prompt_eval_count, answer.eval_count

    def usage_stream(self, client: Client, prompt: str) -> Any:
        *_, end = client.chat("llama", messages_of(prompt), stream=True)
        return end.prompt_eval_count, end.eval_count

    async def ask_async(self, client: AsyncClient, prompt: str) -> Any:
        return (await client.chat("llama", messages_of(prompt))).message.content

    async def stream_async(self, client: AsyncClient, prompt: str) -> Any:
        stream = await client.chat("llama", messages_of(prompt), stream=True)
        return (part.message.content or "" async for part in stream)
