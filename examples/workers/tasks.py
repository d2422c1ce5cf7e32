"""The Celery tasks of the batch job. Workers import this module: celery --app=tasks worker."""

from __future__ import annotations

from batch import Agent
from celery import Celery

from cagent_session.integrations.celery import instrument

app = instrument(Celery("tasks"))
# A queue of its own: if others use the broker, the worker must not take their tasks.
app.conf.task_default_queue = "cagent-session-batch"


@app.task
def answer(question: str, agent: dict[str, str]) -> str:
    return Agent(**agent).answer(question)


@app.task
def summarize(answers: list[str], agent: dict[str, str]) -> str:
    return Agent(**agent).summarize(answers)
