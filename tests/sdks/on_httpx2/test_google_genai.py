"""Is every call of google-genai, on httpx2, attributed to its session?"""

from __future__ import annotations

from typing import Any

import httpx2
from contract import TellsUsage
from google import genai

from cagent_session import async_session_id_hook, session_id_hook

SDK = "google-genai==3.4.0"

VERBS = ("generateContent", "streamGenerateContent", "batchEmbedContents")


class TestGoogleGenAI(TellsUsage):
    retries = False
    paths = tuple(f"/v1/models/gemini:{verb}" for verb in VERBS)

    def client(self, gateway: str, headers: dict[str, str]) -> Any:
        hooks = {"request": [session_id_hook(gateway)]}
        options = {"base_url": gateway, "headers": headers, "client_args": {"event_hooks": hooks}}
        return genai.Client(http_options=options)

    def async_client(self, gateway: str, headers: dict[str, str]) -> Any:
        hooks = {"request": [async_session_id_hook(gateway)]}
        # A client of ours, for with arguments for one the SDK prefers aiohttp where that is installed.
        http_client = httpx2.AsyncClient(event_hooks=hooks, follow_redirects=True, timeout=None)
        return genai.Client(
            http_options={
                "base_url": gateway,
                "headers": headers,
                "httpx_async_client": http_client,
            }
        ).aio

    def ask_plain(self, client: genai.Client, prompt: str) -> Any:
        return client.models.generate_content(model="gemini", contents=prompt).text

    def ask_streamed(self, client: genai.Client, prompt: str) -> Any:
        stream = client.models.generate_content_stream(model="gemini", contents=prompt)
        return "".join(chunk.text or "" for chunk in stream)

    def ask_embeddings(self, client: genai.Client, prompt: str) -> Any:
        return (
            len(client.models.embed_content(model="gemini", contents=prompt).embeddings[0].values)
            > 0
        )

    def figures_plain(self, client: genai.Client, prompt: str) -> Any:
        usage = client.models.generate_content(model="gemini", contents=prompt).usage_metadata
        return usage.prompt_token_count, usage.candidates_token_count

    def figures_streamed(self, client: genai.Client, prompt: str) -> Any:
        *_, last = client.models.generate_content_stream(model="gemini", contents=prompt)
        return last.usage_metadata.prompt_token_count, last.usage_metadata.candidates_token_count

    async def ask_async(self, client: Any, prompt: str) -> Any:
        return (await client.models.generate_content(model="gemini", contents=prompt)).text

    async def ask_async_streamed(self, client: Any, prompt: str) -> Any:
        stream = await client.models.generate_content_stream(model="gemini", contents=prompt)
        return "".join([chunk.text or "" async for chunk in stream])
