"""Is every call of cohere, on httpx, attributed to its session?"""

from __future__ import annotations

from typing import Any

import httpx
from cohere import AsyncClientV2, ClientV2
from contract import TellsUsage

from cagent_session import async_session_id_hook, session_id_hook

SDK = "cohere==7.3.1"


class TestCohere(TellsUsage):
    paths = ("/v2/chat",)

    def client(self, gateway: str, headers: dict[str, str]) -> Any:
        hooks = {"request": [session_id_hook(gateway)]}
        http_client = httpx.Client(
            event_hooks=hooks, headers=headers, follow_redirects=True, timeout=300
        )
        return ClientV2(base_url=gateway, httpx_client=http_client)

    def async_client(self, gateway: str, headers: dict[str, str]) -> Any:
        hooks = {"request": [async_session_id_hook(gateway)]}
        http_client = httpx.AsyncClient(
            event_hooks=hooks, headers=headers, follow_redirects=True, timeout=300
        )
        return AsyncClientV2(base_url=gateway, httpx_client=http_client)

    def retries_when(self, way: str) -> bool:
        return "streamed" not in way

    def ask_plain(self, client: ClientV2, prompt: str) -> Any:
        answer = client.chat(model="command-a", messages=[{"role": "user", "content": prompt}])
        return answer.message.content[0].text

    def ask_streamed(self, client: ClientV2, prompt: str) -> Any:
        stream = client.chat_stream(
            model="command-a", messages=[{"role": "user", "content": prompt}]
        )
        return "".join(
            event.delta.message.content.text for event in stream if event.type == "content-delta"
        )

    def figures_plain(self, client: ClientV2, prompt: str) -> Any:
        tokens = client.chat(
            model="command-a", messages=[{"role": "user", "content": prompt}]
        ).usage.tokens
        return tokens.input_tokens, tokens.output_tokens

    def figures_streamed(self, client: ClientV2, prompt: str) -> Any:
        *_, end = client.chat_stream(
            model="command-a", messages=[{"role": "user", "content": prompt}]
        )
        return end.delta.usage.tokens.input_tokens, end.delta.usage.tokens.output_tokens

    async def ask_async(self, client: AsyncClientV2, prompt: str) -> Any:
        answer = await client.chat(
            model="command-a", messages=[{"role": "user", "content": prompt}]
        )
        return answer.message.content[0].text

    async def ask_async_streamed(self, client: AsyncClientV2, prompt: str) -> Any:
        stream = client.chat_stream(
            model="command-a", messages=[{"role": "user", "content": prompt}]
        )
        return "".join(
            [
                event.delta.message.content.text
                async for event in stream
                if event.type == "content-delta"
            ]
        )
