"""The calls of mem0, which is on openai 3 and httpx2."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import with_mem0
from contract import HEADERS, AttributesCalls
from mem0 import AsyncMemory, Memory

from cagent_session import session_scope
from cagent_session.testing import ModelsGateway

SDK = "mem0ai==2.2.1"


class TestMem0(AttributesCalls):
    example = with_mem0
    lines = ("instrument",)
    paths = ("/v1/chat/completions", "/v1/embeddings")
    retries = True
    missing_raises = "MissingSessionId"
    missing_tries = (1,)

    def ask_embeddings(self, memory: Memory, prompt: str) -> Any:
        return len(memory.embedding_model.embed(prompt)) > 0

    def ask_add(self, memory: Memory, prompt: str) -> Any:
        return len(memory.add(prompt, user_id="user", infer=False)["results"]) == 1

    def ask_search(self, memory: Memory, prompt: str) -> Any:
        return memory.search(prompt, filters={"user_id": "user"})["results"] == []

    async def ask_async_add(self, memory: AsyncMemory, prompt: str) -> Any:
        return len((await memory.add(prompt, user_id="user", infer=False))["results"]) == 1

    async def ask_async_search(self, memory: AsyncMemory, prompt: str) -> Any:
        return (await memory.search(prompt, filters={"user_id": "user"}))["results"] == []

    def test_all_calls_of_an_inferred_memory_belong_to_its_session(
        self, gateway: ModelsGateway
    ) -> None:
        answer_with_a_memory(gateway)
        memory = self.client(gateway.url, HEADERS)
        with session_scope("sess-1"):
            memory.add("I like tea", user_id="user")
        (found,) = memory.get_all(filters={"user_id": "user"})["results"]
        assert found["memory"] == "Likes tea"
        assert {call.path for call in gateway.calls} == {*self.paths}
        gateway.assert_attributed("sess-1")

    def test_all_calls_of_concurrent_memories_belong_to_their_sessions(
        self, gateway: ModelsGateway
    ) -> None:
        answer_with_a_memory(gateway)
        memory = self.async_client(gateway.url, HEADERS)

        async def add(session_id: str) -> None:
            with session_scope(session_id):
                await memory.add(f"I am {session_id}", user_id=session_id)

        async def add_both() -> None:
            await asyncio.gather(add("sess-1"), add("sess-2"))

        asyncio.run(add_both())
        first, second = gateway.calls_in("sess-1"), gateway.calls_in("sess-2")
        assert len(gateway.calls) == len(first) + len(second)
        assert {call.path for call in first} == {call.path for call in second} == {*self.paths}


def answer_with_a_memory(gateway: ModelsGateway) -> None:
    """Let the model find a memory in each conversation."""
    memories = {"memory": [{"id": "0", "text": "Likes tea"}]}
    message = {"role": "assistant", "content": json.dumps(memories)}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    gateway.expect_request("/v1/chat/completions").respond_with_json(
        {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    )
