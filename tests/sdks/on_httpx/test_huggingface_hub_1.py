"""Is every call of huggingface_hub 1, on httpx, attributed to its session?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from huggingface_hub import (
    AsyncInferenceClient,
    InferenceClient,
    close_session,
    set_async_client_factory,
    set_client_factory,
)
from openai_shaped import Chats, ChatsAsync

from cagent_session import async_session_id_hook, session_id_hook

SDK = "huggingface_hub==1.33.0"
NEWEST = "huggingface_hub<2"


@pytest.fixture(autouse=True)
def fresh_client() -> Iterator[None]:
    """End with the SDK's one client closed, which would stay open until the process ends."""
    yield
    close_session()


class TestHuggingFaceHub(Chats, ChatsAsync):
    retries = False
    paths = ("/v1/chat/completions",)

    def client(self, gateway: str, headers: dict[str, str]) -> Any:
        hooks = {"request": [session_id_hook(gateway)]}
        set_client_factory(
            lambda: httpx.Client(event_hooks=hooks, follow_redirects=True, timeout=None)
        )
        return InferenceClient(base_url=f"{gateway}/v1", headers=headers)

    def async_client(self, gateway: str, headers: dict[str, str]) -> Any:
        hooks = {"request": [async_session_id_hook(gateway)]}
        set_async_client_factory(
            lambda: httpx.AsyncClient(event_hooks=hooks, follow_redirects=True, timeout=None)
        )
        return AsyncInferenceClient(base_url=f"{gateway}/v1", headers=headers)
