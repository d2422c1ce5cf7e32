"""The calls of langchain-ollama, which is on ollama and httpx."""

from __future__ import annotations

from typing import Any

import with_langchain_ollama
from contract import KeepsTimeouts, StatesUsage, Streams
from langchain_ollama import ChatOllama, OllamaEmbeddings

SDK = "langchain-ollama==1.1.0"


class TestLangChainOllama(StatesUsage, Streams, KeepsTimeouts):
    example = with_langchain_ollama
    paths = ("/api/chat", "/api/embed")
    retries = False
    streams_belong = "first read"
    missing_raises = "MissingSessionId"
    missing_tries = (1,)

    def stream_chat(self, client: ChatOllama, prompt: str) -> Any:
        return (chunk.text for chunk in client.stream(prompt))

    def ask_embeddings(self, client: ChatOllama, prompt: str) -> Any:
        return len(embeddings(client).embed_query(prompt)) > 0

    def usage_chat(self, client: ChatOllama, prompt: str) -> Any:
        usage = client.invoke(prompt).usage_metadata
        return usage["input_tokens"], usage["output_tokens"]

    async def ask_async(self, client: ChatOllama, prompt: str) -> Any:
        return (await client.ainvoke(prompt)).text

    async def ask_embeddings_async(self, client: ChatOllama, prompt: str) -> Any:
        return len(await embeddings(client).aembed_query(prompt)) > 0

    async def stream_async(self, client: ChatOllama, prompt: str) -> Any:
        return (chunk.text async for chunk in client.astream(prompt))


def embeddings(client: ChatOllama) -> OllamaEmbeddings:
    options = client.client_kwargs
    return OllamaEmbeddings(model=client.model, base_url=client.base_url, client_kwargs=options)
