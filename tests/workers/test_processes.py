"""Tests of process pools: a job calls the gateway in its session."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import BaseContext
from multiprocessing.pool import Pool
from typing import Any

import pytest
from engines import Calls, Carries, CarriesByExecutor, Job, map_each, start_each, start_workers

from cagent_session import carry_session, session_scope


# "fork" is not tested, because the gateway has threads.
@pytest.fixture(scope="module", params=["spawn", "forkserver"])
def context(request: pytest.FixtureRequest) -> BaseContext:
    method: str = request.param
    return multiprocessing.get_context(method)


class TestProcessPoolExecutor(CarriesByExecutor):
    @pytest.fixture(scope="module")
    @classmethod
    def engine(cls, context: BaseContext) -> Iterator[ProcessPoolExecutor]:
        with ProcessPoolExecutor(2, mp_context=context) as executor:
            start_workers(executor)
            yield executor


class TestPool(Carries):
    main_way = "by_apply_async"

    @pytest.fixture(scope="module")
    @classmethod
    def engine(cls, context: BaseContext) -> Iterator[Pool]:
        with session_scope("starter"):
            pool = context.Pool(2)
        yield pool
        pool.close()
        pool.join()

    def by_apply_async(self, pool: Pool, job: Job, calls: Calls) -> list[Any]:
        started = start_each(calls, lambda *args: pool.apply_async(carry_session(job), args))
        return [result.get(60) for result in started]

    def by_starmap(self, pool: Pool, job: Job, calls: Calls) -> list[Any]:
        return map_each(
            calls, lambda *columns: pool.starmap(carry_session(job), zip(*columns, strict=True))
        )

    def by_imap_unordered(self, pool: Pool, job: Job, calls: Calls) -> list[Any]:
        def start(*columns: tuple[Any, ...]) -> Iterator[Any]:
            *same, questions = columns  # all but the last argument are the same in all calls
            return pool.imap_unordered(
                carry_session(functools.partial(job, *(column[0] for column in same))), questions
            )

        return map_each(calls, start)

    def uncarried(self, pool: Pool, job: Job, calls: Calls) -> list[Any]:
        return [
            result.get(60)
            for result in start_each(calls, lambda *args: pool.apply_async(job, args))
        ]
