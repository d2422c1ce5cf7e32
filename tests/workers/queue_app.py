"""The jobs of the tests of RQ, Dramatiq and Huey, and what the workers of these engines import."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import dramatiq
from dramatiq import Broker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import AsyncIO, GroupCallbacks
from dramatiq.rate_limits.backends import RedisBackend
from huey import RedisHuey
from jobs import ask

from cagent_session import in_session, session_scope
from cagent_session.integrations.dramatiq import SessionMiddleware

REDIS = "QUEUE_APP_REDIS"  # an environment variable of a worker: the URL of its Redis


def ask_until_the_third_time(gateway: str, question: str, attempts: str) -> None:
    """Call the gateway, and fail twice. The file *attempts* counts."""
    with Path(attempts).open("a", encoding="utf-8") as file:
        file.write("x")
    ask(gateway, question)
    if Path(attempts).stat().st_size < 3:
        raise LookupError("try again")


def ask_and_leave_a_scope_open(gateway: str, question: str) -> None:
    ask(gateway, question)
    session_scope("left-open").__enter__()


@in_session("session_id")
def ask_in_session(gateway: str, question: str, session_id: str | None) -> None:
    ask(gateway, question)


@in_session(lambda job, *_: job.meta["session_id"])
def ask_after_job(job: Any, *_: Any) -> None:
    """Call the gateway in a callback of RQ."""
    ask(job.args[0], "callback")


async def ask_asynchronously(gateway: str, question: str) -> None:
    await asyncio.to_thread(ask, gateway, question)


def make_broker(url: str, *, carries: bool = True) -> Broker:
    """Return a broker of Dramatiq with actors. It has our middleware if it *carries*."""
    broker = RedisBroker(url=url)  # type: ignore[no-untyped-call]
    broker.add_middleware(AsyncIO())
    broker.add_middleware(GroupCallbacks(RedisBackend(url=url)))
    if carries:
        broker.add_middleware(SessionMiddleware())
    for job in (ask, ask_until_the_third_time, ask_and_leave_a_scope_open, ask_asynchronously):
        dramatiq.actor(broker=broker, max_retries=2, min_backoff=1)(job)
    return broker


def make_huey(url: str) -> Any:
    """Return a Huey. It has its tasks as attributes."""
    huey: Any = RedisHuey(url=url, store_none=True)  # else a test that fails would wait for None
    huey.call = huey.task(retries=2, name="call")(lambda job, *args: job(*args))
    huey.ask_in_session = huey.task()(ask_in_session)
    return huey


if REDIS in os.environ:  # in a worker, not in the process of the tests
    dramatiq.set_broker(make_broker(os.environ[REDIS]))
    huey = make_huey(os.environ[REDIS])
    session_scope("starter").__enter__()  # no job may run in it
