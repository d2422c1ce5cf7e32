"""The calls of anthropic, which is on httpx2."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import with_anthropic
from anthropic import Anthropic, AsyncAnthropic
from contract import KeepsTimeouts, StatesUsage, Streams

SDK = "anthropic==2.12.0"


class TestAnthropic(StatesUsage, Streams, KeepsTimeouts):
    example = with_anthropic
    paths = ("/v1/messages",)
    retries = True
    streams_belong = "created"
    missing_raises = "APIConnectionError"
    missing_tries = (3,)

    def test_a_client_of_httpx_is_refused(self) -> None:
        """It refuses a client of ``httpx``."""
        with pytest.raises(TypeError), httpx.Client() as http_client:
            Anthropic(http_client=http_client)

    def stream_messages(self, client: Anthropic, prompt: str) -> Any:
        stream = client.messages.create(**request_of(prompt), stream=True)
        return (event.delta.text for event in stream if event.type == "content_block_delta")

    def ask_stream_helper(self, client: Anthropic, prompt: str) -> Any:
        with client.messages.stream(**request_of(prompt)) as stream:
            return "".join(stream.text_stream)

    def usage_messages(self, client: Anthropic, prompt: str) -> Any:
        usage = client.messages.create(**request_of(prompt)).usage
        return usage.input_tokens, usage.output_tokens

    def usage_stream(self, client: Anthropic, prompt: str) -> Any:
        with client.messages.stream(**request_of(prompt)) as stream:
            usage = stream.get_final_message().usage
        return usage.input_tokens, usage.output_tokens

    async def ask_async(self, client: AsyncAnthropic, prompt: str) -> Any:
        return (await client.messages.create(**request_of(prompt))).content[0].text

    async def ask_stream_helper_async(self, client: AsyncAnthropic, prompt: str) -> Any:
        async with client.messages.stream(**request_of(prompt)) as stream:
            return "".join([text async for text in stream.text_stream])


def request_of(prompt: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}]
    return {"model": "claude", "max_tokens": 99, "messages": messages}
