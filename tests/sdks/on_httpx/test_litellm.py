"""The calls of litellm, which is on httpx. It calls OpenAI through openai's SDK."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import httpx
import litellm
import pytest
import with_litellm
from contract import HEADERS, AsyncNeedsMore, KeepsTimeouts, Streams, messages_of

from cagent_session import instrument, session_scope
from cagent_session.testing import ModelsGateway

SDK = "litellm==1.106.2"


Client = tuple[str, Any]


@pytest.fixture(autouse=True)
def fresh_clients(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let litellm keep no client from one test to the next."""
    monkeypatch.setattr(litellm, "client_session", None)
    monkeypatch.setattr(litellm, "aclient_session", None)
    litellm.in_memory_llm_clients_cache.flush_cache()
    yield
    litellm.in_memory_llm_clients_cache.flush_cache()


class TestLiteLLM(Streams, AsyncNeedsMore, KeepsTimeouts):
    """The client is the gateway's URL and litellm's handler."""

    example = with_litellm
    paths = ("/v1/chat/completions", "/v1/embeddings", "/v1/messages")
    streams_belong = "created"
    missing_raises = "InternalServerError"
    missing_tries = (1, 3)  # three through openai's SDK
    async_calls_arrive = "unmarked"

    def retries_when(self, way: str) -> bool:
        return "openai" in way  # openai's SDK does it

    def missing_tries_when(self, way: str) -> tuple[int, ...]:
        return (3,) if "openai" in way else (1,)

    def ask_like_the_example(self, client: Client, prompt: str) -> Any:
        return self.example.ask(client, "anthropic/claude", prompt)

    def stream_anthropic(self, client: Client, prompt: str) -> Any:
        gateway, handler = client
        stream = litellm.completion(
            "anthropic/claude", messages_of(prompt), api_base=gateway, client=handler, stream=True
        )
        return (chunk.choices[0].delta.content or "" for chunk in stream)

    async def ask_anthropic_async(self, client: Client, prompt: str) -> Any:
        gateway, handler = client
        answer = await litellm.acompletion(
            "anthropic/claude", messages_of(prompt), api_base=gateway, client=handler
        )
        return answer.choices[0].message.content

    def ask_openai(self, client: Client, prompt: str) -> Any:
        """Calls to OpenAI need no handler, but ``/v1``."""
        answer = litellm.completion(
            "openai/gpt-4o", messages_of(prompt), api_base=f"{client[0]}/v1"
        )
        return answer.choices[0].message.content

    def stream_openai(self, client: Client, prompt: str) -> Any:
        stream = litellm.completion(
            "openai/gpt-4o", messages_of(prompt), api_base=f"{client[0]}/v1", stream=True
        )
        return (chunk.choices[0].delta.content or "" for chunk in stream)

    def ask_openai_embeddings(self, client: Client, prompt: str) -> Any:
        answer = litellm.embedding(
            "openai/text-embedding-3-small", [prompt], api_base=f"{client[0]}/v1"
        )
        return len(answer.data[0]["embedding"]) > 0

    async def ask_openai_async(self, client: Client, prompt: str) -> Any:
        answer = await litellm.acompletion(
            "openai/gpt-4o", messages_of(prompt), api_base=f"{client[0]}/v1"
        )
        return answer.choices[0].message.content

    async def stream_openai_async(self, client: Client, prompt: str) -> Any:
        stream = await litellm.acompletion(
            "openai/gpt-4o", messages_of(prompt), api_base=f"{client[0]}/v1", stream=True
        )
        return (chunk.choices[0].delta.content or "" async for chunk in stream)

    def test_lines_after_the_first_call_have_no_effect(self, gateway: ModelsGateway) -> None:
        """Own line: set it before the first call."""
        for make_client in (lambda *_: None, self.client):
            make_client(gateway.url, HEADERS)
            # The gateway refuses a call that is unmarked.
            with session_scope("sess-1"), contextlib.suppress(litellm.BadRequestError):
                self.ask_openai((gateway.url, None), "Hello")
        assert {(call.forward, call.session_id) for call in gateway.calls} == {(None, None)}

    def test_openai_takes_no_handler(self, gateway: ModelsGateway) -> None:
        """Calls to OpenAI take ``api_base=f"{gateway}/v1"``. Own line: they take no ``client``."""
        client = self.client(gateway.url, HEADERS)
        with session_scope("sess-1"):
            self.ask_openai(client, "Hello")
            with pytest.raises(litellm.InternalServerError, match="HTTPHandler"):
                self.example.ask(client, "openai/gpt-4o", "Hello")
        (call,) = gateway.calls
        assert (call.path, call.session_id) == ("/v1/chat/completions", "sess-1")

    def test_cohere_and_moderation_may_be_out_of_reach(
        self, line: str, gateway: ModelsGateway
    ) -> None:
        """Own line: calls to Cohere, and ``moderation``, go out unmarked."""
        _, handler = self.client(gateway.url, HEADERS)
        with session_scope("sess-1"):
            # The gateway has no answers to these calls.
            with pytest.raises(Exception, match=r"no answer|no .*X-Cagent-Forward"):
                litellm.completion(
                    "cohere/command-a", messages_of("Hello"), api_base=gateway.url, client=handler
                )
            with pytest.raises(Exception, match=r"no answer|no .*X-Cagent-Forward"):
                litellm.moderation("Hello", "omni-moderation-latest", api_base=f"{gateway.url}/v1")
        assert [call.path for call in gateway.calls] == ["/", "/v1/moderations"]
        arrived = {(call.forward is not None, call.session_id) for call in gateway.calls}
        assert arrived == {(True, "sess-1") if line == "instrument" else (False, None)}

    def test_asynchronous_calls_are_on_aiohttp(
        self, gateway: ModelsGateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its asynchronous calls are on ``aiohttp``. Own line: on ``httpx``."""
        monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", None)
        plain = self.example.make_plain_client(gateway.url)
        instrument(gateway.url, headers=HEADERS)
        for ask in (self.ask_openai_async, self.ask_anthropic_async):
            with session_scope("sess-1"):
                assert asyncio.run(ask(plain, "Hello")) == "You said: Hello"
        gateway.assert_attributed("sess-1", calls=2)

    async def call_async(self, client: Client, gateway: str, headers: dict[str, str]) -> Any:
        return await self.ask_openai_async(client, "Hello")
