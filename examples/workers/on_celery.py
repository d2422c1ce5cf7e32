"""How does the batch job run on Celery? With a worker of its own, and a broker in a folder, or yours.

python examples/workers/on_celery.py
CELERY_BROKER_URL=redis://127.0.0.1:6379/0 python examples/workers/on_celery.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from batch import Agent, Batch, run
from celery import chord

from cagent_session import session_scope


@contextmanager
def a_worker() -> Iterator[None]:
    command = [sys.executable, "-m", "celery", "--app=tasks", "--quiet", "worker", "--pool=threads", "--loglevel=ERROR"]
    with subprocess.Popen(command, cwd=Path(__file__).parent, stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


def on_celery(agent: Agent, batch: Batch) -> dict[str, str]:
    with TemporaryDirectory() as folder:
        if "CELERY_BROKER_URL" not in os.environ:
            os.environ.update(CELERY_BROKER_URL="filesystem://", BATCH_FOLDER=folder)
        os.environ.setdefault("CELERY_RESULT_BACKEND", Path(folder).as_uri())
        from tasks import answer, summarize  # noqa: PLC0415 - it looks at the environment

        given = {"agent": asdict(agent)}
        summaries = {}
        with a_worker():
            for session_id, questions in batch.items():
                with session_scope(session_id):
                    summaries[session_id] = chord(answer.s(question, **given) for question in questions)(
                        summarize.s(**given)
                    )
            return {session_id: summary.get(timeout=120) for session_id, summary in summaries.items()}


if __name__ == "__main__":
    run(on_celery)
