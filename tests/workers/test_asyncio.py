"""Tests of asyncio: tasks, threads and generators call the gateway in their session."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import aclosing
from typing import Any

import pytest
from engines import Calls, Carries, Job, map_each, start_each, start_workers
from jobs import ask

from cagent_session import SessionExecutor, carry_session, in_session, session_scope
from cagent_session.testing import ModelsGateway


def gathered(start: Callable[[], list[Any]]) -> list[Any]:
    """Call *start* on an event loop. Return the results of all that it starts."""

    async def main() -> list[Any]:
        return await asyncio.gather(*start())

    return asyncio.run(main())


class TestAsyncio(Carries):
    main_way = "by_to_thread"

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> Iterator[Executor]:
        with ThreadPoolExecutor(4) as executor:
            start_workers(executor)
            yield executor

    def by_to_thread(self, _: Executor, job: Job, calls: Calls) -> list[Any]:
        def start(*args: Any) -> Awaitable[Any]:
            return asyncio.create_task(asyncio.to_thread(job, *args))

        return gathered(lambda: start_each(calls, start))

    def by_gather(self, _: Executor, job: Job, calls: Calls) -> list[Any]:
        def start(*columns: tuple[Any, ...]) -> list[Awaitable[Any]]:
            return [
                asyncio.gather(
                    *(asyncio.to_thread(job, *args) for args in zip(*columns, strict=True))
                )
            ]

        return [
            result for results in gathered(lambda: map_each(calls, start)) for result in results
        ]

    def by_executor(self, executor: Executor, job: Job, calls: Calls) -> list[Any]:
        def start(*args: Any) -> Awaitable[Any]:
            return asyncio.get_running_loop().run_in_executor(SessionExecutor(executor), job, *args)

        return gathered(lambda: start_each(calls, start))

    def by_carrying(self, executor: Executor, job: Job, calls: Calls) -> list[Any]:
        def start(*args: Any) -> Awaitable[Any]:
            return asyncio.get_running_loop().run_in_executor(executor, carry_session(job), *args)

        return gathered(lambda: start_each(calls, start))

    def by_decorated_generators(self, _: Executor, job: Job, calls: Calls) -> list[Any]:
        @in_session("session_id")
        async def work(session_id: str | None, args: tuple[Any, ...]) -> AsyncGenerator[Any, None]:
            await asyncio.sleep(0)  # lets all others begin
            yield None
            yield await asyncio.to_thread(job, *args)

        async def last(session_id: str | None, args: tuple[Any, ...]) -> Any:
            return [event async for event in work(session_id, args)][-1]

        return gathered(lambda: [asyncio.create_task(last(*call)) for call in calls])

    if sys.version_info >= (3, 11):

        def by_task_group(self, _: Executor, job: Job, calls: Calls) -> list[Any]:
            async def main() -> list[Any]:
                try:
                    async with asyncio.TaskGroup() as group:
                        tasks = start_each(
                            calls, lambda *args: group.create_task(asyncio.to_thread(job, *args))
                        )
                except BaseExceptionGroup as errors:  # noqa: F821 - new in Python 3.11
                    raise errors.exceptions[0] from None
                return [task.result() for task in tasks]

            return asyncio.run(main())

    def uncarried(self, executor: Executor, job: Job, calls: Calls) -> list[Any]:
        def start(*args: Any) -> Awaitable[Any]:
            return asyncio.get_running_loop().run_in_executor(executor, job, *args)

        return gathered(lambda: start_each(calls, start))


Start = Callable[[], Awaitable[AsyncGenerator[str, None]]]
left_open: list[AsyncGenerator[str, None]] = []


async def closed_by_another_task(start: Start) -> None:
    run_loop = await start()
    await asyncio.create_task(run_loop.aclose())


async def closed_by_aclosing(start: Start) -> None:
    async with aclosing(await start()):
        pass


async def closed_as_the_loop_shuts_down(start: Start) -> None:
    left_open.append(await start())


async def closed_when_it_is_collected(start: Start) -> None:
    await start()
    gc.collect()
    await asyncio.sleep(0)  # the event loop makes a task that closes it
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})


async def cancelled_with_its_consumer(start: Start) -> None:
    run_loop = await start()
    consumer = asyncio.create_task(anext(run_loop))
    await asyncio.sleep(0)
    consumer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consumer


@pytest.mark.parametrize(
    "end",
    [
        closed_by_another_task,
        closed_by_aclosing,
        closed_as_the_loop_shuts_down,
        closed_when_it_is_collected,
        cancelled_with_its_consumer,
    ],
)
def test_a_call_at_the_end_of_a_generator_is_in_its_session(
    end: Callable[[Start], Awaitable[None]], gateway: ModelsGateway
) -> None:
    @in_session("session_id")
    async def run_loop(session_id: str) -> AsyncGenerator[str, None]:
        try:
            yield "started"
            await asyncio.Event().wait()
        finally:
            await asyncio.to_thread(ask, gateway.url, "Summarize it")

    async def start() -> AsyncGenerator[str, None]:
        agen = run_loop("sess-1")
        assert await anext(agen) == "started"
        return agen

    async def main() -> None:
        with session_scope("consumer"):
            await end(start)
            await asyncio.to_thread(ask, gateway.url, "What did it say?")

    asyncio.run(main())
    left_open.clear()
    assert sorted(str(call.session_id) for call in gateway.calls) == ["consumer", "sess-1"]
