"""What does the batch job look like on Celery? This is what its workers import: celery --app=tasks worker."""

from __future__ import annotations

from batch import Agent
from celery import Celery

from cagent_session.integrations.celery import instrument

app = instrument(Celery("tasks"))
app.conf.task_default_queue = (
    "cagent-session-batch"  # a broker may be shared: nobody else's tasks are taken
)


@app.task
def answer(question: str, agent: dict[str, str]) -> str:
    return Agent(**agent).answer(question)


@app.task
def summarize(answers: list[str], agent: dict[str, str]) -> str:
    return Agent(**agent).summarize(answers)
