"""Does gevent bill each call to its session, when greenlets do the work, in a program that it has patched?"""

from __future__ import annotations

import pickle
import subprocess
import sys
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

PROGRAM = """
from gevent import monkey
monkey.patch_all()

import os
import pickle
import sys
from test_gevent import TestGevent

way, job, calls = pickle.load(sys.stdin.buffer)
try:
    outcome = getattr(TestGevent(), way)(None, job, calls)
except LookupError as error:
    outcome = error
sys.stdout.buffer.write(pickle.dumps(outcome))
sys.stdout.flush()
os._exit(0)  # threads of gevent's that used a socket may crash while the interpreter ends, with us or without
"""


class TestGevent(Carries):
    """Each way runs in a program of its own, because pytest's process can't be patched."""

    main_way = "by_pool"

    @pytest.fixture
    def engine(self) -> None:
        """Greenlets have no workers."""

    def send(self, way: str, engine: None, job: Job, calls: Calls) -> list[Any]:
        command = [sys.executable, "-W", "error", "-c", PROGRAM]
        program = pickle.dumps((way, job, calls))
        done = subprocess.run(
            command,
            input=program,
            capture_output=True,
            cwd=Path(__file__).parent,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        outcome: list[Any] | LookupError = pickle.loads(done.stdout)
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
        """It has threads of the system, patched or not."""
        return by_executor(gevent.threadpool.ThreadPoolExecutor(4), job, calls)

    def by_patched_thread_pool(self, _: None, job: Job, calls: Calls) -> list[Any]:
        return by_executor(ThreadPoolExecutor(4), job, calls)

    def by_scopes_of_greenlets(self, _: None, job: Job, calls: Calls) -> list[Any]:
        pool = gevent.pool.Pool(20)

        @in_session("session_id")
        def work(session_id: str | None, *args: Any) -> Any:
            gevent.sleep()  # lets all others enter theirs
            return job(*args)

        return joined([pool.spawn(work, session_id, *args) for session_id, args in calls])

    def by_generators_across_greenlets(self, _: None, job: Job, calls: Calls) -> list[Any]:
        pool = gevent.pool.Pool(20)

        @in_session("session_id")
        def work(session_id: str | None, *args: Any) -> Iterator[Any]:
            yield gevent.sleep()
            yield job(*args)

        works = [work(session_id, *args) for session_id, args in calls]
        joined([pool.spawn(next, steps) for steps in works])
        return joined([pool.spawn(next, steps) for steps in works])

    def uncarried(self, _: None, job: Job, calls: Calls) -> list[Any]:
        return joined(start_each(calls, lambda *args: gevent.spawn(job, *args)))


def joined(greenlets: list[Any]) -> list[Any]:
    return [greenlet.get(timeout=60) for greenlet in greenlets]


def by_executor(executor: Executor, job: Job, calls: Calls) -> list[Any]:
    with SessionExecutor(executor) as pool:
        return results_of(start_each(calls, lambda *args: pool.submit(job, *args)))
