"""Is every call of litellm, on httpx, attributed to its session? It calls OpenAI by openai's SDK, others by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import litellm
import pytest
from contract import Attributed
from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler, HTTPHandler

from cagent_session import async_session_id_hook, session_id_hook

SDK = "litellm==1.106.2"


@pytest.fixture(autouse=True)
def fresh_clients(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Begin with no client in litellm's cache, and end with none of ours."""
    monkeypatch.setattr(litellm, "client_session", None)
    monkeypatch.setattr(litellm, "aclient_session", None)
    litellm.in_memory_llm_clients_cache.flush_cache()
    yield
    litellm.in_memory_llm_clients_cache.flush_cache()


class TestLiteLLM(Attributed):
    """Its client is its module; the ways to call get the gateway's URL."""

    paths = ("/v1/chat/completions", "/v1/embeddings", "/v1/messages")

    def client(self, gateway: str, headers: dict[str, str]) -> Any:
        hooks = {"request": [session_id_hook(gateway)]}
        litellm.client_session = httpx.Client(
            event_hooks=hooks, headers=headers, follow_redirects=True
        )
        return gateway

    def async_client(self, gateway: str, headers: dict[str, str]) -> Any:
        hooks = {"request": [async_session_id_hook(gateway)]}
        litellm.aclient_session = httpx.AsyncClient(
            event_hooks=hooks, headers=headers, follow_redirects=True
        )
        return gateway

    def retries_when(self, way: str) -> bool:
        return "by_itself" not in way  # openai's SDK does

    def ask_plain(self, gateway: str, prompt: str) -> Any:
        messages = [{"role": "user", "content": prompt}]
        answer = litellm.completion("openai/gpt-4o", messages, api_base=f"{gateway}/v1")
        return answer.choices[0].message.content

    def ask_streamed(self, gateway: str, prompt: str) -> Any:
        messages = [{"role": "user", "content": prompt}]
        stream = litellm.completion(
            "openai/gpt-4o", messages, api_base=f"{gateway}/v1", stream=True
        )
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    def ask_embeddings(self, gateway: str, prompt: str) -> Any:
        answer = litellm.embedding(
            "openai/text-embedding-3-small", [prompt], api_base=f"{gateway}/v1"
        )
        return len(answer.data[0]["embedding"]) > 0

    def ask_plain_by_itself(self, gateway: str, prompt: str) -> Any:
        messages = [{"role": "user", "content": prompt}]
        model = "anthropic/claude"
        handler = HTTPHandler(client=litellm.client_session)
        answer = litellm.completion(model, messages, api_base=gateway, client=handler)
        return answer.choices[0].message.content

    def ask_streamed_by_itself(self, gateway: str, prompt: str) -> Any:
        messages = [{"role": "user", "content": prompt}]
        handler = HTTPHandler(client=litellm.client_session)
        stream = litellm.completion(
            "anthropic/claude", messages, api_base=gateway, client=handler, stream=True
        )
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    async def ask_async(self, gateway: str, prompt: str) -> Any:
        messages = [{"role": "user", "content": prompt}]
        answer = await litellm.acompletion("openai/gpt-4o", messages, api_base=f"{gateway}/v1")
        return answer.choices[0].message.content

    async def ask_async_streamed(self, gateway: str, prompt: str) -> Any:
        messages = [{"role": "user", "content": prompt}]
        stream = await litellm.acompletion(
            "openai/gpt-4o", messages, api_base=f"{gateway}/v1", stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def ask_async_by_itself(self, gateway: str, prompt: str) -> Any:
        messages = [{"role": "user", "content": prompt}]
        handler = AsyncHTTPHandler()
        handler.client = litellm.aclient_session
        answer = await litellm.acompletion(
            "anthropic/claude", messages, api_base=gateway, client=handler
        )
        return answer.choices[0].message.content
