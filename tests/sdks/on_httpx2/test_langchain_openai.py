"""The calls of langchain-openai, which is on openai 3 and httpx2."""

from __future__ import annotations

import functools
import operator
from typing import Any

import with_langchain_openai
from contract import AsyncNeedsMore, KeepsTimeouts, StatesUsage, Streams
from langchain_openai import ChatOpenAI

SDK = "langchain-openai==1.7.3"


class TestLangChain(StatesUsage, Streams, AsyncNeedsMore, KeepsTimeouts):
    example = with_langchain_openai
    paths = ("/v1/chat/completions",)
    retries = True
    streams_belong = "first read"
    missing_raises = "MissingSessionId"
    missing_tries = (1,)
    async_calls_arrive = "in no session"

    def ask_in_langchains_own_threads(self, client: ChatOpenAI, prompt: str) -> Any:
        return client.batch([prompt])[0].text

    def stream_chat(self, client: ChatOpenAI, prompt: str) -> Any:
        return (chunk.text for chunk in client.stream(prompt))

    def usage_stream(self, client: ChatOpenAI, prompt: str) -> Any:
        first, *others = client.stream(prompt, stream_usage=True)
        usage = functools.reduce(operator.add, others, first).usage_metadata
        return usage["input_tokens"], usage["output_tokens"]

    async def ask_async(self, client: ChatOpenAI, prompt: str) -> Any:
        return (await client.ainvoke(prompt)).text

    async def stream_async(self, client: ChatOpenAI, prompt: str) -> Any:
        return (chunk.text async for chunk in client.astream(prompt))

    async def call_async(self, client: ChatOpenAI, gateway: str, headers: dict[str, str]) -> Any:
        return await self.ask_async(client, "Hello")
