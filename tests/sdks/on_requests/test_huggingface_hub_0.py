"""The calls of huggingface_hub 0, which is on requests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import with_huggingface_hub_0
from contract import AsyncNeedsMore
from huggingface_hub import AsyncInferenceClient, configure_http_backend
from openai_format import Chats, ChatsAsync

SDK = "huggingface_hub==0.36.2"
NEWEST = "huggingface_hub<1"


@pytest.fixture(autouse=True)
def default_backend() -> Iterator[None]:
    """Put the SDK's own backend back. The process has only one."""
    yield
    configure_http_backend()


class TestHuggingFaceHub(Chats, ChatsAsync, AsyncNeedsMore):
    example = with_huggingface_hub_0
    paths = ("/v1/chat/completions",)
    retries = False
    streams_belong = "created"
    missing_raises = "MissingSessionId"
    missing_tries = (1,)
    async_calls_arrive = "in no session"
    only_instrumented = ("ask_async", "stream_async")

    async def close(self, client: AsyncInferenceClient) -> None:
        """Do nothing: the SDK closes each session itself, and ``close()`` fails meanwhile."""

    async def call_async(self, client: Any, gateway: str, headers: dict[str, str]) -> Any:
        async_client = AsyncInferenceClient(base_url=f"{gateway}/v1", headers=headers)
        return await self.ask_async(async_client, "Hello")
