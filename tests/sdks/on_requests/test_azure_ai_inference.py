"""The calls of azure-ai-inference, which is on azure-core and requests."""

from __future__ import annotations

from typing import Any

import with_azure_ai_inference
from azure.ai.inference import ChatCompletionsClient, aio
from azure.core.credentials import AzureKeyCredential
from contract import AsyncNeedsMore, Streams, messages_of

SDK = "azure-ai-inference==1.0.0b9"


class TestAzureAIInference(Streams, AsyncNeedsMore):
    example = with_azure_ai_inference
    paths = ("/chat/completions",)
    retries = True
    streams_belong = "created"
    missing_raises = "MissingSessionId"
    missing_tries = (1,)
    async_calls_arrive = "in no session"
    only_instrumented = ("ask_async", "stream_async")

    def stream_chat(self, client: ChatCompletionsClient, prompt: str) -> Any:
        stream = client.complete(messages=messages_of(prompt), stream=True)
        return (chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)

    async def ask_async(self, client: aio.ChatCompletionsClient, prompt: str) -> Any:
        return (await client.complete(messages=messages_of(prompt))).choices[0].message.content

    async def stream_async(self, client: aio.ChatCompletionsClient, prompt: str) -> Any:
        stream = await client.complete(messages=messages_of(prompt), stream=True)
        return (chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices)

    async def call_async(self, client: Any, gateway: str, headers: dict[str, str]) -> Any:
        key = AzureKeyCredential("key")
        async with aio.ChatCompletionsClient(gateway, key, headers=headers) as async_client:
            return await self.ask_async(async_client, "Hello")
