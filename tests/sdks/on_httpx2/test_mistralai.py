"""Is every call of mistralai, on httpx2, attributed to its session?"""

from __future__ import annotations

from typing import Any

import httpx2
from contract import TellsUsage
from mistralai.client import Mistral

from cagent_session import async_session_id_hook, session_id_hook

SDK = "mistralai==3.7.0"


class TestMistral(TellsUsage):
    retries = False
    paths = ("/v1/chat/completions", "/v1/embeddings")

    def client(self, gateway: str, headers: dict[str, str]) -> Any:
        hooks = {"request": [session_id_hook(gateway)]}
        http_client = httpx2.Client(event_hooks=hooks, headers=headers, follow_redirects=True)
        return Mistral(server_url=gateway, client=http_client)

    def async_client(self, gateway: str, headers: dict[str, str]) -> Any:
        hooks = {"request": [async_session_id_hook(gateway)]}
        http_client = httpx2.AsyncClient(event_hooks=hooks, headers=headers, follow_redirects=True)
        return Mistral(server_url=gateway, async_client=http_client)

    def ask_plain(self, client: Mistral, prompt: str) -> Any:
        answer = client.chat.complete(
            model="mistral", messages=[{"role": "user", "content": prompt}]
        )
        return answer.choices[0].message.content

    def ask_streamed(self, client: Mistral, prompt: str) -> Any:
        with client.chat.stream(
            model="mistral", messages=[{"role": "user", "content": prompt}]
        ) as stream:
            return "".join(event.data.choices[0].delta.content or "" for event in stream)

    def ask_embeddings(self, client: Mistral, prompt: str) -> Any:
        return (
            len(client.embeddings.create(model="mistral-embed", inputs=[prompt]).data[0].embedding)
            > 0
        )

    def figures_streamed(self, client: Mistral, prompt: str) -> Any:
        with client.chat.stream(
            model="mistral", messages=[{"role": "user", "content": prompt}]
        ) as stream:
            (usage,) = (event.data.usage for event in stream if event.data.usage)
        return usage.prompt_tokens, usage.completion_tokens

    async def ask_async(self, client: Mistral, prompt: str) -> Any:
        answer = await client.chat.complete_async(
            model="mistral", messages=[{"role": "user", "content": prompt}]
        )
        return answer.choices[0].message.content

    async def ask_async_streamed(self, client: Mistral, prompt: str) -> Any:
        messages = [{"role": "user", "content": prompt}]
        async with await client.chat.stream_async(model="mistral", messages=messages) as stream:
            return "".join([event.data.choices[0].delta.content or "" async for event in stream])
