"""The calls of langchain-google-genai, which is on google-genai and httpx2."""

from __future__ import annotations

import functools
import operator
from typing import Any

import with_langchain_google_genai
from contract import HEADERS, AsyncNeedsMore, KeepsTimeouts, StatesUsage, Streams
from langchain_google_genai import ChatGoogleGenerativeAI, GoogleGenerativeAIEmbeddings

from cagent_session import session_scope
from cagent_session.testing import ModelsGateway

SDK = "langchain-google-genai==4.4.3"

MODEL = "gemini-2.5-flash"
VERBS = ("generateContent", "streamGenerateContent")


class TestLangChainGoogleGenAI(StatesUsage, Streams, AsyncNeedsMore, KeepsTimeouts):
    example = with_langchain_google_genai
    only_instrumented = ("ask_async", "stream_async")
    paths = tuple(f"/v1/models/{MODEL}:{verb}" for verb in VERBS)
    retries = True
    streams_belong = "first read"
    missing_raises = "MissingSessionId"
    missing_tries = (1,)
    async_calls_arrive = "in no session"

    def ask_like_the_example(self, client: ChatGoogleGenerativeAI, prompt: str) -> Any:
        return self.example.ask(client, MODEL, prompt)

    def stream_chat(self, client: ChatGoogleGenerativeAI, prompt: str) -> Any:
        return (chunk.text for chunk in client.stream(prompt))

    def usage_chat(self, client: ChatGoogleGenerativeAI, prompt: str) -> Any:
        usage = client.invoke(prompt).usage_metadata
        return usage["input_tokens"], usage["output_tokens"]

    def usage_stream(self, client: ChatGoogleGenerativeAI, prompt: str) -> Any:
        first, *others = client.stream(prompt)
        usage = functools.reduce(operator.add, others, first).usage_metadata
        return usage["input_tokens"], usage["output_tokens"]

    async def ask_async(self, client: ChatGoogleGenerativeAI, prompt: str) -> Any:
        return (await client.ainvoke(prompt)).text

    async def stream_async(self, client: ChatGoogleGenerativeAI, prompt: str) -> Any:
        return (chunk.text async for chunk in client.astream(prompt))

    async def call_async(
        self, client: ChatGoogleGenerativeAI, gateway: str, headers: dict[str, str]
    ) -> Any:
        return await self.ask_async(client, "Hello")

    def test_embeddings_belong_to_their_session(self, line: str, gateway: ModelsGateway) -> None:
        client = self.client(gateway.url, HEADERS)
        embeddings = GoogleGenerativeAIEmbeddings(
            model=MODEL,
            base_url=client.base_url,
            additional_headers=client.additional_headers,
            client_args=client.client_args,
        )
        for session_id in ("sess-1", "sess-2"):
            with session_scope(session_id):
                assert embeddings.embed_query("Hello")
        calls = self.calls(gateway)
        assert [(call.session_id, call.prompt_tokens) for call in calls] == [
            ("sess-1", 1),
            ("sess-2", 1),
        ]
