"""Is every call of langchain-openai, on openai 3 and httpx2, attributed to its session?"""

from __future__ import annotations

import functools
import operator
from typing import Any

from contract import TellsUsage
from langchain_openai import ChatOpenAI
from openai import DefaultAsyncHttpxClient, DefaultHttpxClient

from cagent_session import async_session_id_hook, session_id_hook

SDK = "langchain-openai==1.7.3"

model = "gpt-4o"


class TestLangChain(TellsUsage):
    retries = True
    paths = ("/v1/chat/completions",)

    def client(self, gateway: str, headers: dict[str, str]) -> Any:
        hooks = {"request": [session_id_hook(gateway)]}
        http_client = DefaultHttpxClient(event_hooks=hooks)
        return ChatOpenAI(
            model=model, base_url=f"{gateway}/v1", default_headers=headers, http_client=http_client
        )

    def async_client(self, gateway: str, headers: dict[str, str]) -> Any:
        hooks = {"request": [async_session_id_hook(gateway)]}
        http_client = DefaultAsyncHttpxClient(event_hooks=hooks)
        return ChatOpenAI(
            model=model,
            base_url=f"{gateway}/v1",
            default_headers=headers,
            http_async_client=http_client,
        )

    def ask_plain(self, client: ChatOpenAI, prompt: str) -> Any:
        return client.invoke(prompt).text

    def ask_streamed(self, client: ChatOpenAI, prompt: str) -> Any:
        return "".join(chunk.text for chunk in client.stream(prompt))

    def ask_in_langchains_own_threads(self, client: ChatOpenAI, prompt: str) -> Any:
        return client.batch([prompt])[0].text

    def figures_streamed(self, client: ChatOpenAI, prompt: str) -> Any:
        """The sum over the chunks, as langchain makes it."""
        first, *others = client.stream(prompt, stream_usage=True)
        usage = functools.reduce(operator.add, others, first).usage_metadata
        return usage["input_tokens"], usage["output_tokens"]

    async def ask_async(self, client: ChatOpenAI, prompt: str) -> Any:
        return (await client.ainvoke(prompt)).text

    async def ask_async_streamed(self, client: ChatOpenAI, prompt: str) -> Any:
        return "".join([chunk.text async for chunk in client.astream(prompt)])
