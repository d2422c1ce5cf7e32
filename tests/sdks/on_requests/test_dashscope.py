"""The calls of dashscope, which is on requests."""

from __future__ import annotations

from typing import Any

import requests
import with_dashscope
from contract import HEADERS, AsyncNeedsMore, Streams
from dashscope import AioGeneration, Generation

from cagent_session import session_scope
from cagent_session.testing import ModelsGateway

SDK = "dashscope==2.0.2"


class TestDashScope(Streams, AsyncNeedsMore):
    example = with_dashscope
    paths = ("/api/v1/services/aigc/text-generation/generation",)
    retries = False
    streams_belong = "first read"
    missing_raises = "MissingSessionId"
    missing_tries = (1,)
    async_calls_arrive = "unmarked"

    def stream_chat(self, session: requests.Session, prompt: str) -> Any:
        messages = [{"role": "user", "content": prompt}]
        how = {"result_format": "message", "incremental_output": True, "stream": True}
        stream: Any = Generation.call("qwen-plus", messages=messages, session=session, **how)
        return (chunk.output.choices[0].message.content for chunk in stream)

    def test_a_call_without_our_session_is_unmarked(self, gateway: ModelsGateway) -> None:
        """Pass ``session`` with each call. A call without it goes out unmarked."""
        self.client(gateway.url, HEADERS)
        with session_scope("sess-1"):
            Generation.call("qwen-plus", prompt="Hello")
        assert [(call.forward, call.session_id) for call in gateway.calls] == [(None, None)]

    async def call_async(self, client: Any, gateway: str, headers: dict[str, str]) -> Any:
        messages = [{"role": "user", "content": "Hello"}]
        return await AioGeneration.call("qwen-plus", messages=messages)
