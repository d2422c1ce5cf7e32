"""Is every call of anthropic, on httpx2, attributed to its session?"""

from __future__ import annotations

from typing import Any

from anthropic import Anthropic, AsyncAnthropic, DefaultAsyncHttpxClient, DefaultHttpxClient
from contract import TellsUsage

from cagent_session import async_session_id_hook, session_id_hook

SDK = "anthropic==2.12.0"


class TestAnthropic(TellsUsage):
    retries = True
    paths = ("/v1/messages",)

    def client(self, gateway: str, headers: dict[str, str]) -> Any:
        hooks = {"request": [session_id_hook(gateway)]}
        return Anthropic(
            base_url=gateway,
            default_headers=headers,
            http_client=DefaultHttpxClient(event_hooks=hooks),
        )

    def async_client(self, gateway: str, headers: dict[str, str]) -> Any:
        hooks = {"request": [async_session_id_hook(gateway)]}
        http_client = DefaultAsyncHttpxClient(event_hooks=hooks)
        return AsyncAnthropic(base_url=gateway, default_headers=headers, http_client=http_client)

    def ask_plain(self, client: Anthropic, prompt: str) -> Any:
        messages = [{"role": "user", "content": prompt}]
        answer = client.messages.create(model="claude", max_tokens=99, messages=messages)
        return answer.content[0].text

    def ask_streamed(self, client: Anthropic, prompt: str) -> Any:
        messages = [{"role": "user", "content": prompt}]
        with client.messages.stream(model="claude", max_tokens=99, messages=messages) as stream:
            return "".join(stream.text_stream)

    def figures_plain(self, client: Anthropic, prompt: str) -> Any:
        messages = [{"role": "user", "content": prompt}]
        usage = client.messages.create(model="claude", max_tokens=99, messages=messages).usage
        return usage.input_tokens, usage.output_tokens

    def figures_streamed(self, client: Anthropic, prompt: str) -> Any:
        messages = [{"role": "user", "content": prompt}]
        with client.messages.stream(model="claude", max_tokens=99, messages=messages) as stream:
            usage = stream.get_final_message().usage
        return usage.input_tokens, usage.output_tokens

    async def ask_async(self, client: AsyncAnthropic, prompt: str) -> Any:
        messages = [{"role": "user", "content": prompt}]
        answer = await client.messages.create(model="claude", max_tokens=99, messages=messages)
        return answer.content[0].text

    async def ask_async_streamed(self, client: AsyncAnthropic, prompt: str) -> Any:
        messages = [{"role": "user", "content": prompt}]
        async with client.messages.stream(
            model="claude", max_tokens=99, messages=messages
        ) as stream:
            return "".join([text async for text in stream.text_stream])
