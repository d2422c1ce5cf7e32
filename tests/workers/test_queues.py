"""Tests of RQ, Dramatiq and Huey: real workers on Redis run each job in its own session."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import dramatiq
import pytest
import rq
from jobs import IN_SUB_SUB_SESSION, ask, lines, sub_sub_session
from queue_app import (
    ask_after_job,
    ask_and_leave_a_scope_open,
    ask_in_session,
    ask_until_the_third_time,
)
from queues import QUEUES, workers
from rq.serializers import JSONSerializer

from cagent_session import carry_session, session_scope
from cagent_session.testing import ModelsGateway

SECONDS = 180  # after this time a test fails


def on(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("queue", names, indirect=True, scope="module")


everywhere = on(*QUEUES)


@pytest.fixture(scope="module")
def queue(request: pytest.FixtureRequest, redis_url: str) -> Iterator[Any]:
    """Return a queue whose workers are running. They were started in a session."""
    with workers(request.param, redis_url) as queue:
        yield queue


def calls_by_session(gateway: ModelsGateway, count: int) -> Counter[str | None]:
    """Wait until *count* calls are answered. Return the number of calls of each session."""
    deadline = time.monotonic() + SECONDS
    while sum(call.status == 200 for call in gateway.calls) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    return Counter(call.session_id for call in gateway.calls)


@everywhere
def test_workers_keep_hundreds_of_jobs_of_many_sessions_apart(
    queue: Any, gateway: ModelsGateway
) -> None:
    sessions = [*(f"sess-{number}" for number in range(20)), None] * 10
    random.Random(0).shuffle(sessions)
    for session_id in sessions:
        with session_scope(session_id):
            queue.send(ask, gateway.url, str(session_id))
    assert calls_by_session(gateway, len(sessions)) == Counter(sessions)
    assert all(
        call.json["messages"][0]["content"] == str(call.session_id) for call in gateway.calls
    )


@pytest.mark.parametrize(
    ("queue", "session_id"),
    [(name, "starter" if name == "rq-simple" else None) for name in QUEUES],
    indirect=["queue"],
    scope="module",
)
def test_without_the_line_a_job_is_not_in_its_session(
    queue: Any, session_id: str | None, gateway: ModelsGateway
) -> None:
    """It is in none. Only RQ's SimpleWorker runs it in the session in which it was started."""
    with session_scope("sess-1"):
        for _ in range(8):
            queue.send(ask, gateway.url, "?")
            queue.send_without_the_line(ask, gateway.url, "?")
    assert calls_by_session(gateway, 16) == {"sess-1": 8, session_id: 8}


@everywhere
def test_a_retry_is_in_the_session_of_its_job(
    queue: Any, gateway: ModelsGateway, tmp_path: Path
) -> None:
    for session_id in ("sess-1", None, "sess-2"):
        attempts = str(tmp_path / str(session_id))
        with session_scope(session_id):
            queue.send(ask_until_the_third_time, gateway.url, "?", attempts)
    assert calls_by_session(gateway, 9) == {"sess-1": 3, None: 3, "sess-2": 3}


@everywhere
def test_a_job_of_a_sub_session_and_its_retries_make_their_calls_there(
    queue: Any, gateway: ModelsGateway, tmp_path: Path
) -> None:
    with sub_sub_session():
        queue.send(ask_until_the_third_time, gateway.url, "?", str(tmp_path / "attempts"))
    calls_by_session(gateway, 3)
    assert lines(gateway) == {IN_SUB_SUB_SESSION}


@everywhere
def test_a_scope_that_a_job_leaves_open_ends_with_the_job(
    queue: Any, gateway: ModelsGateway
) -> None:
    with session_scope("sess-1"):
        for _ in range(16):
            queue.send(ask_and_leave_a_scope_open, gateway.url, "?")
    calls_by_session(gateway, 16)
    for session_id in ("sess-2", None):
        with session_scope(session_id):
            for _ in range(16):
                queue.send(ask, gateway.url, "?")
    assert calls_by_session(gateway, 48) == {"sess-1": 16, "sess-2": 16, None: 16}


@on("dramatiq-threads")
def test_whatever_starts_an_actor_of_dramatiq_it_is_in_the_session(
    queue: Any, gateway: ModelsGateway
) -> None:
    actors, compose = queue.broker.actors, cast("Any", dramatiq.composition)  # it has no types
    ask, ask_asynchronously = actors["ask"], actors["ask_asynchronously"]
    asked: dict[str, Any] = {"args": (gateway.url, "?"), "pipe_ignore": True}
    for session_id in ("sess-1", None, "sess-2"):
        message = ask.message_with_options(**asked)
        asking = compose.group([message, message], broker=queue.broker)
        asking.add_completion_callback(message)
        with session_scope(session_id):
            ask_asynchronously.send(*asked["args"])
            ask.send_with_options(**asked, delay=10)
            compose.pipeline([message, message], broker=queue.broker).run()
            asking.run()
    assert calls_by_session(gateway, 21) == {"sess-1": 7, None: 7, "sess-2": 7}


@on("rq-forking", "rq-simple")
def test_callbacks_of_rq_must_be_decorated(queue: Any, gateway: ModelsGateway) -> None:
    """A callback runs in no session, and may not be a carried function."""
    with session_scope("sess-1"):
        with pytest.raises(ValueError, match="must be a string or function"):
            rq.Callback(carry_session(ask_after_job))
        queue.queue.enqueue(
            carry_session(ask),
            gateway.url,
            "?",
            meta={"session_id": "sess-1"},
            on_success=rq.Callback(ask_after_job),
        )
    assert calls_by_session(gateway, 2) == {"sess-1": 2}


@on("rq-simple")
def test_rqs_json_serializer_needs_a_decorated_function(queue: Any, gateway: ModelsGateway) -> None:
    connection = queue.queue.connection
    sync = rq.Queue(connection=connection, serializer=JSONSerializer, is_async=False)
    with pytest.raises(TypeError, match="not JSON serializable"):
        sync.enqueue(carry_session(ask), gateway.url, "?")
    sync.enqueue(ask_in_session, gateway.url, "?", "sess-1")
    assert calls_by_session(gateway, 1) == {"sess-1": 1}


@on("huey-thread")
def test_tasks_of_huey_can_be_decorated_and_follow_each_other(
    queue: Any, gateway: ModelsGateway
) -> None:
    huey = queue.huey
    huey.ask_in_session(gateway.url, "?", "sess-1")
    with session_scope("sess-2"):
        first = huey.call.s(carry_session(ask), gateway.url, "?")
        huey.enqueue(first.then(huey.call, carry_session(ask), gateway.url))
    assert calls_by_session(gateway, 3) == {"sess-1": 1, "sess-2": 2}
