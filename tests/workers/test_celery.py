"""Tests of Celery: tasks run in the session in which they were published.

The tasks run on real workers, and eagerly in the process of the tests.
"""

from __future__ import annotations

import gc
import json
import os
import random
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

import kombu.pools
import pytest
from celery import Celery, chain, chord, group, signature
from celery.backends.redis import RedisBackend
from celery_app import (
    CONFIG,
    ask,
    ask_hooked,
    ask_without_result,
    die_once,
    envelope,
    fail,
    leave_a_scope_open,
    make_app,
    new_errback,
    old_errback,
    publish,
    replaced,
    retried,
    retried_on_errors,
    return_session_id,
    run_out_of_time,
)
from jobs import IN_SUB_SUB_SESSION, lines, sub_sub_session

from cagent_session import SESSION_ID_HEADER, current_session_id, session_scope
from cagent_session.integrations.celery import instrument, uninstrument
from cagent_session.testing import ModelsGateway

SECONDS = 180  # after this time a test fails
PREFORK = ["redis-prefork", "filesystem-prefork"]
WORKERS = [*PREFORK, "redis-threads", "redis-gevent", "redis-solo"]
QUICK = {
    "result_chord_retry_interval": 0.05,
    "worker_lost_wait": 0.1,
    "broker_connection_retry_on_startup": True,
}


class Engine(NamedTuple):
    """An app, the configuration of its worker and the worker's log. An eager app has no worker."""

    app: Celery
    config: dict[str, Any]
    log: Path


def on(*engines: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("engine", engines, indirect=True, scope="module")


on_prefork, on_workers, everywhere = on(*PREFORK), on(*WORKERS), on(*WORKERS, "eager")


@pytest.fixture(scope="module")
def workers_to_wait_for() -> Iterator[ExitStack]:
    """Return a stack that waits for the workers at the end of the module.

    A worker may take seconds to end. Meanwhile, the next one runs.
    """
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def engine(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    workers_to_wait_for: ExitStack,
) -> Iterator[Engine]:
    broker, _, pool = request.param.partition("-")
    folder = tmp_path_factory.mktemp(request.param)
    if broker == "redis":  # each worker has a database of its own
        redis = request.getfixturevalue("redis_url").removesuffix("0")
        url = f"{redis}{WORKERS.index(request.param)}"
        where: dict[str, Any] = {"broker_url": url, "result_backend": url}
    elif broker == "filesystem":
        (folder / "processed").mkdir()
        folders = ("data_folder_in", "data_folder_out", "control_folder")
        where = {"broker_url": "filesystem://", "result_backend": folder.as_uri()}
        where["broker_transport_options"] = {
            **dict.fromkeys(folders, str(folder)),
            "store_processed": True,
            "processed_folder": str(folder / "processed"),
            "polling_interval": 0.01,
        }
    else:
        where = {"broker_url": "memory://", "task_always_eager": True}
    config = QUICK | where
    with closing(make_app(**config)) as app:
        app.set_current()
        engine = Engine(app, config, folder / "log")
        if not pool:
            yield engine
            return
        options = ["--concurrency=2", "--without-gossip", "--without-heartbeat", "--without-mingle"]
        process = start("worker", f"--pool={pool}", "--loglevel=WARNING", *options, engine=engine)
        try:
            result_of(return_session_id.delay())
            yield engine
        finally:
            process.terminate()
            workers_to_wait_for.callback(wait_for_end, process, engine.log)
    # All apps share these connections to the broker.
    kombu.pools.reset()  # type: ignore[no-untyped-call]


@contextmanager
def closing(app: Celery) -> Iterator[Celery]:
    """Close *app*. Also close the connections of its backend: Celery does not."""
    with app:
        yield app
    gc.collect()  # results use the backend when they are collected
    if isinstance(app.backend, RedisBackend):
        app.backend.result_consumer.stop()
        app.backend.client.connection_pool.disconnect()


@contextmanager
def running(*command: str, engine: Engine) -> Iterator[None]:
    """Run Celery's *command* until the end of the ``with`` statement."""
    process = start(*command, engine=engine)
    try:
        yield
    finally:
        process.terminate()
        wait_for_end(process, engine.log)


def start(*command: str, engine: Engine) -> subprocess.Popen[bytes]:
    variables = {"PYTHONPATH": str(Path(__file__).parent), CONFIG: json.dumps(engine.config)}
    celery = [sys.executable, "-m", "celery", "--app=celery_app", *command]
    with engine.log.open("ab") as log:
        return subprocess.Popen(celery, env={**os.environ, **variables}, stdout=log, stderr=log)


def wait_for_end(process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for a terminated *process*. It must end without an error."""
    try:
        process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    assert process.returncode == 0, log.read_text()


def result_of(published: Any) -> Any:
    return published.get(timeout=SECONDS, interval=0.01)


def calls_by_session(gateway: ModelsGateway, count: int) -> Counter[str | None]:
    """Wait until *count* calls are answered. Return the number of calls of each session."""
    deadline = time.monotonic() + SECONDS
    while sum(call.status == 200 for call in gateway.calls) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    return Counter(call.session_id for call in gateway.calls)


def in_a_moment() -> datetime:
    return datetime.now(timezone.utc) + timedelta(seconds=0.1)


def asking_tasks(url: str, count: int = 3) -> list[Any]:
    return [ask.si(url, str(number)) for number in range(count)]


CANVASES: dict[str, tuple[int, Callable[[str], Any]]] = {  # each with its number of calls
    "a task": (1, lambda url: ask.si(url, "?")),
    "a task of the app's own": (1, lambda url: signature("own", (url, "?"))),
    "ignored results": (
        2,
        lambda url: group(
            ask_without_result.si(url, "?"), ask.si(url, "?").set(ignore_result=True)
        ),
    ),
    "a task with hooks": (4, lambda url: ask_hooked.si(url, "?")),
    "a countdown": (1, lambda url: ask.si(url, "?").set(countdown=0.1)),
    "an ETA": (1, lambda url: ask.si(url, "?").set(eta=in_a_moment())),
    "tasks published by tasks": (
        1,
        lambda url: publish.si(publish.si(publish.si(ask.si(url, "?")))),
    ),
    "a group published by a task": (3, lambda url: publish.si(group(asking_tasks(url)))),
    "a retry": (3, lambda url: retried.si(gateway=url)),
    "a retry on errors": (3, lambda url: retried_on_errors.si(gateway=url)),
    "a chain": (3, lambda url: chain(asking_tasks(url))),
    "a chain with a retry": (
        5,
        lambda url: chain(ask.si(url, "?"), retried.si(url), ask.si(url, "?")),
    ),
    "a group": (3, lambda url: group(asking_tasks(url))),
    "a chord": (4, lambda url: chord(asking_tasks(url), ask.si(url, "body"))),
    "a chord with a retry": (
        5,
        lambda url: chord([retried.si(url), ask.si(url, "?")], ask.si(url, "body")),
    ),
    "a chain of groups": (
        5,
        lambda url: chain(
            group(asking_tasks(url, 2)), group(asking_tasks(url, 2)), ask.si(url, "?")
        ),
    ),
    "map": (3, lambda url: publish.map(asking_tasks(url))),
    "starmap": (3, lambda url: ask.starmap([(url, "?")] * 3)),
    "chunks": (4, lambda url: ask.chunks([(url, "?")] * 4, 2)),
    "callbacks": (3, lambda url: ask.si(url, "?").set(link=asking_tasks(url, 2))),
    "an old errback": (1, lambda url: fail.si("!").on_error(old_errback.s(gateway=url))),
    "a new errback": (1, lambda url: fail.si("!").on_error(new_errback.s(url))),
    "a replaced task": (1, lambda url: replaced.si(ask.si(url, "?"))),
    "a task replaced by a chain, in a chain": (
        4,
        lambda url: chain(replaced.si(chain(asking_tasks(url))), ask.si(url, "?")),
    ),
}


@everywhere
@pytest.mark.parametrize(("calls", "canvas"), CANVASES.values(), ids=CANVASES)
def test_the_calls_of_a_canvas_are_in_its_publishers_session(
    engine: Engine, gateway: ModelsGateway, calls: int, canvas: Callable[[str], Any]
) -> None:
    for publishers in (session_scope("sess-1"), session_scope(None), sub_sub_session()):
        with session_scope("maker"):
            made = canvas(gateway.url)
        with publishers:
            made.apply_async()
    assert calls_by_session(gateway, 3 * calls) == {"sess-1": calls, None: calls, "sub-2": calls}
    assert lines(gateway) == {IN_SUB_SUB_SESSION, ("sess-1", None, "sess-1", None), (None,) * 4}


@everywhere
def test_a_worker_keeps_a_thousand_tasks_of_many_sessions_apart(
    engine: Engine, gateway: ModelsGateway
) -> None:
    sessions = [*(f"sess-{number}" for number in range(20)), None] * 50
    random.Random(0).shuffle(sessions)
    for session_id in sessions:
        with session_scope(session_id):
            ask_without_result.delay(gateway.url, str(session_id))
    assert calls_by_session(gateway, len(sessions)) == Counter(sessions)
    assert all(
        call.json["messages"][0]["content"] == str(call.session_id) for call in gateway.calls
    )


@everywhere
def test_a_scope_that_a_task_leaves_open_ends_with_the_task(engine: Engine) -> None:
    with session_scope("sess-1"):
        assert [result_of(leave_a_scope_open.delay()) for _ in range(8)] == ["sess-1"] * 8
    assert current_session_id() is None
    assert [result_of(return_session_id.delay()) for _ in range(8)] == [None] * 8
    with session_scope("sess-2"):
        assert [result_of(return_session_id.delay()) for _ in range(8)] == ["sess-2"] * 8


@everywhere
def test_an_error_reaches_the_caller_and_the_next_task_is_in_no_session(engine: Engine) -> None:
    with session_scope("sess-1"), pytest.raises(LookupError, match="no such model"):
        result_of(fail.delay("no such model"))
    assert [result_of(return_session_id.delay()) for _ in range(4)] == [None] * 4


@everywhere
def test_a_uuid_is_a_session_id(engine: Engine) -> None:
    session_id = uuid.uuid4()
    with session_scope(session_id):
        assert result_of(return_session_id.delay()) == str(session_id)


@everywhere
def test_a_header_given_to_apply_async_is_used_only_outside_a_session(engine: Engine) -> None:
    given = {SESSION_ID_HEADER: "given", "trace": "t-1"}
    session_id, headers = result_of(envelope.apply_async(headers=given))
    assert (session_id, headers["trace"]) == ("given", "t-1")
    with session_scope("sess-1"):
        session_id, headers = result_of(envelope.apply_async(headers=given))
    assert (session_id, headers["trace"]) == ("sess-1", "t-1")
    assert given == {SESSION_ID_HEADER: "given", "trace": "t-1"}


@everywhere
def test_a_header_named_headers_keeps_the_session(engine: Engine, gateway: ModelsGateway) -> None:
    traced: dict[str, Any] = {"headers": {"headers": {"trace": "t-1"}, "trace": "t-1"}}
    for session_id in ("sess-1", None):
        with session_scope(session_id):
            seen, headers = result_of(envelope.apply_async(**traced))
            retried.apply_async([gateway.url], **traced)
        assert (seen, headers["trace"]) == (session_id, "t-1")
    assert calls_by_session(gateway, 6) == {"sess-1": 3, None: 3}


@on_workers
def test_a_malformed_id_is_logged_as_a_warning_and_the_task_runs_in_no_session(
    engine: Engine,
) -> None:
    malformed = ["s3cret id", "s3cret\n", "s3cret" * 50, "", 53, ["s3cret"], {"s3cret": 1}]
    warned = len(engine.log.read_text())
    published = [
        return_session_id.apply_async(headers={SESSION_ID_HEADER: value}) for value in malformed
    ]
    assert [result_of(result) for result in published] == [None] * len(malformed)
    log = engine.log.read_text()[warned:]
    lines = [line for line in log.splitlines() if "WARNING" in line and SESSION_ID_HEADER in line]
    assert [
        f"celery_app.return_session_id[{result.id}]" in "".join(lines) for result in published
    ] == [True] * len(malformed)
    assert len(lines) == len(malformed)
    assert "s3cret" not in log


@on("eager")
def test_an_eager_task_with_a_malformed_id_runs_in_no_session_too(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    assert (
        result_of(return_session_id.apply_async(headers={SESSION_ID_HEADER: "s3cret id"})) is None
    )
    (record,) = (
        record for record in caplog.records if record.name == "cagent_session.integrations.celery"
    )
    assert (record.levelname, "s3cret" in record.getMessage()) == ("WARNING", False)


@on_workers
@pytest.mark.parametrize("protocol", [1, 2])
def test_a_task_published_by_name_with_either_protocol_is_in_the_session(
    engine: Engine, gateway: ModelsGateway, protocol: int
) -> None:
    with closing(make_app(**engine.config, task_protocol=protocol)) as producer:
        for session_id in ("sess-1", None):
            with session_scope(session_id):
                seen, headers = result_of(
                    producer.send_task("celery_app.envelope", headers={"trace": "t-1"})
                )
                producer.send_task("celery_app.retried", [gateway.url])
            assert (seen, headers["trace"]) == (session_id, "t-1")
        assert calls_by_session(gateway, 6) == {"sess-1": 3, None: 3}


@on_workers
@pytest.mark.parametrize(
    "make", [Celery, lambda _: uninstrument(make_app())], ids=["another app", "uninstrumented"]
)
def test_an_app_that_is_not_instrumented_publishes_in_no_session(
    engine: Engine, make: Callable[[str], Celery]
) -> None:
    with session_scope("sess-1"), closing(make("other")) as other:
        other.conf.update(engine.config)
        assert result_of(other.send_task("celery_app.envelope")) == [None, {}]
        assert result_of(engine.app.send_task("celery_app.envelope"))[0] == "sess-1"
        assert result_of(instrument(other).send_task("celery_app.envelope"))[0] == "sess-1"


@on_prefork
def test_chord_tasks_may_differ_in_session_and_the_bodys_publisher_sets_its_session(
    engine: Engine, gateway: ModelsGateway
) -> None:
    header = [
        ask.si(gateway.url, "header").set(headers={SESSION_ID_HEADER: given})
        for given in ("sess-1", "sess-2")
    ]
    chord(header, ask.si(gateway.url, "body")).delay()
    calls_by_session(gateway, 3)
    *first, body = [
        (call.json["messages"][0]["content"], call.session_id) for call in gateway.calls
    ]
    assert sorted(first) == [("header", "sess-1"), ("header", "sess-2")]
    # With such a backend, the header's last task publishes the body. Otherwise the task
    # celery.chord_unlock does.
    if engine.app.backend.supports_native_join:
        assert body in [("body", "sess-1"), ("body", "sess-2")]
    else:
        assert body == ("body", None)


@on_prefork
def test_a_task_whose_process_is_killed_runs_again_in_its_session(
    engine: Engine, gateway: ModelsGateway, tmp_path: Path
) -> None:
    with session_scope("sess-1"):
        assert result_of(die_once.delay(gateway.url, str(tmp_path / "died"))) == "sess-1"
    assert calls_by_session(gateway, 2) == {"sess-1": 2}
    assert [result_of(return_session_id.delay()) for _ in range(4)] == [None] * 4


@on_prefork
def test_a_task_that_times_out_in_another_scope_is_back_in_its_session(
    engine: Engine, gateway: ModelsGateway
) -> None:
    with session_scope("sess-1"):
        assert result_of(run_out_of_time.apply_async([gateway.url], soft_time_limit=1)) == "sess-1"
    assert calls_by_session(gateway, 1) == {"sess-1": 1}
    assert [result_of(return_session_id.delay()) for _ in range(4)] == [None] * 4


@on_prefork
def test_a_scheduled_task_is_in_no_session_unless_the_schedule_names_one(
    engine: Engine, gateway: ModelsGateway, tmp_path: Path
) -> None:
    entry = {"task": "jobs.ask", "schedule": 0.2, "args": [gateway.url, "beat"]}
    nightly = {**entry, "options": {"headers": {SESSION_ID_HEADER: "nightly"}}}
    beats = engine._replace(
        config={**engine.config, "beat_schedule": {"in no session": entry, "nightly": nightly}}
    )
    with (
        session_scope("sess-1"),
        running("beat", "--scheduler=celery.beat:Scheduler", engine=beats),
    ):
        result_of(leave_a_scope_open.delay())
        assert calls_by_session(gateway, 6).keys() == {None, "nightly"}
    engine.app.control.purge()
    # These tasks come after all that the worker had fetched before the purge.
    for result in [return_session_id.delay() for _ in range(16)]:
        result_of(result)
