"""RQ, Dramatiq and Huey: how the tests start real workers, and how they send jobs to them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import rq
from queue_app import REDIS, make_broker, make_huey
from redis import Redis

from cagent_session import carry_session

BIN = Path(sys.executable).parent
HERE = str(Path(__file__).parent)

Job = Callable[..., Any]


class Queue(Protocol):
    def send(self, job: Job, *args: Any) -> None:
        """Send a job as the guide says."""

    def send_without_the_line(self, job: Job, *args: Any) -> None:
        """Send a job as a program does that does not use this library."""


class Rq:
    def __init__(self, url: str) -> None:
        # The default of 5 seconds would end latest_result(60), too.
        self.queue = rq.Queue(connection=Redis.from_url(url, socket_timeout=60))

    def send(self, job: Job, *args: Any) -> None:
        self.queue.enqueue(carry_session(job), *args, retry=rq.Retry(max=2))

    def send_without_the_line(self, job: Job, *args: Any) -> None:
        self.queue.enqueue(job, *args)


class Dramatiq:
    def __init__(self, url: str) -> None:
        self.broker = make_broker(url)
        self.plain_broker = make_broker(url, carries=False)

    def send(self, job: Job, *args: Any) -> None:
        self.broker.get_actor(job.__name__).send(*args)

    def send_without_the_line(self, job: Job, *args: Any) -> None:
        self.plain_broker.get_actor(job.__name__).send(*args)


class Huey:
    def __init__(self, url: str) -> None:
        self.huey = make_huey(url)

    def send(self, job: Job, *args: Any) -> None:
        self.huey.call(carry_session(job), *args)

    def send_without_the_line(self, job: Job, *args: Any) -> None:
        self.huey.call(job, *args)


# RQ's worker imports the app, so that its forks need not import all of it again.
RQ = ["-c", "import queue_app; from rq.cli import main; main()", "worker", "--quiet"]
DRAMATIQ = ["queue_app", "--path", HERE, "--processes=2", "--threads=4"]
HUEY = [str(BIN / "huey_consumer"), "queue_app.huey", "--quiet", "--workers=4", "--worker-type"]
QUEUES: dict[str, tuple[Callable[[str], Queue], list[str]]] = {
    "rq-forking": (Rq, RQ),
    "rq-simple": (Rq, [*RQ, "--worker-class=rq.worker.SimpleWorker"]),
    "dramatiq-threads": (Dramatiq, [str(BIN / "dramatiq"), *DRAMATIQ]),
    "dramatiq-gevent": (Dramatiq, [str(BIN / "dramatiq-gevent"), *DRAMATIQ]),
    "huey-thread": (Huey, [*HUEY, "thread"]),
    "huey-process": (Huey, [*HUEY, "process"]),
    "huey-greenlet": (Huey, ["-m", "gevent.monkey", *HUEY, "greenlet"]),
}


@contextmanager
def workers(name: str, redis_url: str) -> Iterator[Any]:
    """Run the workers of a queue, each queue in a database of its own. Yield the queue."""
    url = f"{redis_url.removesuffix('0')}{[*QUEUES].index(name)}"
    queue, command = QUEUES[name]
    variables = {"PYTHONPATH": HERE, REDIS: url, "RQ_REDIS_URL": url}
    process = subprocess.Popen([sys.executable, *command], env={**os.environ, **variables})
    try:
        yield queue(url)
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
