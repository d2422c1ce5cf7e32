"""The calls of langchain-aws to Amazon Bedrock, with boto3."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import operator
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import with_langchain_aws
from contract import HEADERS
from langchain_aws import BedrockEmbeddings, BedrockLLM, ChatBedrock, ChatBedrockConverse
from stamped import Stamped

from cagent_session import SessionExecutor, session_scope
from cagent_session.testing import ModelsGateway

SDK = "langchain-aws==1.9.1"

MODEL = with_langchain_aws.MODEL


class TestLangChainAws(Stamped):
    example = with_langchain_aws
    paths = (
        "/model/model/converse",
        f"/model/{MODEL}/converse",
        f"/model/{MODEL}/converse-stream",
        "/model/anthropic.model/invoke",
        "/model/anthropic.model/invoke-with-response-stream",
        "/model/amazon.titan-embed-text-v2:0/invoke",
    )
    retries = True
    streams_belong = "first read"
    missing_raises = "MissingSessionId"
    missing_tries = (1,)

    def ask_converse(self, chat: ChatBedrockConverse, prompt: str) -> Any:
        return self.ask_like_the_example(chat, prompt)

    def ask_in_langchains_own_threads(self, chat: ChatBedrockConverse, prompt: str) -> Any:
        return chat.batch([prompt])[0].text

    def ask_invoke(self, chat: ChatBedrockConverse, prompt: str) -> Any:
        return self.invoking(chat).invoke(prompt).text

    def ask_for_an_embedding(self, chat: ChatBedrockConverse, prompt: str) -> bool:
        embeddings = BedrockEmbeddings(
            client=chat.client, model_id="amazon.titan-embed-text-v2:0", region_name="us-east-1"
        )
        return len(embeddings.embed_query(prompt)) == 8

    def stream_converse(self, chat: ChatBedrockConverse, prompt: str) -> Iterator[Any]:
        return (chunk.text for chunk in chat.stream(prompt))

    def stream_invoke(self, chat: ChatBedrockConverse, prompt: str) -> Iterator[Any]:
        return (chunk.text for chunk in self.invoking(chat).stream(prompt))

    def usage_stream(self, chat: ChatBedrockConverse, prompt: str) -> Any:
        first, *others = chat.stream(prompt)
        usage = functools.reduce(operator.add, others, first).usage_metadata
        return usage["input_tokens"], usage["output_tokens"]

    async def ask_async(self, chat: ChatBedrockConverse, prompt: str) -> Any:
        return (await chat.ainvoke(prompt)).text

    async def stream_async(self, chat: ChatBedrockConverse, prompt: str) -> AsyncIterator[Any]:
        return (chunk.text async for chunk in chat.astream(prompt))

    def invoking(self, chat: ChatBedrockConverse) -> ChatBedrock:
        """Return a chat that calls ``/invoke`` with the client of *chat*."""
        return ChatBedrock(client=chat.client, model="anthropic.model", region_name="us-east-1")

    def test_streams_of_bedrock_llm_need_an_executor(self, gateway: ModelsGateway) -> None:
        """``BedrockLLM.astream`` needs a ``SessionExecutor`` as the loop's default executor."""
        chat = self.client(gateway.url, HEADERS)
        llm = BedrockLLM(client=chat.client, model="amazon.model", region_name="us-east-1")

        async def stream() -> None:
            with session_scope("sess-1"), contextlib.suppress(Exception):
                async for _ in llm.astream("Hello"):
                    pass  # the gateway does not know the model's format

        async def stream_twice() -> None:
            await stream()
            executor = SessionExecutor(ThreadPoolExecutor())
            asyncio.get_running_loop().set_default_executor(executor)
            await stream()

        asyncio.run(stream_twice())
        assert [call.session_id for call in self.calls(gateway)] == [None, "sess-1"]
