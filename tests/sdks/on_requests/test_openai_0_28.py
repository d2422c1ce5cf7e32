"""The calls of openai 0.28, which is on requests."""

from __future__ import annotations

from typing import Any

import openai
import with_openai_0_28
from cached_sessions import CachesSessions
from contract import Streams, messages_of
from openai import api_requestor

SDK = "openai==0.28.1"
NEWEST = "openai<1"


class TestOpenAI(CachesSessions, Streams):
    example = with_openai_0_28
    sdk, api_requestor = openai, api_requestor
    paths = ("/v1/chat/completions", "/v1/embeddings")
    retries = False
    streams_belong = "created"
    missing_raises = "MissingSessionId"
    missing_tries = (1,)
    async_calls_arrive = "unmarked"
    only_instrumented = ("ask_async", "stream_async")

    def stream_chat(self, client: Any, prompt: str) -> Any:
        messages = messages_of(prompt)
        stream = openai.ChatCompletion.create(model="gpt-4o", messages=messages, stream=True)
        return (chunk.choices[0].delta.get("content") or "" for chunk in stream)

    def ask_embedding(self, client: Any, prompt: str) -> Any:
        answer = openai.Embedding.create(model="text-embedding-3-small", input=prompt)
        return len(answer.data[0].embedding) > 0

    async def ask_async(self, client: Any, prompt: str) -> Any:
        messages = messages_of(prompt)
        answer = await openai.ChatCompletion.acreate(model="gpt-4o", messages=messages)
        return answer.choices[0].message.content

    async def stream_async(self, client: Any, prompt: str) -> Any:
        messages = messages_of(prompt)
        stream = await openai.ChatCompletion.acreate(model="gpt-4o", messages=messages, stream=True)
        return (chunk.choices[0].delta.get("content") or "" async for chunk in stream)

    async def call_async(self, client: Any, gateway: str, headers: dict[str, str]) -> Any:
        return await self.ask_async(client, "Hello")
