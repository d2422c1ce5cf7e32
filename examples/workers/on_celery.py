"""The batch job on Celery.

It starts a worker: in this process, with a broker in memory, or as a process for your broker.

python examples/workers/on_celery.py
CELERY_BROKER_URL=redis://127.0.0.1:6379/0 python examples/workers/on_celery.py

Redis needs pip install "celery[redis]". Results go to $CELERY_RESULT_BACKEND, or else to the
broker.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from batch import Agent, Batch, run
from celery import chord
from celery.contrib.testing.worker import start_worker
from tasks import answer, app, summarize

from cagent_session import session_scope


@contextmanager
def worker_process() -> Iterator[None]:
    os.environ.setdefault("CELERY_RESULT_BACKEND", os.environ["CELERY_BROKER_URL"])
    options = ["--app=tasks", "--quiet", "worker", "--pool=threads", "--loglevel=ERROR"]
    command = [sys.executable, "-m", "celery", *options]
    with subprocess.Popen(command, cwd=Path(__file__).parent, stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


def worker_thread() -> AbstractContextManager[Any]:
    app.conf.update(broker_url="memory://", broker_transport_options={"polling_interval": 0.02})
    app.conf.result_backend = "cache+memory://"
    worker: AbstractContextManager[Any] = start_worker(
        app, concurrency=4, pool="threads", perform_ping_check=False
    )
    return worker


def on_celery(agent: Agent, batch: Batch) -> dict[str, str]:
    given = {"agent": asdict(agent)}
    summaries = {}
    with worker_process() if os.environ.get("CELERY_BROKER_URL") else worker_thread():
        for session_id, questions in batch.items():
            with session_scope(session_id):
                answers = [answer.s(question, **given) for question in questions]
                summaries[session_id] = chord(answers)(summarize.s(**given))
        return {session_id: summary.get(timeout=120) for session_id, summary in summaries.items()}


if __name__ == "__main__":
    run(on_celery)
