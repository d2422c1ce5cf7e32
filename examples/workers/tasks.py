"""What does the batch job look like on Celery? This is what its workers import: celery -A tasks worker.

Celery finds its broker in $CELERY_BROKER_URL, and where results go in $CELERY_RESULT_BACKEND.
"""

from __future__ import annotations

import os

from batch import Agent
from celery import Celery

from cagent_session.integrations.celery import instrument

app = instrument(Celery("tasks"))
app.conf.result_chord_retry_interval = 0.1  # seconds until it is looked again whether all answers are there
if folder := os.environ.get("BATCH_FOLDER"):  # for a broker in a folder
    folders = dict.fromkeys(("data_folder_in", "data_folder_out", "control_folder"), folder)
    app.conf.broker_transport_options = {**folders, "polling_interval": 0.1}


@app.task
def answer(question: str, agent: dict[str, str]) -> str:
    return Agent(**agent).answer(question)


@app.task
def summarize(answers: list[str], agent: dict[str, str]) -> str:
    return Agent(**agent).summarize(answers)
