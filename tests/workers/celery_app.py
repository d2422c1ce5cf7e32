"""The app that the Celery workers of these tests run.

Its tasks call the gateway, or return the session that they are in.
"""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobs
from celery import Celery, Task, shared_task, signature
from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import worker_init, worker_process_init
from kombu.transport import filesystem

from cagent_session import current_session_id, session_scope
from cagent_session.integrations.celery import instrument

CONFIG = "CELERY_APP_CONFIG"  # an environment variable: the configuration of a worker's app


def make_app(**config: Any) -> Celery:
    """Return an app with the shared tasks of this module, and a task of its own."""
    app = instrument(Celery("workers", set_as_current=False))
    app.conf.update(config)
    app.task(jobs.ask, name="own")
    return app


def task(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return Celery's decorator, which has no types."""
    decorator: Callable[[Callable[..., Any]], Any] = shared_task(**options)
    return decorator


class Hooked(Task):  # type: ignore[misc]
    """A task with hooks, which Celery calls before and after it. They call the gateway, too."""

    def before_start(self, task_id: str, args: list[str], kwargs: dict[str, Any]) -> None:
        jobs.ask(args[0], "before_start")

    def on_success(
        self, retval: Any, task_id: str, args: list[str], kwargs: dict[str, Any]
    ) -> None:
        jobs.ask(args[0], "on_success")

    def after_return(
        self, status: str, retval: Any, task_id: str, args: list[str], *_: Any
    ) -> None:
        jobs.ask(args[0], "after_return")


def start_in_a_session(**_: Any) -> None:
    """Leave a scope open until the process ends. No task may run in it."""
    session_scope("starter").__enter__()


if CONFIG in os.environ:  # in a worker, not in the process of the tests
    worker_init.connect(start_in_a_session)
    worker_process_init.connect(start_in_a_session)


def put_in_one_step(
    channel: filesystem.Channel, queue: str, payload: dict[str, Any], **_: Any
) -> None:
    """Put a message in its folder in one step.

    kombu creates an empty file first. A worker that takes it too early fails.
    """
    path = Path(channel.data_folder_out, f"{time.monotonic_ns():020}_{uuid.uuid4()}.{queue}.msg")
    part = path.with_suffix(".part")
    part.write_text(json.dumps(payload), encoding="utf-8")
    part.rename(path)


filesystem.Channel._put = put_in_one_step  # type: ignore[method-assign, assignment]

ask = task()(jobs.ask)
ask_without_result = task(name="ask_without_result", ignore_result=True)(jobs.ask)
ask_hooked = task(name="ask_hooked", base=Hooked)(jobs.ask)
fail = task()(jobs.fail)


@task()
def return_session_id() -> str | None:
    return current_session_id()


@task(bind=True)
def envelope(self: Any) -> tuple[str | None, dict[str, Any]]:
    """Return the session, and the headers of the message."""
    return current_session_id(), self.request.headers or {}


@task()
def publish(canvas: dict[str, Any]) -> None:
    signature(canvas).delay()


@task(bind=True)
def replaced(self: Any, canvas: dict[str, Any]) -> None:
    self.replace(signature(canvas))


@task(bind=True)
def retried(self: Any, gateway: str) -> str | None:
    """Call the gateway three times. Each retry is requested inside another session's scope."""
    session_id = jobs.ask(gateway, "retried")
    if self.request.retries < 2:
        with session_scope("elsewhere"):
            self.retry(countdown=0)
    return session_id


@task(bind=True, autoretry_for=[LookupError], default_retry_delay=0)
def retried_on_errors(self: Any, gateway: str) -> str | None:
    session_id = jobs.ask(gateway, "retried on errors")
    if self.request.retries < 2:
        jobs.fail("again")
    return session_id


@task()
def old_errback(task_id: str, *, gateway: str) -> None:
    """Take only a task's ID. Celery publishes such an error callback as a task."""
    jobs.ask(gateway, "old errback")


@task()
def new_errback(request: Any, error: Exception, traceback: Any, gateway: str) -> None:
    """Take three arguments. Celery calls such an error callback where the task failed."""
    jobs.ask(gateway, "new errback")


@task()
def leave_a_scope_open() -> str | None:
    session_id = current_session_id()
    session_scope("elsewhere").__enter__()
    return session_id


@task()
def run_out_of_time(gateway: str) -> str | None:
    try:
        with session_scope("elsewhere"):
            while True:
                signal.pause()
    except SoftTimeLimitExceeded:
        return jobs.ask(gateway, "out of time")


@task(acks_late=True, reject_on_worker_lost=True)
def die_once(gateway: str, mark: str) -> str | None:
    """Call the gateway. If there is no file *mark*, create it and kill the process."""
    session_id = jobs.ask(gateway, "Am I still there?")
    if not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return session_id


app = make_app(**json.loads(os.environ.get(CONFIG, "{}")))
app.set_default()
