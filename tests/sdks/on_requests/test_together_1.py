"""The calls of together 1, which is on requests."""

from __future__ import annotations

from typing import Any

import together
import with_together_1
from cached_sessions import CachesSessions
from openai_format import Chats, Embeds
from together import AsyncTogether
from together.abstract import api_requestor
from together.constants import MAX_CONNECTION_RETRIES

SDK = "together==1.5.35"
NEWEST = "together<2"


class TestTogether(CachesSessions, Chats, Embeds):
    example = with_together_1
    sdk, api_requestor = together, api_requestor
    arguments_of_make_session = (MAX_CONNECTION_RETRIES,)
    paths = ("/v1/chat/completions", "/v1/embeddings")
    retries = True
    streams_belong = "created"
    missing_raises = "MissingSessionId"
    missing_tries = (1,)
    async_calls_arrive = "unmarked"

    async def call_async(self, client: Any, gateway: str, headers: dict[str, str]) -> Any:
        messages = [{"role": "user", "content": "Hello"}]
        async_client = AsyncTogether(base_url=f"{gateway}/v1")
        return await async_client.chat.completions.create(model="model", messages=messages)
