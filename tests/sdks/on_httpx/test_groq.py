"""Is every call of groq, on httpx, attributed to its session?"""

from __future__ import annotations

from typing import Any

from groq import AsyncGroq, DefaultAsyncHttpxClient, DefaultHttpxClient, Groq
from openai_shaped import Chats, ChatsAsync

from cagent_session import async_session_id_hook, session_id_hook

SDK = "groq==1.7.0"


class TestGroq(Chats, ChatsAsync):
    retries = True
    paths = ("/openai/v1/chat/completions",)

    def client(self, gateway: str, headers: dict[str, str]) -> Any:
        hooks = {"request": [session_id_hook(gateway)]}
        return Groq(
            base_url=gateway,
            default_headers=headers,
            http_client=DefaultHttpxClient(event_hooks=hooks),
        )

    def async_client(self, gateway: str, headers: dict[str, str]) -> Any:
        hooks = {"request": [async_session_id_hook(gateway)]}
        http_client = DefaultAsyncHttpxClient(event_hooks=hooks)
        return AsyncGroq(base_url=gateway, default_headers=headers, http_client=http_client)
