"""The tests that all engines share: a carried job calls the gateway in its session."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

import pytest
from jobs import IN_SUB_SUB_SESSION, ask, fail, lines, sub_sub_session

from cagent_session import SessionExecutor, carry_session, current_session_id, session_scope
from cagent_session.testing import ModelsGateway, Usage

Job = Callable[..., Any]
Calls = Sequence[tuple[str | None, tuple[Any, ...]]]
"""The calls of one job. Each is a session ID and the job's arguments."""
T = TypeVar("T")


def start_each(calls: Calls, start: Callable[..., T]) -> list[T]:
    """Call *start* with the arguments of each call, in its session. Return the results."""
    started = []
    for session_id, arguments in calls:
        with session_scope(session_id):
            started.append(start(*arguments))
    return started


def map_each(calls: Calls, start: Callable[..., Iterable[T]]) -> list[T]:
    """Call *start* once in each session. It takes its arguments as ``map`` does.

    No result is read before the calls of all sessions are started.
    """
    rows: dict[str | None, list[tuple[Any, ...]]] = {}
    for session_id, arguments in calls:
        rows.setdefault(session_id, []).append(arguments)
    maps = start_each(
        [(session_id, tuple(zip(*rows[session_id], strict=True))) for session_id in rows], start
    )
    return list(itertools.chain.from_iterable(maps))


def results_of(futures: Iterable[Future[T]]) -> list[T]:
    return [future.result(180) for future in futures]


def start_workers(executor: Executor) -> None:
    """Start the workers of *executor* in a session. They must not keep this session."""
    with session_scope("starter"):
        results_of([executor.submit(current_session_id) for _ in range(8)])


class Carries:
    """An engine runs each job in the session in which it was sent.

    Each subclass tests one engine. Its fixture ``engine`` starts the workers. Where possible, it
    starts them in a session that no job has.

    Each method whose name begins with ``by_`` is a way to send jobs. It takes the engine, a job and
    the job's calls, and returns the results. ``main_way`` is the name of one of these methods: the
    tests make a thousand calls with it, and a hundred calls with each of the others.
    """

    main_way: str

    def uncarried(self, engine: Any, job: Job, calls: Calls, /) -> list[Any]:
        """Send a job as a program that does not use this library would."""
        raise NotImplementedError

    def raised_in_job(self, error: BaseException) -> BaseException:
        """Return the error that the job raised. Some engines raise a wrapper of it."""
        return error

    def send(self, way: str, engine: Any, job: Job, calls: Calls) -> list[Any]:
        results: list[Any] = getattr(self, way)(engine, job, calls)
        return results

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run a test that takes a ``way`` once for each method of its class named ``by_...``."""
        if "way" in metafunc.fixturenames:
            metafunc.parametrize(
                "way", [name for name in dir(metafunc.cls) if name.startswith("by_")]
            )

    def test_each_call_reaches_the_gateway_in_its_own_session(
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

    def test_it_makes_the_same_calls_as_a_loop(
        self, way: str, engine: Any, gateway: ModelsGateway
    ) -> None:
        """Some questions are the same: in one session, in two sessions, and in none."""
        asked = ["sess-1", "sess-1", "sess-2", None, "sess-1", None]
        calls = [(session_id, (gateway.url, "Plan my day")) for session_id in asked]
        calls.append(("sess-2", (gateway.url, "And the day after")))
        start_each(calls, ask)
        usage = gateway.usage()
        assert usage == {
            "sess-1": Usage(3, 9, 15),
            "sess-2": Usage(2, 7, 11),
            None: Usage(2, 6, 10),
        }
        gateway.clear()
        self.send(way, engine, ask, calls)
        assert gateway.usage() == usage

    def test_a_job_of_a_sub_session_makes_its_calls_there(
        self, way: str, engine: Any, gateway: ModelsGateway
    ) -> None:
        with sub_sub_session():
            assert self.send(way, engine, ask, [("sub-2", (gateway.url, "?"))]) == ["sub-2"]
        assert lines(gateway) == {IN_SUB_SUB_SESSION}

    def test_a_job_that_is_not_carried_is_in_no_session(
        self, way: str, engine: Any, gateway: ModelsGateway
    ) -> None:
        """It is not in an earlier job's session, nor in the session that started the workers."""
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
