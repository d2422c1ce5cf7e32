"""Is every call of openai 2, on httpx, attributed to its session?"""

from __future__ import annotations

from typing import Any

from openai import AsyncOpenAI, DefaultAsyncHttpxClient, DefaultHttpxClient, OpenAI
from openai_shaped import IsOpenAIs

from cagent_session import async_session_id_hook, session_id_hook

SDK = "openai==2.54.0"
NEWEST = "openai<3"


class TestOpenAI(IsOpenAIs):
    retries = True
    paths = ("/v1/chat/completions", "/v1/responses", "/v1/embeddings")

    def client(self, gateway: str, headers: dict[str, str]) -> Any:
        hooks = {"request": [session_id_hook(gateway)]}
        http_client = DefaultHttpxClient(event_hooks=hooks)
        return OpenAI(base_url=f"{gateway}/v1", default_headers=headers, http_client=http_client)

    def async_client(self, gateway: str, headers: dict[str, str]) -> Any:
        hooks = {"request": [async_session_id_hook(gateway)]}
        http_client = DefaultAsyncHttpxClient(event_hooks=hooks)
        return AsyncOpenAI(
            base_url=f"{gateway}/v1", default_headers=headers, http_client=http_client
        )
