"""Does a Celery task run in its publisher's session? On a worker thread here; real workers are in tests/workers."""

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

from cagent_session import SESSION_ID_HEADER, current_session_id, session_scope
from cagent_session.integrations.celery import instrument, uninstrument


def whose(*_: Any) -> str | None:
    return current_session_id()


def collect(results: Any) -> list[Any]:
    return [results, current_session_id()]


def relay(self: Any) -> str:
    """Publish a task, and tell its ID."""
    return self.app.tasks["whose"].delay().id  # type: ignore[no-any-return]


def again(self: Any, scope: str | None) -> list[str | None]:
    """Run twice: publish the retry in *scope*, and tell the session that it is in."""
    if self.request.retries:
        return [current_session_id(), "retried"]
    with session_scope(scope):
        raise self.retry(countdown=0)


def publishes_its_like(self: Any) -> str:
    """Publish another task, which is told to be a retry but is none, in another session; tell its ID."""
    with session_scope("sub-session"):
        return self.app.tasks["whose"].apply_async(retries=1).id  # type: ignore[no-any-return]


def is_replaced(self: Any) -> None:
    with session_scope("sub-session"):
        self.replace(self.app.tasks["whose"].s())


def fails() -> None:
    raise LookupError


def leaves_open() -> None:
    session_scope("left-open").__enter__()


def uninstruments(self: Any) -> str | None:
    uninstrument(self.app)
    return current_session_id()


def errback(_request: Any, _exc: Any, _traceback: Any) -> None:
    called.append(current_session_id())


TASKS = [
    whose,
    collect,
    relay,
    again,
    publishes_its_like,
    is_replaced,
    fails,
    leaves_open,
    uninstruments,
    errback,
]
called: list[str | None] = []  # where error callbacks were called, of which Celery keeps no results


def make_app() -> Celery:
    app = Celery(
        str(uuid.uuid4()), broker="memory://", backend="cache+memory://", set_as_current=False
    )
    # The memory broker is one for the process, so each app has a queue of its own.
    app.conf.update(
        task_default_queue=str(uuid.uuid4()), broker_transport_options={"polling_interval": 0.01}
    )
    for function in TASKS:
        app.task(
            function, name=function.__name__, shared=False, bind="self" in function.__annotations__
        )
    return app


@pytest.fixture(scope="module")
def worker() -> Iterator[Celery]:
    """An app with a worker: one thread for all tasks, so that what a task leaves behind would meet the next."""
    app = instrument(make_app())
    with start_worker(app, pool="solo", perform_ping_check=False, loglevel="WARNING"):
        yield app


@pytest.fixture(params=[1, 2], ids=["protocol 1", "protocol 2"])
def app(request: pytest.FixtureRequest, worker: Celery, monkeypatch: pytest.MonkeyPatch) -> Celery:
    """The app, with the messages of each of Celery's protocols."""
    monkeypatch.setattr(
        worker.amqp, "create_task_message", worker.amqp.task_protocols[request.param]
    )
    return worker


@pytest.fixture
def other() -> Celery:
    """An app without a worker, whose messages are looked at."""
    return make_app()


def run(app: Celery, name: str, *args: Any, **options: Any) -> Any:
    """Publish a task, and return its result, or its error."""
    return result_of(app.tasks[name].apply_async(args, **options))


def result_of(result: AsyncResult) -> Any:
    return result.get(timeout=30, interval=0.01, propagate=False)


def message_of(app: Celery, publish: Callable[[], Any]) -> dict[str, Any]:
    """Return the headers of the message that *publish* sends, and take it off the queue."""
    publish()
    with (
        app.connection_for_read() as connection,
        connection.SimpleQueue(app.conf.task_default_queue) as queue,
    ):
        message = queue.get(timeout=10)
        message.ack()
    return message.headers  # type: ignore[no-any-return]


@pytest.mark.parametrize("session_id", ["sess-1", None])
def test_a_task_runs_in_its_publishers_session(app: Celery, session_id: str | None) -> None:
    with session_scope(session_id):
        assert run(app, "whose") == session_id
        assert run(app, "whose", countdown=0.01) == session_id


def test_a_worker_keeps_no_session_for_the_next_task(app: Celery) -> None:
    ids = [None, "sess-1", "sess-2", None, "sess-1", None] * 5
    published = []
    for session_id in ids:
        with session_scope(session_id):
            published.append(app.tasks["whose"].delay())
    assert list(map(result_of, published)) == ids


@pytest.mark.parametrize(("name", "outcome"), [("fails", LookupError), ("leaves_open", type(None))])
def test_a_task_that_fails_or_leaves_a_scope_open_leaves_nothing_to_the_next(
    app: Celery, name: str, outcome: type
) -> None:
    with session_scope("sess-1"):
        assert isinstance(run(app, name), outcome)
    assert run(app, "whose") is None
    with session_scope("sess-2"):
        assert run(app, "whose") == "sess-2"


def test_what_a_task_publishes_is_in_its_session(app: Celery) -> None:
    with session_scope("sess-1"):
        relayed = run(app, "relay")
    assert result_of(app.AsyncResult(relayed)) == "sess-1"
    assert result_of(app.AsyncResult(run(app, "relay"))) is None


@pytest.mark.parametrize("session_id", ["sess-1", None])
@pytest.mark.parametrize("scope", ["sub-session", None])
def test_a_retry_is_in_the_session_that_the_task_started_in(
    app: Celery, session_id: str | None, scope: str | None
) -> None:
    with session_scope(session_id):
        assert run(app, "again", scope) == [session_id, "retried"]


def test_what_a_task_publishes_in_another_session_is_no_retry_of_it(app: Celery) -> None:
    with session_scope("sess-1"):
        assert result_of(app.AsyncResult(run(app, "publishes_its_like"))) == "sub-session"


def test_what_replaces_a_task_is_in_the_session_in_which_that_was_said(worker: Celery) -> None:
    with session_scope("sess-1"):
        assert run(worker, "is_replaced") == "sub-session"


def test_a_canvas_is_in_its_publishers_session(worker: Celery) -> None:
    whose, collect = worker.tasks["whose"], worker.tasks["collect"]
    in_a_scope = [
        chain(whose.s(), collect.s()),
        group(whose.s(), whose.s()),
        chord([whose.s(), whose.s()], collect.s()),
    ]
    with session_scope("sess-1"):
        published = [canvas.apply_async() for canvas in in_a_scope]
    assert [result_of(result) for result in published] == [
        ["sess-1", "sess-1"],
        ["sess-1", "sess-1"],
        [["sess-1", "sess-1"], "sess-1"],
    ]


@pytest.mark.parametrize(("name", "option"), [("whose", "link"), ("fails", "link_error")])
def test_a_callback_is_in_the_session_of_its_task(app: Celery, name: str, option: str) -> None:
    callback = app.tasks["collect"].s()
    callback.freeze()
    with session_scope("sess-1"):
        run(app, name, **{option: callback})
    assert result_of(app.AsyncResult(callback.id))[1] == "sess-1"


def test_an_error_callback_that_celery_calls_by_itself_is_in_the_session_of_its_task(
    app: Celery,
) -> None:
    called.clear()
    with session_scope("sess-1"):
        run(app, "fails", link_error=app.tasks["errback"].s())
    run(app, "fails", link_error=app.tasks["errback"].s())
    assert called == ["sess-1", None]


MALFORMED = ["two words", "", "x" * 257, 5, ["sess-1"], {"id": "sess-1"}]


@pytest.mark.parametrize("value", MALFORMED)
def test_a_malformed_id_is_told_in_a_warning_and_the_task_runs_in_no_session(
    app: Celery, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, value: Any
) -> None:
    logger = logging.getLogger(
        "cagent_session.integrations.celery"
    )  # which a worker may have cut off from the root's
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    monkeypatch.setattr(logger, "propagate", False)
    assert run(app, "whose", headers={SESSION_ID_HEADER: value}) is None
    (warning,) = (record for record in caplog.records if record.name == logger.name)
    assert warning.levelname == "WARNING"
    assert warning.getMessage().startswith(
        "X-Cagent-Session-Id of the message is malformed, so the task runs in no "
    )
    assert str(value or "no value") not in warning.getMessage()


@pytest.mark.parametrize("nested", [{"trace": "1"}, {SESSION_ID_HEADER: "callers"}, {}, "odd", 5])
def test_headers_within_the_headers_as_tracers_send_them_hide_no_session(
    app: Celery, nested: Any
) -> None:
    callers = nested.get(SESSION_ID_HEADER) if isinstance(nested, dict) else None
    for session_id in ("sess-1", None):
        with session_scope(session_id):
            assert run(app, "whose", headers={"headers": nested}) == (session_id or callers)


def test_headers_within_the_headers_lose_no_session_to_a_retry(app: Celery) -> None:
    for session_id in ("sess-1", None):
        with session_scope(session_id):
            assert run(app, "again", "sub-session", headers={"headers": {"trace": "1"}}) == [
                session_id,
                "retried",
            ]


def test_other_headers_of_a_message_stay(other: Celery) -> None:
    instrument(other)
    headers = {"tenant": "t-1"}
    with session_scope("sess-1"):
        message = message_of(other, lambda: other.tasks["whose"].apply_async(headers=headers))
    assert (message["tenant"], message[SESSION_ID_HEADER]) == ("t-1", "sess-1")
    assert headers == {"tenant": "t-1"}


@pytest.mark.parametrize(("session_id", "sent"), [("sess-1", "sess-1"), (None, "callers")])
def test_the_session_in_scope_replaces_the_callers_header_as_in_http(
    other: Celery, session_id: str | None, sent: str
) -> None:
    instrument(other)
    with session_scope(session_id):
        publish = functools.partial(
            other.send_task, "whose", headers={SESSION_ID_HEADER: "callers"}
        )
        assert message_of(other, publish)[SESSION_ID_HEADER] == sent


def test_outside_a_session_no_header_is_invented(other: Celery) -> None:
    instrument(other)
    assert SESSION_ID_HEADER not in message_of(other, other.tasks["whose"].delay)


def test_a_task_published_anew_with_its_retries_is_no_retry(other: Celery) -> None:
    instrument(other)
    with session_scope("sess-1"):
        assert (
            message_of(other, lambda: other.tasks["whose"].apply_async(retries=1))[
                SESSION_ID_HEADER
            ]
            == "sess-1"
        )


def test_an_app_that_is_not_instrumented_tells_nobody(other: Celery) -> None:
    instrumented = instrument(make_app())
    with session_scope("sess-1"):
        assert SESSION_ID_HEADER not in message_of(other, other.tasks["whose"].delay)
        assert (
            message_of(instrumented, instrumented.tasks["whose"].delay)[SESSION_ID_HEADER]
            == "sess-1"
        )


def test_an_app_that_is_not_instrumented_runs_its_tasks_where_it_does(other: Celery) -> None:
    with session_scope("callers"):
        eager = other.tasks["whose"].apply(headers={SESSION_ID_HEADER: "sess-1"})
    assert eager.get() == "callers"


@pytest.mark.parametrize("times", [1, 2])
def test_uninstrument_undoes_instrument_however_often(other: Celery, times: int) -> None:
    signature = inspect.signature(other.send_task)
    for _ in range(times):
        assert instrument(other) is other
    assert inspect.signature(other.send_task) == signature
    with session_scope("sess-1"):
        assert SESSION_ID_HEADER in message_of(other, other.tasks["whose"].delay)
        for _ in range(times):
            assert uninstrument(other) is other
        assert "send_task" not in vars(other)
        assert SESSION_ID_HEADER not in message_of(other, other.tasks["whose"].delay)


def test_a_wrapper_of_another_stays_below_and_above(other: Celery) -> None:
    seen = []

    def wrapper(name: str, send_task: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            seen.append(name)
            return send_task(*args, **kwargs)

        return wrapped

    publish = other.tasks["whose"].delay
    below: Any = wrapper("below", other.send_task)
    other.send_task = below
    instrument(other)
    assert other.send_task is not below
    uninstrument(other)
    assert other.send_task is below

    instrument(other)
    other.send_task = wrapper("above", other.send_task)
    with session_scope("sess-1"):
        assert message_of(other, publish)[SESSION_ID_HEADER] == "sess-1"
        uninstrument(other)
        assert SESSION_ID_HEADER not in message_of(other, publish)
    assert seen == ["above", "below"] * 2


def test_instrumented_again_it_is_even_if_what_took_its_place_is_gone(other: Celery) -> None:
    with patch.object(other, "send_task"):
        instrument(other)
    instrument(other)
    with session_scope("sess-1"):
        assert message_of(other, other.tasks["whose"].delay)[SESSION_ID_HEADER] == "sess-1"


def test_what_replaces_send_task_in_the_class_later_is_called(
    other: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As error trackers and tracers do."""
    instrument(other)
    send_task = Mock(wraps=functools.partial(Celery.send_task, other))
    monkeypatch.setattr(Celery, "send_task", lambda app, name: send_task(name))
    with session_scope("sess-1"):
        assert message_of(other, lambda: other.send_task("whose"))[SESSION_ID_HEADER] == "sess-1"
    send_task.assert_called_once_with("whose")


def test_uninstrument_lets_a_running_task_end_in_its_session_and_leaves_nothing(
    app: Celery,
) -> None:
    with session_scope("sess-1"):
        assert run(app, "uninstruments") == "sess-1"
        assert run(app, "whose") is None
    instrument(app)
    assert run(app, "whose") is None


@pytest.mark.parametrize("session_id", ["sess-1", None])
@pytest.mark.parametrize("always", [True, False])
def test_an_eager_task_runs_in_its_callers_session(
    other: Celery, session_id: str | None, always: bool
) -> None:
    instrument(other).conf.task_always_eager = always
    with session_scope(session_id):
        results = [
            other.tasks[name].apply(args)
            for name, args in (("whose", ()), ("again", ("sub-session",)))
        ]
        assert [result.get() for result in results] == [session_id, [session_id, "retried"]]
        for name in ("leaves_open", "fails"):
            other.tasks[name].apply()
            assert current_session_id() == session_id


def test_an_eager_task_heeds_the_header_that_its_message_would_have(other: Celery) -> None:
    instrument(other).conf.task_always_eager = True
    whose = other.tasks["whose"]
    assert whose.apply_async(headers={SESSION_ID_HEADER: "callers"}).get() == "callers"
    assert whose.apply_async(headers={SESSION_ID_HEADER: "two words"}).get() is None
    with session_scope("sess-1"):
        assert whose.apply_async(headers={SESSION_ID_HEADER: "callers"}).get() == "sess-1"


def test_a_pickled_app_is_an_app_to_be_instrumented_by_itself(other: Celery) -> None:
    pickled = pickle.loads(pickle.dumps(instrument(other)))
    with session_scope("sess-1"):
        assert SESSION_ID_HEADER not in message_of(pickled, lambda: pickled.send_task("whose"))
        assert SESSION_ID_HEADER in message_of(
            instrument(pickled), lambda: pickled.send_task("whose")
        )


def test_an_instrumented_app_is_collected_like_any_other() -> None:
    app = weakref.ref(instrument(Celery("short-lived", set_as_current=False)))
    gc.collect()
    assert app() is None


def test_an_apps_own_send_task_is_called() -> None:
    class Own(Celery):  # type: ignore[misc] # Celery has no types
        def send_task(self, name: str) -> Any:
            return super().send_task(name, headers={"own": "1"})

    app = instrument(Own("own", broker="memory://", set_as_current=False))
    app.conf.task_default_queue = str(uuid.uuid4())
    with session_scope("sess-1"):
        message = message_of(app, lambda: app.send_task("whose"))
    assert (message["own"], message[SESSION_ID_HEADER]) == ("1", "sess-1")


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


def test_a_receiver_that_was_connected_before_is_in_the_session() -> None:
    """As that of a tracer which starts a span there."""
    ran = subprocess.run(
        [sys.executable, "-c", EARLIER_RECEIVER], capture_output=True, text=True, check=False
    )
    assert (ran.stdout, ran.stderr) == ("sess-1\n", "")


def test_the_current_app_stands_for_an_app() -> None:
    app = make_app()

    def publish_in_a_session() -> Any:
        app.set_current()  # in this thread
        assert instrument(current_app) is app
        with session_scope("sess-1"):
            return message_of(app, current_app.tasks["whose"].delay)

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(publish_in_a_session).result()[SESSION_ID_HEADER] == "sess-1"


@pytest.mark.parametrize("call", [instrument, uninstrument])
@pytest.mark.parametrize("thing", [None, "app", Celery])
def test_what_is_no_app_is_refused(call: Callable[[Any], Any], thing: Any) -> None:
    with pytest.raises(
        TypeError,
        match=rf"^{call.__name__}\(\) takes a celery\.Celery, got {type(thing).__name__}$",
    ):
        call(thing)
