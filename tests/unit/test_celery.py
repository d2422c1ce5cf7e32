"""Tests of the integration with Celery: tasks run in the session of their publisher.

The worker is a thread here. The tests in tests/workers use real workers.
"""

from __future__ import annotations

import functools
import gc
import inspect
import logging
import pickle
import subprocess
import sys
import uuid
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import Mock, patch

import pytest
from celery import Celery, chain, chord, current_app, group
from celery.contrib.testing.worker import start_worker
from celery.result import AsyncResult

from cagent_session import (
    SESSION_ID_HEADER,
    compacting,
    current_session_id,
    session_scope,
    sub_session,
)
from cagent_session.context import current_attribution
from cagent_session.integrations.celery import instrument, uninstrument


def current(*_: Any) -> str | None:
    return current_session_id()


def line(*_: Any) -> list[str | None]:
    """Return the current session, its parent, its root and the purpose."""
    return list(current_attribution())


def collect(results: Any) -> list[Any]:
    return [results, current_session_id()]


def publish_another(self: Any) -> str:
    """Publish a task, and return the task's ID."""
    return self.app.tasks["current"].delay().id  # type: ignore[no-any-return]


def publish_another_with_retries(self: Any) -> str:
    """Publish another task in another session. It has *retries*, but is not a retry."""
    with session_scope("sub-session"):
        return self.app.tasks["current"].apply_async(retries=1).id  # type: ignore[no-any-return]


def retry_once(self: Any, scope: str | None) -> list[str | None]:
    """Publish the retry in *scope*. In the retry, return the current session."""
    if self.request.retries:
        return [current_session_id(), "retried"]
    with session_scope(scope):
        raise self.retry(countdown=0)


def retry_once_for_line(self: Any) -> list[str | None]:
    if self.request.retries:
        return line()
    with session_scope("other"):
        raise self.retry(countdown=0)


def replace_itself(self: Any) -> None:
    with session_scope("sub-session"):
        self.replace(self.app.tasks["current"].s())


def fail() -> None:
    raise LookupError


def leave_scope_open() -> None:
    session_scope("left-open").__enter__()


def uninstrument_own_app(self: Any) -> str | None:
    uninstrument(self.app)
    return current_session_id()


def errback(_request: Any, _exc: Any, _traceback: Any) -> None:
    errback_sessions.append(current_session_id())


TASKS = [
    current,
    line,
    collect,
    publish_another,
    publish_another_with_retries,
    retry_once,
    retry_once_for_line,
    replace_itself,
    fail,
    leave_scope_open,
    uninstrument_own_app,
    errback,
]
errback_sessions: list[str | None] = []  # Celery keeps no results of error callbacks
PARENT, ROOT, PURPOSE = "X-Cagent-Parent-Session", "X-Cagent-Root-Session", "X-Cagent-Purpose"
with_and_without_session = pytest.mark.parametrize("session_id", ["sess-1", None])


def make_app() -> Celery:
    memory = {"broker": "memory://", "backend": "cache+memory://"}
    app = Celery(str(uuid.uuid4()), **memory, set_as_current=False)
    # All apps of the process share the memory broker, so each app has its own queue.
    app.conf.task_default_queue = str(uuid.uuid4())
    app.conf.broker_transport_options = {"polling_interval": 0.01}
    for function in TASKS:
        bind = "self" in function.__annotations__
        app.task(function, name=function.__name__, shared=False, bind=bind)
    return app


@pytest.fixture(scope="module")
def app_with_worker() -> Iterator[Celery]:
    """Return an app with a worker. All its tasks run in one thread, one after the other."""
    app = instrument(make_app())
    with start_worker(app, pool="solo", perform_ping_check=False, loglevel="WARNING") as worker:
        yield app
        # This message wakes the worker. Otherwise it takes seconds to notice the end.
        app.control.shutdown(destination=[worker.hostname])


@pytest.fixture(params=[1, 2], ids=["protocol 1", "protocol 2"])
def app(
    request: pytest.FixtureRequest, app_with_worker: Celery, monkeypatch: pytest.MonkeyPatch
) -> Celery:
    """Return the app with a worker. Each test runs with both message protocols of Celery."""
    amqp = app_with_worker.amqp
    monkeypatch.setattr(amqp, "create_task_message", amqp.task_protocols[request.param])
    return app_with_worker


@pytest.fixture
def plain_app() -> Celery:
    """Return an app without a worker. It is not instrumented."""
    return make_app()


@pytest.fixture
def instrumented(plain_app: Celery) -> Celery:
    """Return an instrumented app without a worker."""
    return instrument(plain_app)


def run(app: Celery, name: str, *args: Any, **options: Any) -> Any:
    """Publish a task, and return its result or its error."""
    return result_of(app.tasks[name].apply_async(args, **options))


def result_of(result: AsyncResult) -> Any:
    return result.get(timeout=30, interval=0.01, propagate=False)


def published_headers(app: Celery, **options: Any) -> dict[str, Any]:
    """Publish a task, take its message from the queue, and return the message's headers."""
    app.send_task("current", **options)
    queue_name = app.conf.task_default_queue
    with app.connection_for_read() as connection, connection.SimpleQueue(queue_name) as queue:
        message = queue.get(timeout=10)
        message.ack()
    return message.headers  # type: ignore[no-any-return]


@with_and_without_session
def test_a_task_runs_in_its_publishers_session(app: Celery, session_id: str | None) -> None:
    with session_scope(session_id):
        assert run(app, "current") == session_id
        assert run(app, "current", countdown=0.01) == session_id


def test_a_task_is_not_in_the_session_of_an_earlier_task(app: Celery) -> None:
    ids = [None, "sess-1", "sess-2", None, "sess-1", None] * 5
    published = []
    for session_id in ids:
        with session_scope(session_id):
            published.append(app.tasks["current"].delay())
    assert list(map(result_of, published)) == ids


@pytest.mark.parametrize(
    ("name", "outcome"), [("fail", LookupError), ("leave_scope_open", type(None))]
)
def test_a_task_that_fails_or_leaves_a_scope_open_does_not_affect_the_next(
    app: Celery, name: str, outcome: type
) -> None:
    with session_scope("sess-1"):
        assert isinstance(run(app, name), outcome)
    assert run(app, "current") is None
    with session_scope("sess-2"):
        assert run(app, "current") == "sess-2"


@with_and_without_session
def test_a_task_publishes_in_its_session(app: Celery, session_id: str | None) -> None:
    with session_scope(session_id):
        other = run(app, "publish_another")
    assert result_of(app.AsyncResult(other)) == session_id


@with_and_without_session
@pytest.mark.parametrize("scope", ["sub-session", None])
def test_a_retry_runs_in_the_session_in_which_the_task_started(
    app: Celery, session_id: str | None, scope: str | None
) -> None:
    with session_scope(session_id):
        assert run(app, "retry_once", scope) == [session_id, "retried"]


def test_another_task_with_retries_is_not_a_retry(app: Celery) -> None:
    with session_scope("sess-1"):
        other = run(app, "publish_another_with_retries")
    assert result_of(app.AsyncResult(other)) == "sub-session"


def test_a_task_that_replaces_another_is_in_the_session_of_the_replacing_code(
    app_with_worker: Celery,
) -> None:
    with session_scope("sess-1"):
        assert run(app_with_worker, "replace_itself") == "sub-session"


def test_all_tasks_of_a_canvas_are_in_its_publishers_session(app_with_worker: Celery) -> None:
    current, collect = (app_with_worker.tasks[name] for name in ("current", "collect"))
    one, two = "sess-1", ["sess-1", "sess-1"]
    canvases = [
        (chain(current.s(), collect.s()), two),
        (group(current.s(), current.s()), two),
        (chord([current.s(), current.s()], collect.s()), [two, one]),
    ]
    with session_scope("sess-1"):
        published = [(canvas.apply_async(), expected) for canvas, expected in canvases]
    for result, expected in published:
        assert result_of(result) == expected


@pytest.mark.parametrize(("name", "option"), [("current", "link"), ("fail", "link_error")])
def test_a_callback_is_in_the_session_of_its_task(app: Celery, name: str, option: str) -> None:
    callback = app.tasks["collect"].s()
    callback.freeze()
    with session_scope("sess-1"):
        run(app, name, **{option: callback})
    assert result_of(app.AsyncResult(callback.id))[1] == "sess-1"


def test_an_error_callback_without_a_message_is_in_the_session_of_its_task(app: Celery) -> None:
    errback_sessions.clear()
    for session_id in ("sess-1", None):
        with session_scope(session_id):
            run(app, "fail", link_error=app.tasks["errback"].s())
    assert errback_sessions == ["sess-1", None]


@pytest.fixture
def sub_sub_session() -> Iterator[list[str]]:
    """Run a test in a sub-session of a sub-session, with a purpose. Return the whole line."""
    with session_scope("sess-1"), sub_session("sub-1"), sub_session("sub-2"), compacting():
        yield ["sub-2", "sub-1", "sess-1", "compacting"]


def test_a_task_is_in_its_publishers_sub_session(app: Celery, sub_sub_session: list[str]) -> None:
    link = app.tasks["line"].s()
    link.freeze()
    assert run(app, "line", link=link) == sub_sub_session
    assert result_of(app.AsyncResult(link.id)) == sub_sub_session
    assert run(app, "retry_once_for_line") == sub_sub_session
    with session_scope("other"):
        assert run(app, "line") == ["other", None, "other", None]
    with session_scope(None):
        assert run(app, "line") == [None] * 4


@pytest.mark.parametrize("always", [True, False])
def test_an_eager_task_is_in_its_callers_sub_session(
    instrumented: Celery, sub_sub_session: list[str], always: bool
) -> None:
    instrumented.conf.task_always_eager = always
    for name in ("line", "retry_once_for_line"):
        assert instrumented.tasks[name].apply().get() == sub_sub_session
    assert line() == sub_sub_session


def test_a_purpose_without_a_session_is_carried(app: Celery, instrumented: Celery) -> None:
    with compacting():
        assert run(app, "line") == [None, None, None, "compacting"]
        assert instrumented.tasks["line"].apply().get() == [None, None, None, "compacting"]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({SESSION_ID_HEADER: "sess-1"}, ["sess-1", None, "sess-1", None]),
        ({SESSION_ID_HEADER: "sub-1", ROOT: "sess-1"}, ["sub-1", None, "sess-1", None]),
        ({SESSION_ID_HEADER: "sub-1", PARENT: "sess-1"}, ["sub-1", "sess-1", "sess-1", None]),
        ({PARENT: "sess-1", ROOT: "sess-1"}, [None] * 4),
        ({PURPOSE: "generating_title"}, [None, None, None, "generating_title"]),
        ({PURPOSE: "of a later release"}, [None] * 4),
        ({PURPOSE: ["compacting"]}, [None] * 4),
    ],
)
def test_a_message_of_another_producer_need_not_have_all_headers(
    app: Celery, headers: dict[str, Any], expected: list[str | None]
) -> None:
    """Older releases of this library set only the session's ID."""
    assert run(app, "line", headers=headers) == expected


@pytest.mark.parametrize("name", [SESSION_ID_HEADER, PARENT, ROOT])
@pytest.mark.parametrize("value", ["two words", "", "x" * 257, 5, ["sess-1"], {"id": "sess-1"}])
def test_a_task_with_a_malformed_id_runs_in_no_session_with_a_warning(
    app: Celery,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: Any,
) -> None:
    # A worker may have changed this logger, so its records may not reach the root's handlers.
    logger = logging.getLogger("cagent_session.integrations.celery")
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    monkeypatch.setattr(logger, "propagate", False)
    headers = {SESSION_ID_HEADER: "sess-2", PURPOSE: "compacting", name: value}
    assert run(app, "line", headers=headers) == [None] * 4
    (warning,) = (record for record in caplog.records if record.name == logger.name)
    assert warning.levelname == "WARNING"
    problem = f"{name} of the message is malformed, so the task runs in no session: "
    assert warning.getMessage().startswith(problem)
    assert str(value or "no value") not in warning.getMessage()


@with_and_without_session
@pytest.mark.parametrize("nested", [{"trace": "1"}, {SESSION_ID_HEADER: "callers"}, {}, "odd", 5])
def test_a_header_named_headers_keeps_the_session(
    app: Celery, nested: Any, session_id: str | None
) -> None:
    """Some tracers send such a header."""
    callers = nested.get(SESSION_ID_HEADER) if isinstance(nested, dict) else None
    headers = {"headers": nested}
    with session_scope(session_id):
        assert run(app, "current", headers=headers) == (session_id or callers)
        if nested == {"trace": "1"}:
            retried = run(app, "retry_once", "sub-session", headers=headers)
            assert retried == [session_id, "retried"]


def test_other_headers_of_a_message_stay_unchanged(instrumented: Celery) -> None:
    headers = {"tenant": "t-1"}
    with session_scope("sess-1"):
        published = published_headers(instrumented, headers=headers)
    assert (published["tenant"], published[SESSION_ID_HEADER]) == ("t-1", "sess-1")
    assert headers == {"tenant": "t-1"}


def test_the_current_session_replaces_all_of_a_callers_headers(instrumented: Celery) -> None:
    """The caller's parent, root and purpose are those of another session."""
    callers = dict.fromkeys((SESSION_ID_HEADER, PARENT, ROOT, PURPOSE), "callers")
    with session_scope("sess-1"):
        headers = published_headers(instrumented, headers=callers)
    ours = {name: value for name, value in headers.items() if name in callers}
    assert ours == {SESSION_ID_HEADER: "sess-1", ROOT: "sess-1"}


@pytest.mark.parametrize(
    ("session_id", "options", "header"),
    [
        ("sess-1", {"headers": {SESSION_ID_HEADER: "callers"}}, "sess-1"),
        (None, {"headers": {SESSION_ID_HEADER: "callers"}}, "callers"),
        (None, {}, None),
        ("sess-1", {"retries": 1}, "sess-1"),  # published again with its retries, but not a retry
    ],
)
def test_the_current_session_replaces_the_callers_header(
    instrumented: Celery, session_id: str | None, options: Any, header: str | None
) -> None:
    with session_scope(session_id):
        assert published_headers(instrumented, **options).get(SESSION_ID_HEADER) == header


def test_only_instrumented_apps_publish_and_use_the_session(
    plain_app: Celery, app_with_worker: Celery
) -> None:
    eager = {"headers": {SESSION_ID_HEADER: "callers"}}
    with session_scope("sess-1"):
        assert SESSION_ID_HEADER not in published_headers(plain_app)
        assert run(app_with_worker, "current") == "sess-1"
        assert plain_app.tasks["current"].apply(**eager).get() == "sess-1"
    assert plain_app.tasks["current"].apply(**eager).get() is None


@pytest.mark.parametrize("times", [1, 2])
def test_uninstrument_undoes_instrument(plain_app: Celery, times: int) -> None:
    signature = inspect.signature(plain_app.send_task)
    for _ in range(times):
        assert instrument(plain_app) is plain_app
    assert inspect.signature(plain_app.send_task) == signature
    with session_scope("sess-1"):
        assert SESSION_ID_HEADER in published_headers(plain_app)
        for _ in range(times):
            assert uninstrument(plain_app) is plain_app
        assert "send_task" not in vars(plain_app)
        assert SESSION_ID_HEADER not in published_headers(plain_app)


def test_other_wrappers_of_send_task_keep_working(plain_app: Celery) -> None:
    called = []

    def wrapper(name: str, send_task: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            called.append(name)
            return send_task(*args, **kwargs)

        return wrapped

    inner: Any = wrapper("inner", plain_app.send_task)
    plain_app.send_task = inner
    instrument(plain_app)
    assert plain_app.send_task is not inner
    uninstrument(plain_app)
    assert plain_app.send_task is inner

    instrument(plain_app)
    plain_app.send_task = wrapper("outer", plain_app.send_task)
    with session_scope("sess-1"):
        assert published_headers(plain_app)[SESSION_ID_HEADER] == "sess-1"
        uninstrument(plain_app)
        assert SESSION_ID_HEADER not in published_headers(plain_app)
    assert called == ["outer", "inner"] * 2


def test_an_app_can_be_instrumented_again_after_a_patch_has_removed_it(plain_app: Celery) -> None:
    with patch.object(plain_app, "send_task"):
        instrument(plain_app)
    instrument(plain_app)
    with session_scope("sess-1"):
        assert published_headers(plain_app)[SESSION_ID_HEADER] == "sess-1"


def test_a_send_task_that_is_replaced_in_the_class_later_is_called(
    instrumented: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Error trackers and tracers replace it in this way."""
    send_task = Mock(wraps=functools.partial(Celery.send_task, instrumented))
    monkeypatch.setattr(Celery, "send_task", lambda app, name: send_task(name))
    with session_scope("sess-1"):
        assert published_headers(instrumented)[SESSION_ID_HEADER] == "sess-1"
    send_task.assert_called_once_with("current")


def test_uninstrument_leaves_a_running_task_in_its_session(app: Celery) -> None:
    with session_scope("sess-1"):
        assert run(app, "uninstrument_own_app") == "sess-1"
        assert run(app, "current") is None
    instrument(app)
    assert run(app, "current") is None


@with_and_without_session
@pytest.mark.parametrize("always", [True, False])
def test_an_eager_task_runs_in_its_callers_session(
    instrumented: Celery, session_id: str | None, always: bool
) -> None:
    instrumented.conf.task_always_eager = always
    tasks = instrumented.tasks
    with session_scope(session_id):
        assert tasks["current"].apply().get() == session_id
        assert tasks["retry_once"].apply(("sub-session",)).get() == [session_id, "retried"]
        for name in ("leave_scope_open", "fail"):
            tasks[name].apply()
            assert current_session_id() == session_id


@pytest.mark.parametrize(
    ("session_id", "header", "expected"),
    [(None, "callers", "callers"), (None, "two words", None), ("sess-1", "callers", "sess-1")],
)
def test_an_eager_task_uses_the_header_that_its_message_would_have(
    instrumented: Celery, session_id: str | None, header: str, expected: str | None
) -> None:
    instrumented.conf.task_always_eager = True
    with session_scope(session_id):
        result = instrumented.tasks["current"].apply_async(headers={SESSION_ID_HEADER: header})
    assert result.get() == expected


def test_an_unpickled_app_must_be_instrumented_again(instrumented: Celery) -> None:
    unpickled = pickle.loads(pickle.dumps(instrumented))
    with session_scope("sess-1"):
        assert SESSION_ID_HEADER not in published_headers(unpickled)
        assert SESSION_ID_HEADER in published_headers(instrument(unpickled))


def test_an_instrumented_app_is_garbage_collected() -> None:
    app = weakref.ref(instrument(Celery("short-lived", set_as_current=False)))
    gc.collect()
    assert app() is None


def test_a_send_task_of_a_subclass_is_called() -> None:
    class OwnCelery(Celery):  # type: ignore[misc] # Celery has no types
        def send_task(self, name: str) -> Any:
            return super().send_task(name, headers={"own": "1"})

    app = instrument(OwnCelery("own", broker="memory://", set_as_current=False))
    app.conf.task_default_queue = str(uuid.uuid4())
    with session_scope("sess-1"):
        headers = published_headers(app)
    assert (headers["own"], headers[SESSION_ID_HEADER]) == ("1", "sess-1")


EARLIER_RECEIVER = """
from celery import Celery
from celery.signals import task_prerun
from cagent_session import SESSION_ID_HEADER, current_session_id

@task_prerun.connect
def earlier(**_):
    print(current_session_id())

from cagent_session.integrations.celery import instrument

app = instrument(Celery("app"))

@app.task
def nothing():
    pass

nothing.apply(headers={SESSION_ID_HEADER: "sess-1"})
"""


def test_a_receiver_that_was_connected_earlier_runs_in_the_session() -> None:
    """For example, a tracer's receiver may start a span."""
    command = [sys.executable, "-c", EARLIER_RECEIVER]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.stderr) == ("sess-1\n", "")


def test_current_app_can_be_instrumented(plain_app: Celery) -> None:
    def publish_in_a_session() -> dict[str, Any]:
        plain_app.set_current()  # in this thread
        assert instrument(current_app) is plain_app
        with session_scope("sess-1"):
            return published_headers(current_app)

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(publish_in_a_session).result()[SESSION_ID_HEADER] == "sess-1"


@pytest.mark.parametrize("function", [instrument, uninstrument])
@pytest.mark.parametrize("value", [None, "app", Celery])
def test_only_an_app_is_accepted(function: Callable[[Any], Any], value: Any) -> None:
    problem = rf"^{function.__name__}\(\) takes a celery\.Celery, got {type(value).__name__}$"
    with pytest.raises(TypeError, match=problem):
        function(value)
