"""The calls of langchain-nvidia-ai-endpoints, which is on requests and aiohttp."""

from __future__ import annotations

from typing import Any

import with_langchain_nvidia
from contract import StatesUsage, Streams
from langchain_nvidia_ai_endpoints import ChatNVIDIA, NVIDIAEmbeddings

SDK = "langchain-nvidia-ai-endpoints==1.5.0"


class TestLangChainNVIDIA(StatesUsage, Streams):
    example = with_langchain_nvidia
    lines = ("instrument",)
    paths = ("/v1/chat/completions", "/v1/embeddings")
    retries = False
    streams_belong = "first read"
    missing_raises = "MissingSessionId"
    missing_tries = (1,)

    def stream_chat(self, client: ChatNVIDIA, prompt: str) -> Any:
        return (chunk.text for chunk in client.stream(prompt))

    def ask_embeddings(self, client: ChatNVIDIA, prompt: str) -> Any:
        return len(embeddings(client).embed_query(prompt)) > 0

    def usage_chat(self, client: ChatNVIDIA, prompt: str) -> Any:
        usage = client.invoke(prompt).usage_metadata
        return usage["input_tokens"], usage["output_tokens"]

    async def ask_async(self, client: ChatNVIDIA, prompt: str) -> Any:
        return (await client.ainvoke(prompt)).text

    async def ask_embeddings_async(self, client: ChatNVIDIA, prompt: str) -> Any:
        return len(await embeddings(client).aembed_query(prompt)) > 0

    async def stream_async(self, client: ChatNVIDIA, prompt: str) -> Any:
        return (chunk.text async for chunk in client.astream(prompt))


def embeddings(client: ChatNVIDIA) -> NVIDIAEmbeddings:
    return NVIDIAEmbeddings(model="nvidia/nv-embedqa-e5-v5", base_url=client.base_url)
