"""The calls of dashscope, which is on requests."""

from __future__ import annotations

from typing import Any

import requests
import with_dashscope
from contract import HEADERS, AsyncNeedsMore, Streams, messages_of
from dashscope import AioGeneration, Generation

from cagent_session import session_scope
from cagent_session.testing import ModelsGateway

SDK = "dashscope==2.0.2"
STREAM: dict[str, Any] = {
    "result_format": "message",
    "incremental_output": True,
    "stream": True,
}


class TestDashScope(Streams, AsyncNeedsMore):
    example = with_dashscope
    paths = ("/api/v1/services/aigc/text-generation/generation",)
    retries = False
    streams_belong = "first read"
    missing_raises = "MissingSessionId"
    missing_tries = (1,)
    async_calls_arrive = "unmarked"
    only_instrumented = ("ask_async", "stream_async")

    def stream_chat(self, session: requests.Session, prompt: str) -> Any:
        messages = messages_of(prompt)
        stream: Any = Generation.call("qwen-plus", messages=messages, session=session, **STREAM)
        return (chunk.output.choices[0].message.content for chunk in stream)

    async def ask_async(self, _: None, prompt: str) -> Any:
        messages = messages_of(prompt)
        answer = await AioGeneration.call("qwen-plus", messages=messages, result_format="message")
        return answer.output.choices[0].message.content

    async def stream_async(self, _: None, prompt: str) -> Any:
        stream: Any = await AioGeneration.call("qwen-plus", messages=messages_of(prompt), **STREAM)
        return (chunk.output.choices[0].message.content async for chunk in stream)

    def test_a_call_without_our_session_is_unmarked(self, gateway: ModelsGateway) -> None:
        """Own line: pass ``session`` with each call. A call without it goes out unmarked."""
        self.client(gateway.url, HEADERS)
        with session_scope("sess-1"):
            Generation.call("qwen-plus", prompt="Hello")
        assert [(call.forward, call.session_id) for call in gateway.calls] == [(None, None)]

    async def call_async(self, client: Any, gateway: str, headers: dict[str, str]) -> Any:
        return await self.ask_async(None, "Hello")
