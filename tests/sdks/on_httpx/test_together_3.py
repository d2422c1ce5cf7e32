"""Is every call of together 3, on httpx, attributed to its session?"""

from __future__ import annotations

from typing import Any

from openai_shaped import Chats, ChatsAsync, Embeds
from together import AsyncTogether, DefaultAsyncHttpxClient, DefaultHttpxClient, Together

from cagent_session import async_session_id_hook, session_id_hook

SDK = "together==3.1.1"


class TestTogether(Chats, ChatsAsync, Embeds):
    retries = True
    paths = ("/v1/chat/completions", "/v1/embeddings")

    def client(self, gateway: str, headers: dict[str, str]) -> Any:
        hooks = {"request": [session_id_hook(gateway)]}
        http_client = DefaultHttpxClient(event_hooks=hooks)
        return Together(base_url=gateway, default_headers=headers, http_client=http_client)

    def async_client(self, gateway: str, headers: dict[str, str]) -> Any:
        hooks = {"request": [async_session_id_hook(gateway)]}
        http_client = DefaultAsyncHttpxClient(event_hooks=hooks)
        return AsyncTogether(base_url=gateway, default_headers=headers, http_client=http_client)
