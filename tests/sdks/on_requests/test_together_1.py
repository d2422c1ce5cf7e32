"""The calls of together 1, which is on requests."""

from __future__ import annotations

from typing import Any

import together
import with_together_1
from cached_sessions import CachesSessions
from openai_format import Chats, ChatsAsync, Embeds
from together.abstract import api_requestor
from together.constants import MAX_CONNECTION_RETRIES

SDK = "together==1.5.35"
NEWEST = "together<2"


class TestTogether(CachesSessions, Chats, ChatsAsync, Embeds):
    example = with_together_1
    sdk, api_requestor = together, api_requestor
    arguments_of_make_session = (MAX_CONNECTION_RETRIES,)
    paths = ("/v1/chat/completions", "/v1/embeddings")
    streams_belong = "created"
    missing_raises = "MissingSessionId"
    missing_tries = (1,)
    async_calls_arrive = "unmarked"
    only_instrumented = ("ask_async", "stream_async")

    def retries_when(self, way: str) -> bool:
        return "async" not in way

    async def call_async(self, client: Any, gateway: str, headers: dict[str, str]) -> Any:
        return await self.ask_async(self.example.make_plain_async_client(gateway), "Hello")
