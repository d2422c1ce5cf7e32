"""Tests of LlamaIndex workflows: a run belongs to the session in which it was started."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from guide_lines import asked_in, execute
from jobs import ask
from workflows import Context, Workflow, step
from workflows.events import (
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
)

from cagent_session import session_scope
from cagent_session.testing import ModelsGateway

SESSIONS = ["sess-1", "sess-2", "sess-3"]


class Part(Event):
    pass


class Answered(Event):
    pass


class Agent(Workflow):
    """Asks two times at once, and once more when a human has answered."""

    gateway = ""

    async def ask(self, ctx: Context) -> None:
        await asyncio.to_thread(ask, self.gateway, await ctx.store.get("question"))

    @step
    async def split(self, ctx: Context, start: StartEvent) -> Part | None:
        await ctx.store.set("question", start.question)
        ctx.send_event(Part())
        return Part()

    @step(num_workers=2)
    async def answer(self, ctx: Context, part: Part) -> Answered:
        await self.ask(ctx)
        return Answered()

    @step
    async def join(self, ctx: Context, answered: Answered) -> InputRequiredEvent | None:
        both = ctx.collect_events(answered, [Answered, Answered])
        return InputRequiredEvent() if both else None

    @step
    async def finish(self, ctx: Context, response: HumanResponseEvent) -> StopEvent:
        await self.ask(ctx)
        return StopEvent()


def start_by_line(workflow: Agent, session_id: str) -> Any:
    names = {"workflow": workflow, "session_id": session_id, "question": session_id}
    return execute("LlamaIndex workflows", **names)["handler"]


def start_plain(workflow: Agent, session_id: str) -> Any:
    return workflow.run(question=session_id)


async def finish(handler: Any, session_id: str) -> None:
    """Read the events of a run, answer as the human, and wait for the result."""
    with session_scope(session_id):
        async for event in handler.stream_events():
            if isinstance(event, InputRequiredEvent):
                handler.ctx.send_event(HumanResponseEvent())
        await handler


@pytest.mark.parametrize(
    ("start", "starter", "sessions"),
    [
        (start_plain, None, [None, None, None]),
        (start_plain, "sess-1", ["sess-1", "sess-1", "sess-1"]),
        (start_by_line, None, SESSIONS),
    ],
)
@pytest.mark.parametrize("readers", [SESSIONS, SESSIONS[::-1]], ids=["same", "other"])
def test_runs_of_several_sessions(
    start: Any,
    starter: str | None,
    sessions: list[str | None],
    readers: list[str],
    models_gateway: ModelsGateway,
) -> None:
    """It does not matter in which session the events are read and the handler is awaited."""

    async def main() -> None:
        workflow = Agent(timeout=30)
        workflow.gateway = models_gateway.url
        with session_scope(starter):
            handlers = [start(workflow, session_id) for session_id in SESSIONS]
        await asyncio.gather(*map(finish, handlers, readers))

    asyncio.run(main())
    assert asked_in(models_gateway) == dict.fromkeys(zip(SESSIONS, sessions, strict=True), 3)
