"""Tests of joblib: with each backend, a job calls the gateway in its session."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import ExitStack
from typing import Any

import pytest
from engines import Calls, Carries, CarriesByExecutor, Job, map_each, start_each, start_workers
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor

from cagent_session import carry_session, current_session_id, session_scope

BACKENDS = {
    "loky": "loky",
    "threading": "threading",
    "multiprocessing": multiprocessing.get_context("forkserver"),
}


class TestParallel(Carries):
    main_way = "by_tasks"

    @pytest.fixture(scope="class", params=BACKENDS)
    @classmethod
    def engine(cls, request: pytest.FixtureRequest) -> Iterator[Parallel]:
        with ExitStack() as stack:
            with session_scope("starter"):
                parallel = stack.enter_context(Parallel(2, backend=BACKENDS[request.param]))
            yield parallel

    def by_tasks(self, parallel: Parallel, job: Job, calls: Calls) -> list[Any]:
        def start(*args: Any) -> Any:
            return delayed(carry_session(job))(*args)

        results: list[Any] = parallel(start_each(calls, start))
        return results

    def by_generator(self, parallel: Parallel, job: Job, calls: Calls) -> list[Any]:
        def start(*columns: tuple[Any, ...]) -> list[Any]:
            carried = delayed(carry_session(job))
            results: list[Any] = parallel(carried(*args) for args in zip(*columns, strict=True))
            return results

        return map_each(calls, start)

    def uncarried(self, parallel: Parallel, job: Job, calls: Calls) -> list[Any]:
        results: list[Any] = parallel(start_each(calls, delayed(job)))
        return results


class TestLoky(CarriesByExecutor):
    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> Iterator[Executor]:
        with get_reusable_executor(2) as executor:
            start_workers(executor)
            yield executor


@pytest.mark.parametrize("backend", BACKENDS)
def test_tasks_that_are_carried_while_joblib_iterates_may_be_in_no_session(
    backend: str,
) -> None:
    """Joblib takes the later tasks in a thread of its own. That thread is in no session."""
    with session_scope("sess-1"):
        results = Parallel(2, backend=BACKENDS[backend])(
            delayed(carry_session(current_session_id))() for _ in range(20)
        )
    assert set(results) == {"sess-1", None}
