"""The calls of google-genai, which is on httpx2."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest
import with_google_genai
from contract import HEADERS, AsyncNeedsMore, KeepsTimeouts, StatesUsage, Streams
from google import genai

from cagent_session import instrument, session_scope
from cagent_session.testing import ModelsGateway

SDK = "google-genai==3.4.0"


VERBS = ("generateContent", "streamGenerateContent", "batchEmbedContents")


class TestGoogleGenAI(StatesUsage, Streams, AsyncNeedsMore, KeepsTimeouts):
    example = with_google_genai
    paths = tuple(f"/v1/models/gemini:{verb}" for verb in VERBS)
    retries = False
    streams_belong = "first read"
    missing_raises = "MissingSessionId"
    missing_tries = (1,)
    async_calls_arrive = "in no session"

    def ask_like_the_example(self, client: genai.Client, prompt: str) -> Any:
        return self.example.ask(client, "gemini", prompt)

    def stream_content(self, client: genai.Client, prompt: str) -> Any:
        stream = client.models.generate_content_stream(model="gemini", contents=prompt)
        return (chunk.text or "" for chunk in stream)

    def ask_embeddings(self, client: genai.Client, prompt: str) -> Any:
        answer = client.models.embed_content(model="gemini", contents=prompt)
        return len(answer.embeddings[0].values) > 0

    def usage_content(self, client: genai.Client, prompt: str) -> Any:
        usage = client.models.generate_content(model="gemini", contents=prompt).usage_metadata
        return usage.prompt_token_count, usage.candidates_token_count

    def usage_stream(self, client: genai.Client, prompt: str) -> Any:
        *_, last = client.models.generate_content_stream(model="gemini", contents=prompt)
        return last.usage_metadata.prompt_token_count, last.usage_metadata.candidates_token_count

    async def ask_async(self, client: Any, prompt: str) -> Any:
        return (await client.models.generate_content(model="gemini", contents=prompt)).text

    async def stream_async(self, client: Any, prompt: str) -> Any:
        stream = await client.models.generate_content_stream(model="gemini", contents=prompt)
        return (chunk.text or "" async for chunk in stream)

    def test_asynchronous_calls_are_on_aiohttp(
        self, gateway: ModelsGateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Asynchronous calls are on ``aiohttp``, if that is installed. Own line: on ``httpx2``."""
        monkeypatch.setattr(httpx2.AsyncClient, "send", None)
        instrument(gateway.url, headers=HEADERS)
        with session_scope("sess-1"):
            client = self.example.make_plain_async_client(gateway.url)
            assert asyncio.run(self.ask_async(client, "Hello")) == "You said: Hello"
        gateway.assert_attributed("sess-1", calls=1)

    async def call_async(self, client: genai.Client, gateway: str, headers: dict[str, str]) -> Any:
        return await self.ask_async(client.aio, "Hello")
