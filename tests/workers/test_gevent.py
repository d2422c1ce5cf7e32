"""Tests of gevent: in a patched program, greenlets call the gateway in their session."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gevent
import gevent.pool
import gevent.threadpool
import pytest
from engines import Calls, Carries, Job, map_each, results_of, start_each

from cagent_session import SessionExecutor, carry_session, in_session
from cagent_session.context import current_attribution

PROGRAM = """
from gevent import monkey
monkey.patch_all()

import pickle
import sys
from cagent_session.context import carried_scope
from test_gevent import TestGevent

while True:
    attribution, way, job, calls = pickle.load(sys.stdin.buffer)
    try:
        with carried_scope(attribution):
            outcome = getattr(TestGevent(), way)(None, job, calls)
    except LookupError as error:
        outcome = error
    pickle.dump(outcome, sys.stdout.buffer)
    sys.stdout.flush()
"""


class TestGevent(Carries):
    """All jobs run in another program, because pytest's own process can't be patched."""

    main_way = "by_pool"

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> Iterator[subprocess.Popen[bytes]]:
        pipe = subprocess.PIPE
        command = [sys.executable, "-W", "error", "-c", PROGRAM]
        with subprocess.Popen(
            command, stdin=pipe, stdout=pipe, cwd=Path(__file__).parent
        ) as program:
            yield program
            assert program.poll() is None
            program.kill()

    def send(self, way: str, engine: subprocess.Popen[bytes], job: Job, calls: Calls) -> list[Any]:
        assert engine.stdin
        assert engine.stdout
        pickle.dump((current_attribution(), way, job, calls), engine.stdin)
        engine.stdin.flush()
        deadline = threading.Timer(120, engine.kill)  # the load below then fails
        deadline.start()
        outcome: list[Any] | LookupError = pickle.load(engine.stdout)
        deadline.cancel()
        if isinstance(outcome, LookupError):
            raise outcome
        return outcome

    def by_spawn(self, _: None, job: Job, calls: Calls) -> list[Any]:
        return joined(start_each(calls, lambda *args: gevent.spawn(carry_session(job), *args)))

    def by_pool(self, _: None, job: Job, calls: Calls) -> list[Any]:
        pool = gevent.pool.Pool(20)
        return joined(start_each(calls, lambda *args: pool.spawn(carry_session(job), *args)))

    def by_map(self, _: None, job: Job, calls: Calls) -> list[Any]:
        pool = gevent.pool.Pool(20)

        def start(*columns: tuple[Any, ...]) -> Iterator[Any]:
            carried = carry_session(job)
            results: Iterator[Any] = pool.imap(
                lambda args: carried(*args), zip(*columns, strict=True)
            )
            return results

        return map_each(calls, start)

    def by_thread_pool(self, _: None, job: Job, calls: Calls) -> list[Any]:
        """Use a pool of real threads. gevent's patches do not change it."""
        return by_executor(gevent.threadpool.ThreadPoolExecutor(4), job, calls)

    def by_patched_thread_pool(self, _: None, job: Job, calls: Calls) -> list[Any]:
        return by_executor(ThreadPoolExecutor(4), job, calls)

    def by_scopes_of_greenlets(self, _: None, job: Job, calls: Calls) -> list[Any]:
        pool = gevent.pool.Pool(20)

        @in_session("session_id")
        def work(session_id: str | None, *args: Any) -> Any:
            gevent.sleep()  # lets all others enter their scopes
            return job(*args)

        carried = carry_session(work)  # only a sub-session has a line to carry
        return joined([pool.spawn(carried, session_id, *args) for session_id, args in calls])

    def by_generators_across_greenlets(self, _: None, job: Job, calls: Calls) -> list[Any]:
        pool = gevent.pool.Pool(20)

        @in_session("session_id")
        def work(session_id: str | None, *args: Any) -> Iterator[Any]:
            yield gevent.sleep()
            yield job(*args)

        works = [work(session_id, *args) for session_id, args in calls]
        first_step: Job = carry_session(next)
        joined([pool.spawn(first_step, steps) for steps in works])
        return joined([pool.spawn(next, steps) for steps in works])

    def uncarried(self, _: None, job: Job, calls: Calls) -> list[Any]:
        return joined(start_each(calls, lambda *args: gevent.spawn(job, *args)))


def joined(greenlets: list[Any]) -> list[Any]:
    return [greenlet.get(timeout=60) for greenlet in greenlets]


def by_executor(executor: Executor, job: Job, calls: Calls) -> list[Any]:
    with SessionExecutor(executor) as pool:
        return results_of(start_each(calls, lambda *args: pool.submit(job, *args)))
