"""Tests of Dask: jobs on a cluster of processes call the gateway in their session."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import pytest
from dask.tokenize import tokenize
from distributed import Client, worker_client
from engines import Calls, Carries, CarriesByExecutor, Job, map_each, start_each
from jobs import ask

from cagent_session import (
    SessionExecutor,
    carry_session,
    current_session_id,
    in_session,
    session_scope,
)
from cagent_session.testing import ModelsGateway


class TestClient(Carries):
    main_way = "by_submit"

    @pytest.fixture
    def engine(self, dask_client: Client) -> Client:
        return dask_client

    def by_submit(self, client: Client, job: Job, calls: Calls) -> list[Any]:
        futures = start_each(
            calls, lambda *args: client.submit(carry_session(job), *args, pure=False)
        )
        results: list[Any] = client.gather(futures)
        return results

    def by_map(self, client: Client, job: Job, calls: Calls) -> list[Any]:
        futures = map_each(
            calls, lambda *columns: client.map(carry_session(job), *columns, pure=False)
        )
        results: list[Any] = client.gather(futures)
        return results

    def by_delayed(self, client: Client, job: Job, calls: Calls) -> list[Any]:
        def start(*args: Any) -> Any:
            return dask.delayed(carry_session(job))(*args)

        return list(dask.compute(*start_each(calls, start)))

    def by_task_that_submits(self, client: Client, job: Job, calls: Calls) -> list[Any]:
        def start(*columns: tuple[Any, ...]) -> list[Any]:
            with worker_client() as inner:
                results: list[Any] = inner.gather(
                    inner.map(carry_session(job), *columns, pure=False)
                )
                return results

        futures = map_each(
            calls, lambda *columns: [client.submit(carry_session(start), *columns, pure=False)]
        )
        return [result for results in client.gather(futures) for result in results]

    def by_asynchronous_client(self, client: Client, job: Job, calls: Calls) -> list[Any]:
        async def main() -> list[Any]:
            async with Client(client.scheduler.address, asynchronous=True) as other:
                futures = start_each(
                    calls, lambda *args: other.submit(carry_session(job), *args, pure=False)
                )
                results: list[Any] = await other.gather(futures)
                return results

        return asyncio.run(main())

    def uncarried(self, client: Client, job: Job, calls: Calls) -> list[Any]:
        results: list[Any] = client.gather(
            start_each(calls, lambda *args: client.submit(job, *args, pure=False))
        )
        return results


class TestExecutor(CarriesByExecutor):
    @pytest.fixture
    def engine(self, dask_client: Client) -> Executor:
        executor: Executor = dask_client.get_executor(pure=False)
        return executor


def test_without_pure_false_equal_calls_of_one_session_are_made_once(
    dask_client: Client, gateway: ModelsGateway
) -> None:
    """Dask makes equal calls once. Calls in different sessions are not equal."""
    calls = [
        (session_id, (gateway.url, "Plan my day"))
        for session_id in ("sess-1", "sess-1", "sess-2", None, None)
    ]
    results = dask_client.gather(
        start_each(calls, lambda *args: dask_client.submit(carry_session(ask), *args))
    )
    assert results == ["sess-1", "sess-1", "sess-2", None, None]
    assert {
        session_id: usage.calls for session_id, usage in gateway.usage().items()
    } == dict.fromkeys(results, 1)


@pytest.mark.parametrize(
    "job", [ask, lambda: ask, Path("x").exists], ids=["function", "lambda", "method"]
)
def test_the_token_of_a_carried_function_depends_on_function_and_session(job: Job) -> None:
    jobs = start_each(
        [(session_id, ()) for session_id in ("sess-1", "sess-2", None)], lambda: carry_session(job)
    )
    again = start_each(
        [(session_id, ()) for session_id in ("sess-1", "sess-2", None)], lambda: carry_session(job)
    )
    tokens = [tokenize(carried, ensure_deterministic=True) for carried in jobs]
    assert tokens == [tokenize(carried, ensure_deterministic=True) for carried in again]
    assert len({*tokens, tokenize(job)}) == 4


def test_a_task_that_is_tried_again_stays_in_its_session(
    dask_client: Client, gateway: ModelsGateway, tmp_path: Path
) -> None:
    def fail_twice(attempts: Path) -> str | None:
        with attempts.open("a") as file:
            file.write("x")
        ask(gateway_url, "Will it work?")
        if attempts.read_text() != "xxx":
            raise OSError("not yet")
        return current_session_id()

    gateway_url = gateway.url
    with session_scope("sess-1"):
        future = dask_client.submit(
            carry_session(fail_twice), tmp_path / "attempts", retries=2, pure=False
        )
    assert future.result() == "sess-1"
    assert [call.session_id for call in gateway.calls] == ["sess-1"] * 3


def test_a_decorated_coroutine_function_runs_in_its_session(dask_client: Client) -> None:
    @in_session("session_id")
    async def work(session_id: str) -> str | None:
        await asyncio.sleep(0)
        return current_session_id()

    session_ids = [f"sess-{number}" for number in range(20)]
    assert dask_client.gather(dask_client.map(work, session_ids, pure=False)) == session_ids


def test_a_future_passed_to_a_carried_job_arrives_as_its_result(dask_client: Client) -> None:
    def repeat(*seen: str | None) -> tuple[str | None, ...]:
        return (*seen, current_session_id())

    with session_scope("sess-1"):
        first = dask_client.submit(carry_session(repeat), pure=False)
    with session_scope("sess-2"):
        assert dask_client.submit(carry_session(repeat), first, pure=False).result() == (
            ("sess-1",),
            "sess-2",
        )


@pytest.mark.parametrize("setting", ["pool", "scheduler"])
def test_a_session_executor_runs_the_tasks_without_a_cluster(setting: str) -> None:
    tasks = [dask.delayed(current_session_id, pure=False)() for _ in range(8)]
    with session_scope("sess-1"), SessionExecutor(ThreadPoolExecutor(2)) as pool:
        assert set(dask.compute(*tasks, **{"scheduler": "threads", setting: pool})) == {"sess-1"}


def test_a_cluster_in_threads_keeps_the_session_in_which_it_is_started() -> None:
    """Dask copies the context for its threads. A carried job has its own session there, too."""
    with session_scope("starter"):
        client = Client(processes=False, dashboard_address=None, set_as_default=False)
    with client, session_scope("sess-1"):
        carried = client.submit(carry_session(current_session_id), pure=False)
        plain = client.submit(current_session_id, pure=False)
        assert (carried.result(), plain.result()) == ("sess-1", "starter")
