"""Does Dask bill each call to its session, when a cluster of processes does the work?"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import pytest
from dask.tokenize import tokenize
from distributed import Client, LocalCluster, worker_client
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


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with session_scope("starter"):
        cluster = LocalCluster(
            n_workers=2, threads_per_worker=2, processes=True, dashboard_address="127.0.0.1:0"
        )
        client = Client(cluster)
    with cluster, client:
        yield client


class TestClient(Carries):
    main_way = "by_submit"

    @pytest.fixture
    def engine(self, client: Client) -> Client:
        return client

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

    def by_a_task_that_submits(self, client: Client, job: Job, calls: Calls) -> list[Any]:
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
    def engine(self, client: Client) -> Executor:
        executor: Executor = client.get_executor(pure=False)
        return executor


def test_equal_calls_are_merged_in_their_session_unless_they_are_impure(
    client: Client, gateway: ModelsGateway
) -> None:
    """So Dask does by itself with equal calls; those of two sessions are not equal."""
    calls = [
        (session_id, (gateway.url, "Plan my day"))
        for session_id in ("sess-1", "sess-1", "sess-2", None, None)
    ]
    results = client.gather(
        start_each(calls, lambda *args: client.submit(carry_session(ask), *args))
    )
    assert results == ["sess-1", "sess-1", "sess-2", None, None]
    assert {
        session_id: usage.calls for session_id, usage in gateway.usage().items()
    } == dict.fromkeys(results, 1)


@pytest.mark.parametrize(
    "job", [ask, lambda: ask, Path("x").exists], ids=["function", "lambda", "method"]
)
def test_a_carried_functions_token_is_that_of_function_and_session(job: Job) -> None:
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
    client: Client, gateway: ModelsGateway, tmp_path: Path
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
        future = client.submit(
            carry_session(fail_twice), tmp_path / "attempts", retries=2, pure=False
        )
    assert future.result() == "sess-1"
    assert [call.session_id for call in gateway.calls] == ["sess-1"] * 3


def test_a_coroutine_function_finds_its_session_itself(client: Client) -> None:
    """Before Python 3.12 Dask sees a carried one for a plain function, and does not await it."""

    @in_session("session_id")
    async def work(session_id: str) -> str | None:
        await asyncio.sleep(0)
        return current_session_id()

    session_ids = [f"sess-{number}" for number in range(20)]
    assert client.gather(client.map(work, session_ids, pure=False)) == session_ids


def test_a_futures_result_is_a_carried_jobs_argument(client: Client) -> None:
    def repeat(*seen: str | None) -> tuple[str | None, ...]:
        return (*seen, current_session_id())

    with session_scope("sess-1"):
        first = client.submit(carry_session(repeat), pure=False)
    with session_scope("sess-2"):
        assert client.submit(carry_session(repeat), first, pure=False).result() == (
            ("sess-1",),
            "sess-2",
        )


def test_a_scheduler_without_a_cluster_takes_a_session_executor() -> None:
    tasks = [dask.delayed(current_session_id, pure=False)() for _ in range(8)]
    with session_scope("sess-1"), SessionExecutor(ThreadPoolExecutor(2)) as pool:
        assert set(dask.compute(*tasks, scheduler=pool)) == {"sess-1"}
