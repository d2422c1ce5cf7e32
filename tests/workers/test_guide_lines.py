"""Tests of the table in examples/workers/README.rst: each line makes the same calls as the loop."""

from __future__ import annotations

import ast
import asyncio
import functools
import inspect
import multiprocessing
import re
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dramatiq
import gevent.pool
import pytest
import ray
from celery import Celery, group
from celery.contrib.testing.worker import TestWorkController, start_worker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from joblib import Parallel, delayed
from jobs import ask
from queues import workers
from ray.util.multiprocessing import Pool
from temporalio import activity
from temporalio.testing import ActivityEnvironment

from cagent_session import SessionExecutor, carry_session, in_session, session_scope
from cagent_session.integrations.celery import instrument
from cagent_session.integrations.dramatiq import SessionMiddleware
from cagent_session.testing import ModelsGateway, Usage

GUIDE = Path(__file__).parents[2] / "examples" / "workers" / "README.rst"
LINES: dict[str, str] = dict(
    re.findall(r"\* - (.+)\n     - ``(.+)``", GUIDE.read_text(encoding="utf-8"))
)
ASKED = {
    "sess-1": ["Plan my day", "Plan my day", "And the next one"],
    "sess-2": ["Plan my day"],
    "sess-3": [],
}

NAMES = {
    "asyncio": asyncio,
    "carry_session": carry_session,
    "delayed": delayed,
    "group": group,
    "Parallel": Parallel,
    "Pool": Pool,
    "ray": ray,
    "SessionExecutor": SessionExecutor,
}

Ask = Callable[[str], Any]
Names = Iterator[dict[str, Any]]
"""Yields the names that a line uses besides NAMES, ``ask`` and ``questions``."""


def nothing(_request: pytest.FixtureRequest, _ask: Ask) -> Names:
    yield {}


def threads(_request: pytest.FixtureRequest, _ask: Ask) -> Names:
    with ThreadPoolExecutor(4) as pool:
        yield {"pool": pool}


def processes(start_method: str, _request: pytest.FixtureRequest, _ask: Ask) -> Names:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(start_method)) as pool:
        yield {"pool": pool}


def process_pool(start_method: str, _request: pytest.FixtureRequest, _ask: Ask) -> Names:
    with multiprocessing.get_context(start_method).Pool(2) as pool:
        yield {"pool": pool}
        pool.close()
        pool.join()


def greenlets(_request: pytest.FixtureRequest, _ask: Ask) -> Names:
    yield {"pool": gevent.pool.Pool(4)}


def dask(request: pytest.FixtureRequest, _ask: Ask) -> Names:
    yield {"client": request.getfixturevalue("dask_client")}


def on_ray(request: pytest.FixtureRequest, _ask: Ask) -> Names:
    request.getfixturevalue("started_ray")
    yield {"call": ray.remote(lambda job, *args: job(*args))}


def plain_celery() -> Celery:
    app = Celery("lines", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(
        task_default_queue=str(uuid.uuid4()), broker_transport_options={"polling_interval": 0.01}
    )
    return app


def celery(_request: pytest.FixtureRequest, ask: Ask) -> Names:
    app = instrument(plain_celery())

    def task(question: str) -> Any:
        return ask(question)

    published = app.task(task, name="ask", shared=False)
    with start_worker(app, pool="threads", concurrency=4, perform_ping_check=False):
        yield {"ask": published}


def rq(request: pytest.FixtureRequest, _ask: Ask) -> Names:
    with workers("rq-forking", request.getfixturevalue("redis_url")) as started:
        yield {
            "queue": started.queue,
            "answers_of": lambda jobs: [job.latest_result(60).return_value for job in jobs],
        }


def on_dramatiq(request: pytest.FixtureRequest, ask: Ask) -> Names:
    url = request.getfixturevalue("redis_url")
    broker: Any = RedisBroker(url=url, namespace="lines")  # type: ignore[no-untyped-call]
    backend = RedisBackend(url=f"{url}?socket_timeout=60")
    broker.add_middleware(Results(backend=backend))  # type: ignore[no-untyped-call]
    broker.add_middleware(SessionMiddleware())
    dramatiq.set_broker(broker)
    actor = dramatiq.actor(actor_name="ask", store_results=True)(ask)
    worker = dramatiq.Worker(broker, worker_timeout=10)
    worker.start()
    yield {"ask": actor, "group": dramatiq.group}
    worker.stop()
    broker.close()


def huey(request: pytest.FixtureRequest, _ask: Ask) -> Names:
    with workers("huey-thread", request.getfixturevalue("redis_url")) as started:
        yield {"call": started.huey.call}


def temporal(_request: pytest.FixtureRequest, ask: Ask) -> Names:
    def activity_of(question: str, session_id: str | None) -> Any:
        return ask(question)

    async def execute_activity(job: Ask, args: list[Any], **_: Any) -> Any:
        return ActivityEnvironment().run(job, *args)

    decorated = activity.defn(in_session("session_id")(activity_of))
    yield {"ask": decorated, "execute_activity": execute_activity, "opts": {}}


ENGINES = [
    ("A loop", nothing),
    ("``concurrent.futures``", threads),
    *(
        (name, functools.partial(started, start_method))
        for name, started in (
            ("``concurrent.futures``", processes),
            ("``multiprocessing``", process_pool),
        )
        for start_method in ("spawn", "forkserver")
    ),
    ("``asyncio``", nothing),
    ("gevent", greenlets),
    ("joblib", nothing),
    ("Dask", dask),
    ("Dask's executor", dask),
    ("Ray", on_ray),
    ("Ray's pool", on_ray),
    ("Celery", celery),
    ("Dramatiq", on_dramatiq),
    ("RQ", rq),
    ("Huey", huey),
    ("Temporal", temporal),
]


def test_every_line_has_a_test() -> None:
    assert LINES.keys() == {name for name, _ in ENGINES}


@pytest.mark.parametrize(("name", "engine"), ENGINES)
def test_a_line_makes_the_calls_of_the_loop(
    name: str,
    engine: Callable[[pytest.FixtureRequest, Ask], Names],
    request: pytest.FixtureRequest,
    gateway: ModelsGateway,
) -> None:
    ask_gateway = functools.partial(ask, gateway.url)
    with contextmanager(engine)(request, ask_gateway) as names:
        for session_id, questions in ASKED.items():
            with session_scope(session_id):
                known = {"ask": ask_gateway, "questions": questions, "session_id": session_id}
                answers = run(LINES[name], {**known, **names})
            assert list(answers) == [session_id] * len(questions)
    assert gateway.usage() == {"sess-1": Usage(3, 10, 16), "sess-2": Usage(1, 3, 5)}


def run(line: str, names: dict[str, Any]) -> Any:
    """Run *line*, which may use ``await``. Return its ``answers``, or those of its ``jobs``."""
    namespace = {**NAMES, **names}
    coroutine = eval(compile(line, GUIDE.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), namespace)
    if inspect.iscoroutine(coroutine):
        asyncio.run(coroutine)
    if "jobs" in namespace:
        return namespace["answers_of"](namespace["jobs"])
    return namespace["answers"]


class StartedInASession(TestWorkController):  # type: ignore[misc]
    def start(self) -> None:
        with session_scope("starter"):
            super().start()


@pytest.mark.parametrize(("pool", "session_id"), [("threads", None), ("solo", "starter")])
def test_without_the_line_a_task_of_celery_is_not_in_its_session(
    pool: str, session_id: str | None, gateway: ModelsGateway
) -> None:
    app = plain_celery()
    task = app.task(ask, name="ask", shared=False)
    options = {"WorkController": StartedInASession, "perform_ping_check": False}
    with start_worker(app, pool=pool, **options), session_scope("sess-1"):
        task.delay(gateway.url, "?").get(timeout=60)
    assert [call.session_id for call in gateway.calls] == [session_id]
