"""Tests of an asyncio queue: the first job starts the worker task that serves all jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
from guide_lines import asked_in, execute
from jobs import ask

from cagent_session import current_session_id, in_session, session_scope
from cagent_session.testing import ModelsGateway

SESSIONS = ["sess-1", "sess-2", "sess-3"]
Job = Callable[..., Awaitable[object]]


class Agent:
    def __init__(self) -> None:
        self.queue = asyncio.Queue[Job]()
        self.worker: asyncio.Task[None] | None = None

    def start_worker(self) -> None:
        if self.worker is None:
            self.worker = asyncio.create_task(self.work())

    async def work(self) -> None:
        while True:
            job = await self.queue.get()
            await job()
            self.queue.task_done()


@in_session("session_id")
async def handle(session_id: str | None, job: Job) -> None:
    await job()


def plain(agent: Agent, job: Job) -> None:
    agent.start_worker()
    agent.queue.put_nowait(job)


def carried(agent: Agent, job: Job) -> None:
    agent.start_worker()
    execute("An ``asyncio`` queue", queue=agent.queue, job=job)


def decorated(agent: Agent, job: Job) -> None:
    agent.start_worker()
    agent.queue.put_nowait(partial(handle, current_session_id(), job))


def started_in_no_session(agent: Agent, job: Job) -> None:
    with session_scope(None):
        agent.start_worker()
    agent.queue.put_nowait(job)


@pytest.mark.parametrize(
    ("submit", "sessions"),
    [
        (plain, ["sess-1", "sess-1", "sess-1"]),
        (carried, SESSIONS),
        (decorated, SESSIONS),
        (started_in_no_session, [None, None, None]),
    ],
)
def test_jobs_of_several_sessions(
    submit: Callable[[Agent, Job], None],
    sessions: list[str | None],
    models_gateway: ModelsGateway,
) -> None:
    async def main() -> None:
        agent = Agent()
        for session_id in SESSIONS:
            with session_scope(session_id):
                submit(agent, partial(asyncio.to_thread, ask, models_gateway.url, session_id))
        await asyncio.wait_for(agent.queue.join(), 30)

    asyncio.run(main())
    assert list(asked_in(models_gateway)) == list(zip(SESSIONS, sessions, strict=True))
