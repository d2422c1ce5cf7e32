"""The calls of voyageai, which is on requests."""

from __future__ import annotations

from typing import Any

import voyageai
import with_voyageai
from cached_sessions import CachesSessions
from voyageai.api_resources import api_requestor

SDK = "voyageai==0.5.0"


class TestVoyageAI(CachesSessions):
    example = with_voyageai
    sdk, api_requestor = voyageai, api_requestor
    paths = ("/v1/embeddings",)
    retries = False
    missing_raises = "MissingSessionId"
    missing_tries = (1,)
    async_calls_arrive = "unmarked"
    only_instrumented = ("ask_async",)

    def ask_like_the_example(self, client: voyageai.Client, prompt: str) -> Any:
        return super().ask_like_the_example(client, prompt).startswith("an embedding")

    async def ask_async(self, client: voyageai.AsyncClient, prompt: str) -> Any:
        return len((await client.embed([prompt], model="model")).embeddings[0]) > 0

    async def call_async(self, client: Any, gateway: str, headers: dict[str, str]) -> Any:
        return await self.ask_async(self.example.make_plain_async_client(gateway), "Hello")
