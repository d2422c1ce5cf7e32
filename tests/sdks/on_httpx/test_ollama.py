"""Is every call of ollama, on httpx, attributed to its session?"""

from __future__ import annotations

from typing import Any

from contract import TellsUsage
from ollama import AsyncClient, Client

from cagent_session import async_session_id_hook, session_id_hook

SDK = "ollama==0.6.3"


class TestOllama(TellsUsage):
    retries = False
    paths = ("/api/chat", "/api/generate")

    def client(self, gateway: str, headers: dict[str, str]) -> Any:
        hooks = {"request": [session_id_hook(gateway)]}
        return Client(gateway, headers=headers, event_hooks=hooks)

    def async_client(self, gateway: str, headers: dict[str, str]) -> Any:
        hooks = {"request": [async_session_id_hook(gateway)]}
        return AsyncClient(gateway, headers=headers, event_hooks=hooks)

    def ask_plain(self, client: Client, prompt: str) -> Any:
        return client.chat("llama", [{"role": "user", "content": prompt}]).message.content

    def ask_streamed(self, client: Client, prompt: str) -> Any:
        stream = client.chat("llama", [{"role": "user", "content": prompt}], stream=True)
        return "".join(part.message.content or "" for part in stream)

    def ask_generate(self, client: Client, prompt: str) -> Any:
        return client.generate("llama", prompt).response

    def figures_plain(self, client: Client, prompt: str) -> Any:
        answer = client.chat("llama", [{"role": "user", "content": prompt}])
        return answer.prompt_eval_count, answer.eval_count

    def figures_streamed(self, client: Client, prompt: str) -> Any:
        *_, end = client.chat("llama", [{"role": "user", "content": prompt}], stream=True)
        return end.prompt_eval_count, end.eval_count

    async def ask_async(self, client: AsyncClient, prompt: str) -> Any:
        return (await client.chat("llama", [{"role": "user", "content": prompt}])).message.content

    async def ask_async_streamed(self, client: AsyncClient, prompt: str) -> Any:
        stream = await client.chat("llama", [{"role": "user", "content": prompt}], stream=True)
        return "".join([part.message.content or "" async for part in stream])
