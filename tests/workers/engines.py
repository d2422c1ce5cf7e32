"""What must hold wherever a function is sent? The tests that each engine here inherits."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

import pytest
from jobs import ask, fail

from cagent_session import SessionExecutor, carry_session, current_session_id, session_scope
from cagent_session.testing import ModelsGateway, Usage

Job = Callable[..., Any]
Calls = Sequence[tuple[str | None, tuple[Any, ...]]]
"""Calls of one job: of each its session, and its arguments."""
T = TypeVar("T")


def start_each(calls: Calls, start: Callable[..., T]) -> list[T]:
    """Call *start* with the arguments of each call, in its session; return what it returns."""
    started = []
    for session_id, arguments in calls:
        with session_scope(session_id):
            started.append(start(*arguments))
    return started


def map_each(calls: Calls, start: Callable[..., Iterable[T]]) -> list[T]:
    """Call *start*, which is like ``map``, once in each session, with the arguments of all its calls in columns.

    No result is read before all are started.
    """
    rows: dict[str | None, list[tuple[Any, ...]]] = {}
    for session_id, arguments in calls:
        rows.setdefault(session_id, []).append(arguments)
    maps = start_each(
        [(session_id, tuple(zip(*rows[session_id], strict=True))) for session_id in rows], start
    )
    return list(itertools.chain.from_iterable(maps))


def results_of(futures: Iterable[Future[T]]) -> list[T]:
    return [future.result(60) for future in futures]


def start_workers(executor: Executor) -> None:
    """Start them in a session, which they must not keep."""
    with session_scope("starter"):
        results_of([executor.submit(current_session_id) for _ in range(8)])


class Carries:
    """An engine runs each call in the session of whoever sent it.

    A subclass is an engine. Its fixture ``engine`` starts the workers, in a session of their own. Functions whose names
    begin with ``by_`` are ways to send a job there: each gets the engine, a job and calls of it, and returns the
    results. A loop is one, too: ``start_each(calls, job)``. The one named ``main_way`` is taken for a thousand calls,
    the others for a hundred.
    """

    main_way: str

    def uncarried(self, engine: Any, job: Job, calls: Calls, /) -> list[Any]:
        """Send a job as a program does that knows nothing of sessions."""
        raise NotImplementedError

    def raised_in_job(self, error: BaseException) -> BaseException:
        """Return the job's error, where the caller gets a wrapped one."""
        return error

    def send(self, way: str, engine: Any, job: Job, calls: Calls) -> list[Any]:
        results: list[Any] = getattr(self, way)(engine, job, calls)
        return results

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run a test that takes a ``way`` once for each function of its class named ``by_...``."""
        if "way" in metafunc.fixturenames:
            metafunc.parametrize(
                "way", [name for name in dir(metafunc.cls) if name.startswith("by_")]
            )

    def test_each_call_of_twenty_sessions_reaches_the_gateway_in_its_own(
        self, way: str, engine: Any, gateway: ModelsGateway
    ) -> None:
        session_ids = [
            f"sess-{number % 20}" for number in range(1000 if way == self.main_way else 100)
        ]
        questions = [f"{session_id} asks {number}" for number, session_id in enumerate(session_ids)]
        calls = [
            (session_id, (gateway.url, q))
            for session_id, q in zip(session_ids, questions, strict=True)
        ]
        results = self.send(way, engine, ask, calls)
        asked = [(call.session_id, call.json["messages"][0]["content"]) for call in gateway.calls]
        assert Counter(asked) == Counter(zip(session_ids, questions, strict=True))
        assert Counter(results) == Counter(session_ids)

    def test_the_bill_is_that_of_a_loop(
        self, way: str, engine: Any, gateway: ModelsGateway
    ) -> None:
        """Also where a question is asked again: in its session, in another, and in none."""
        asked = ["sess-1", "sess-1", "sess-2", None, "sess-1", None]
        calls = [(session_id, (gateway.url, "Plan my day")) for session_id in asked]
        calls.append(("sess-2", (gateway.url, "And the day after")))
        start_each(calls, ask)
        bill = gateway.usage()
        assert bill == {"sess-1": Usage(3, 9, 15), "sess-2": Usage(2, 7, 11), None: Usage(2, 6, 10)}
        gateway.clear()
        self.send(way, engine, ask, calls)
        assert gateway.usage() == bill

    def test_a_job_that_is_not_carried_is_in_no_session(
        self, way: str, engine: Any, gateway: ModelsGateway
    ) -> None:
        """Neither in that of the job before, nor in that in which the workers were started."""
        calls = [(f"sess-{number}", (gateway.url, "Whose am I?")) for number in range(20)]
        for _ in range(2):
            assert None not in self.send(way, engine, ask, calls)
            gateway.clear()
            assert self.send("uncarried", engine, ask, calls) == [None] * 20
            assert gateway.usage().keys() == {None}

    def test_an_error_in_the_job_reaches_the_caller(self, way: str, engine: Any) -> None:
        with pytest.raises(LookupError) as caught:
            self.send(way, engine, fail, [("sess-1", ("in the job",))])
        error = self.raised_in_job(caught.value)
        assert (type(error), error.args) == (LookupError, ("in the job",))


class CarriesByExecutor(Carries):
    """An engine that is a :class:`concurrent.futures.Executor`."""

    main_way = "by_submit"

    def by_submit(self, executor: Executor, job: Job, calls: Calls) -> list[Any]:
        pool = SessionExecutor(executor)
        return results_of(start_each(calls, lambda *args: pool.submit(job, *args)))

    def by_submit_carried(self, executor: Executor, job: Job, calls: Calls) -> list[Any]:
        return results_of(
            start_each(calls, lambda *args: executor.submit(carry_session(job), *args))
        )

    def by_map(self, executor: Executor, job: Job, calls: Calls) -> list[Any]:
        pool = SessionExecutor(executor)
        return map_each(calls, lambda *columns: pool.map(job, *columns, chunksize=5))

    def uncarried(self, executor: Executor, job: Job, calls: Calls) -> list[Any]:
        return results_of(start_each(calls, lambda *args: executor.submit(job, *args)))
