"""Tests of APScheduler 3: its schedulers on asyncio and on threads, and jobs in a database."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.schedulers.background import BackgroundScheduler
from guide_lines import asked_in, evaluate, execute
from jobs import ask

from cagent_session import carry_session, session_scope
from cagent_session.testing import ModelsGateway

SESSIONS = ["sess-1", "sess-2", "sess-3"]
Add = Callable[[Any, Callable[..., Any], str], object]
"""Adds a function that takes a question as a job to a scheduler."""
MakeJob = Callable[[ModelsGateway, asyncio.Queue[str]], Callable[[str], Any]]
"""Returns a job that asks the gateway, and then puts its question into the queue."""


def add_plain(scheduler: Any, job: Callable[..., Any], question: str) -> None:
    scheduler.add_job(job, args=[question])


def add_on_asyncio(scheduler: Any, job: Callable[..., Any], question: str) -> None:
    execute("APScheduler 3 on ``asyncio``", scheduler=scheduler, ask=job, question=question)


def add_on_threads(scheduler: Any, job: Callable[..., Any], question: str) -> None:
    execute("APScheduler 3 on threads", scheduler=scheduler, ask=job, question=question)


def coroutine_job(gateway: ModelsGateway, done: asyncio.Queue[str]) -> Callable[[str], Any]:
    async def job(question: str) -> None:
        await asyncio.to_thread(ask, gateway.url, question)
        done.put_nowait(question)

    return job


def thread_job(gateway: ModelsGateway, done: asyncio.Queue[str]) -> Callable[[str], Any]:
    """Return a plain function. A scheduler on asyncio runs it in a thread."""
    loop = asyncio.get_running_loop()

    def job(question: str) -> None:
        ask(gateway.url, question)
        loop.call_soon_threadsafe(done.put_nowait, question)

    return job


@pytest.mark.parametrize("starter", ["sess-1", None])
@pytest.mark.parametrize(
    ("make_job", "add", "sessions"),
    [
        (coroutine_job, add_plain, ["sess-1", "sess-1", "sess-1"]),
        (coroutine_job, add_on_asyncio, SESSIONS),
        (thread_job, add_plain, [None, None, None]),
        (thread_job, add_on_asyncio, SESSIONS),
    ],
)
def test_jobs_on_asyncio(
    make_job: MakeJob,
    add: Add,
    sessions: list[str | None],
    starter: str | None,
    models_gateway: ModelsGateway,
) -> None:
    """If the scheduler was started in no session, the first job still wakes it in its own."""

    async def main() -> None:
        done = asyncio.Queue[str]()
        scheduler = AsyncIOScheduler(job_defaults={"misfire_grace_time": None})
        with session_scope("sess-1"), session_scope(starter):
            scheduler.start()
        if starter is None:
            await asyncio.sleep(0)  # now it waits for jobs
        for session_id in SESSIONS:
            with session_scope(session_id):
                add(scheduler, make_job(models_gateway, done), session_id)
        for _ in SESSIONS:
            await asyncio.wait_for(done.get(), 30)
        await stop(scheduler)

    asyncio.run(main())
    assert asked_in(models_gateway) == dict.fromkeys(zip(SESSIONS, sessions, strict=True), 1)


@pytest.mark.parametrize(
    ("wrap", "session"), [(lambda job: job, "sess-2"), (carry_session, "sess-1")]
)
def test_a_coroutine_job_that_waits_on_asyncio(
    wrap: Callable[[Any], Any], session: str, models_gateway: ModelsGateway
) -> None:
    """When another session adds a job, the timer of the waiting job is set in that session."""

    async def main() -> None:
        done = asyncio.Queue[str]()
        job = coroutine_job(models_gateway, done)
        scheduler = AsyncIOScheduler(job_defaults={"misfire_grace_time": None})
        scheduler.start()
        later = datetime.now(timezone.utc) + timedelta(seconds=0.5)
        with session_scope("sess-1"):
            scheduler.add_job(wrap(job), "date", run_date=later, args=["later"])
        with session_scope("sess-2"):
            scheduler.add_job(job, args=["now"])
        assert {await asyncio.wait_for(done.get(), 30) for _ in range(2)} == {"now", "later"}
        await stop(scheduler)

    asyncio.run(main())
    assert asked_in(models_gateway)["later", session] == 1


async def stop(scheduler: AsyncIOScheduler) -> None:
    scheduler.shutdown()
    await asyncio.sleep(0)  # it stops in a callback of the loop


finished = threading.Semaphore(0)
"""Counts the jobs that threads have finished."""


def wait_for_jobs(jobs: int) -> None:
    for _ in range(jobs):
        assert finished.acquire(timeout=30)


@contextmanager
def running(**options: Any) -> Iterator[BackgroundScheduler]:
    scheduler = BackgroundScheduler(job_defaults={"misfire_grace_time": None}, **options)
    with session_scope("starter"):
        scheduler.start()
    yield scheduler
    # If it is shut down before it has removed a job that ran, its thread dies of a JobLookupError.
    deadline = time.monotonic() + 30
    while any(job.next_run_time for job in scheduler.get_jobs()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    scheduler.shutdown()


@pytest.mark.parametrize(
    ("add", "sessions"), [(add_plain, [None, None, None]), (add_on_threads, SESSIONS)]
)
def test_jobs_on_threads(
    add: Add, sessions: list[str | None], models_gateway: ModelsGateway
) -> None:
    def job(question: str) -> None:
        ask(models_gateway.url, question)
        finished.release()

    with running() as scheduler:
        for session_id in SESSIONS:
            with session_scope(session_id):
                add(scheduler, job, session_id)
        wait_for_jobs(3)
    assert asked_in(models_gateway) == dict.fromkeys(zip(SESSIONS, sessions, strict=True), 1)


def plain_job(session_id: str, gateway: str) -> None:
    """Ask the gateway. A store keeps only the name of this function, and the arguments."""
    ask(gateway, session_id)
    finished.release()


@evaluate("APScheduler 3 with a persistent store")
def decorated_job(session_id: str, gateway: str) -> None:
    plain_job(session_id, gateway)


def stored(tmp_path: Path) -> dict[str, SQLAlchemyJobStore]:
    return {"default": SQLAlchemyJobStore(f"sqlite:///{tmp_path}/jobs.sqlite")}


@pytest.mark.parametrize(
    ("job", "sessions"), [(plain_job, [None, None, None]), (decorated_job, SESSIONS)]
)
def test_jobs_that_a_store_keeps_for_the_next_scheduler(
    job: Callable[..., None],
    sessions: list[str | None],
    tmp_path: Path,
    models_gateway: ModelsGateway,
) -> None:
    with running(jobstores=stored(tmp_path)) as scheduler:
        for session_id in SESSIONS:
            with session_scope(session_id):
                arguments = [session_id, models_gateway.url]
                scheduler.add_job(job, args=arguments, next_run_time=None)  # a paused job
    with running(jobstores=stored(tmp_path)) as scheduler:
        for paused_job in scheduler.get_jobs():
            paused_job.resume()
        wait_for_jobs(3)
    assert asked_in(models_gateway) == dict.fromkeys(zip(SESSIONS, sessions, strict=True), 1)


async def async_job(session_id: str, gateway: str) -> None: ...


@pytest.mark.parametrize("job", [plain_job, async_job])
def test_a_store_refuses_a_carried_job(job: Callable[..., Any], tmp_path: Path) -> None:
    """It would keep only the job's name. When the job is due, it would not find the session."""
    with running(jobstores=stored(tmp_path)) as scheduler, session_scope("sess-1"):
        with pytest.raises(ValueError, match=r"carry_session\(.* could not be determined"):
            scheduler.add_job(carry_session(job), args=["sess-1", "https://gateway.example"])
        assert scheduler.get_jobs() == []
