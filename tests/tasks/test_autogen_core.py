"""Tests of AutoGen core: one task of its runtime handles the messages of all sessions."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from autogen_core import (
    AgentId,
    MessageContext,
    RoutedAgent,
    SingleThreadedAgentRuntime,
    TopicId,
    TypeSubscription,
    message_handler,
)
from guide_lines import asked_in, evaluate
from jobs import ask

from cagent_session import session_scope
from cagent_session.testing import ModelsGateway

SESSIONS = ["sess-1", "sess-2", "sess-3"]


@dataclass
class Question:
    text: str
    gateway: str
    for_agent: str = ""


class PlainAgent(RoutedAgent):
    @message_handler
    async def answer(self, message: Question, ctx: MessageContext) -> None:
        await asyncio.to_thread(ask, message.gateway, message.text)


class DecoratedAgent(RoutedAgent):
    @message_handler
    @evaluate("AutoGen core")
    async def answer(self, message: Question, ctx: MessageContext) -> None:
        await asyncio.to_thread(ask, message.gateway, message.text)
        if message.for_agent:
            passed_on = Question(message.text, message.gateway)
            await self.send_message(passed_on, AgentId(message.for_agent, self.id.key))


@pytest.mark.parametrize(
    ("agent", "starter", "sessions"),
    [
        (PlainAgent, "sess-1", ["sess-1", "sess-1", "sess-1"]),
        (PlainAgent, None, [None, None, None]),
        (DecoratedAgent, "sess-1", SESSIONS),
    ],
)
def test_messages_of_several_sessions(
    agent: Any, starter: str | None, sessions: list[str | None], models_gateway: ModelsGateway
) -> None:
    async def send(runtime: SingleThreadedAgentRuntime, session_id: str) -> None:
        with session_scope(session_id):
            question = Question(session_id, models_gateway.url)
            await runtime.send_message(question, AgentId("agent", session_id))
            await runtime.publish_message(question, TopicId("news", session_id))

    async def main() -> None:
        runtime = SingleThreadedAgentRuntime()
        await agent.register(runtime, "agent", lambda: agent("answers"))
        await runtime.add_subscription(TypeSubscription("news", "agent"))
        with session_scope("sess-1"), session_scope(starter):
            runtime.start()
        await asyncio.gather(*(send(runtime, session_id) for session_id in SESSIONS))
        await runtime.stop_when_idle()
        await runtime.close()

    asyncio.run(main())
    expected = dict.fromkeys(zip(SESSIONS, sessions, strict=True), 2)
    assert asked_in(models_gateway) == expected


def test_an_agent_that_another_agent_asks(models_gateway: ModelsGateway) -> None:
    async def main() -> None:
        runtime = SingleThreadedAgentRuntime()
        for name in ("first", "second"):
            await DecoratedAgent.register(runtime, name, lambda: DecoratedAgent("answers"))
        with session_scope("starter"):
            runtime.start()
        question = Question("sess-1", models_gateway.url, for_agent="second")
        await runtime.send_message(question, AgentId("first", "sess-1"))
        await runtime.stop_when_idle()
        await runtime.close()

    asyncio.run(main())
    assert asked_in(models_gateway) == {("sess-1", "sess-1"): 2}
