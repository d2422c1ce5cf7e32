"""Tests of the middleware for Dramatiq: actors run in the session of their message.

The worker is a thread here. The tests in tests/workers use real workers.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import dramatiq
import pytest
from dramatiq import Broker, Middleware, Retry, Worker
from dramatiq.broker import MessageProxy
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import AgeLimit, AsyncIO, GroupCallbacks, MiddlewareError, SkipMessage

from cagent_session import (
    compacting,
    current_session_id,
    in_session,
    session_scope,
    sub_session,
)
from cagent_session.context import NOTHING, Attribution, current_attribution
from cagent_session.integrations.dramatiq import SessionMiddleware

with warnings.catch_warnings():  # Dramatiq 1 warns of backends that are not installed
    warnings.simplefilter("ignore", ImportWarning)
    from dramatiq.rate_limits.backends import StubBackend

with_and_without_session = pytest.mark.parametrize("session_id", ["sess-1", None])
composition: Any = dramatiq.composition  # it has no types
seen: list[tuple[str, str | None]] = []
"""The actors that have run, each with its session."""
lines: list[Attribution] = []
"""What was current in the same actors: the session, its parent, its root and the purpose."""


def see(name: str) -> None:
    seen.append((name, current_session_id()))
    lines.append(current_attribution())


def ask(*_: Any) -> None:
    see("ask")


async def ask_async(*_: Any) -> None:
    see("ask_async")


def after(*_: Any) -> None:
    see("after")


def fail() -> None:
    see("fail")
    raise LookupError("no such model")


def fail_in_an_open_scope() -> None:
    see("fail_in_an_open_scope")
    session_scope("left-open").__enter__()
    raise Retry(delay=1)


def leave_a_scope_open() -> None:
    see("leave_a_scope_open")
    session_scope("left-open").__enter__()


def send_another() -> None:
    dramatiq.get_broker().get_actor("after").send()


ACTORS: list[Callable[..., Any]] = [
    ask,
    ask_async,
    after,
    fail,
    fail_in_an_open_scope,
    leave_a_scope_open,
    send_another,
]


class Other(Middleware):
    """Skips messages, and fails when messages are acknowledged, if their options say so."""

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        if "see" in message.options:
            see("other middleware")
        if "skip" in message.options:
            raise SkipMessage

    def before_ack(self, broker: Broker, message: MessageProxy) -> None:
        if "fail_to_ack" in message.options:
            broker.queues["default"].task_done()  # for join()
            raise MiddlewareError


@pytest.fixture(params=["last", "first", "inheriting"])
def broker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[StubBroker]:
    """Return a broker with a worker. It processes the messages in one thread.

    Our middleware is the last one, or the first one. Or it is the last one, and all threads of the
    worker start in a session, as some Pythons let them.
    """
    if request.param == "inheriting":
        for thread in (dramatiq.worker._ConsumerThread, dramatiq.worker._WorkerThread):
            monkeypatch.setattr(thread, "run", in_session(lambda *_: "starter")(thread.run))
    seen.clear()
    lines.clear()
    broker = StubBroker()
    barriers = StubBackend()  # type: ignore[no-untyped-call]
    for middleware in (AsyncIO(), GroupCallbacks(barriers), Other()):
        broker.add_middleware(middleware)
    first = AgeLimit if request.param == "first" else None
    broker.add_middleware(SessionMiddleware(), before=first)
    for function in ACTORS:
        dramatiq.actor(broker=broker, max_retries=1, min_backoff=1)(function)
    monkeypatch.setattr(dramatiq.broker, "global_broker", broker)
    worker = Worker(broker, worker_threads=1, worker_timeout=1)
    worker.start()
    yield broker
    worker.stop()
    broker.close()


def send(broker: StubBroker, name: str, **options: Any) -> None:
    """Send a message, and wait until it is processed."""
    broker.get_actor(name).send_with_options(**options)
    wait(broker)


def wait(broker: StubBroker) -> None:
    broker.join("default", fail_fast=False, timeout=30_000)


@with_and_without_session
@pytest.mark.parametrize("name", ["ask", "ask_async"])
@pytest.mark.parametrize("delay", [None, 1])
def test_an_actor_runs_in_the_session_in_which_its_message_was_sent(
    broker: StubBroker, name: str, session_id: str | None, delay: int | None
) -> None:
    with session_scope(session_id):
        send(broker, name, delay=delay)
    assert seen == [(name, session_id)]


def test_an_actor_is_not_in_the_session_of_an_earlier_message(broker: StubBroker) -> None:
    ids = [None, "sess-1", "sess-2", None, "sess-1", None] * 5
    for session_id in ids:
        with session_scope(session_id):
            send(broker, "ask")
    assert seen == [("ask", session_id) for session_id in ids]


@pytest.mark.parametrize(
    ("name", "options"),
    [("fail", {}), ("leave_a_scope_open", {}), ("ask", {"fail_to_ack": 1}), ("ask", {"skip": 1})],
)
def test_a_message_whose_processing_goes_wrong_does_not_affect_the_next(
    broker: StubBroker, name: str, options: dict[str, Any]
) -> None:
    with session_scope("sess-1"):
        send(broker, name, **options)
    for session_id in (None, "sess-2"):
        with session_scope(session_id):
            send(broker, "after")
    assert seen[-2:] == [("after", None), ("after", "sess-2")]


@with_and_without_session
@pytest.mark.parametrize("name", ["fail", "fail_in_an_open_scope"])
def test_a_retry_runs_in_the_session_of_its_message(
    broker: StubBroker, name: str, session_id: str | None
) -> None:
    with session_scope(session_id):
        send(broker, name)
    assert seen == [(name, session_id)] * 2


def run_group(ask: Any, after: Any) -> None:
    asking = composition.group([ask.message(), ask.message()])
    asking.add_completion_callback(after.message())
    asking.run()


@with_and_without_session
@pytest.mark.parametrize(
    "start",
    [
        lambda actors: actors["send_another"].send(),
        lambda actors: actors["ask"].send_with_options(on_success=actors["after"]),
        lambda actors: actors["fail"].send_with_options(on_failure="after"),
        lambda actors: composition.pipeline(
            [actors["ask"].message(), actors["after"].message()]
        ).run(),
        lambda actors: run_group(actors["ask"], actors["after"]),
    ],
    ids=["an actor", "on_success", "on_failure", "a pipeline", "a group's completion"],
)
def test_what_is_sent_by_or_after_an_actor_is_in_its_session(
    broker: StubBroker, start: Callable[[Any], Any], session_id: str | None
) -> None:
    with session_scope(session_id):
        start(broker.actors)
    wait(broker)
    assert seen[-1] == ("after", session_id)


@with_and_without_session
def test_an_actor_that_is_called_runs_in_its_callers_session(
    broker: StubBroker, session_id: str | None
) -> None:
    with session_scope(session_id):
        broker.get_actor("ask")()
        broker.get_actor("ask_async")()
    assert seen == [("ask", session_id), ("ask_async", session_id)]


@pytest.mark.parametrize("name", ["ask", "ask_async", "fail"])
def test_an_actor_and_its_retry_are_in_the_sub_session_of_its_message(
    broker: StubBroker, name: str
) -> None:
    message = broker.get_actor(name).message()
    with session_scope("sess-1"), sub_session("sub-1"), sub_session("sub-2"), compacting():
        broker.enqueue(message)
    wait(broker)
    line = Attribution("sub-2", "sub-1", "sess-1", "compacting")
    assert lines == [line] * (2 if name == "fail" else 1)
    assert message.options == {}


def test_what_is_sent_by_or_after_an_actor_is_in_its_sub_session(broker: StubBroker) -> None:
    with session_scope("sess-1"), sub_session("sub-1"):
        send(broker, "send_another")
        send(broker, "ask", on_success="after")
    assert lines == [Attribution("sub-1", "sess-1", "sess-1")] * 3


def test_a_purpose_without_a_session_is_carried(broker: StubBroker) -> None:
    with compacting():
        send(broker, "ask")
    assert lines == [Attribution(purpose="compacting")]


def test_a_message_of_another_producer_needs_only_the_sessions_id(broker: StubBroker) -> None:
    """Older releases of this library set no other option."""
    send(broker, "ask", cagent_session_id="sess-1", cagent_purpose="of a later release")
    assert lines == [Attribution("sess-1", None, "sess-1")]


@pytest.mark.parametrize(
    "option", ["cagent_session_id", "cagent_parent_session_id", "cagent_root_session_id"]
)
@pytest.mark.parametrize("value", ["two words", "", "x" * 257, 5, ["sess-1"], {"id": "sess-1"}])
def test_an_actor_with_a_malformed_id_runs_in_no_session_with_a_warning(
    broker: StubBroker, caplog: pytest.LogCaptureFixture, option: str, value: Any
) -> None:
    with caplog.at_level(logging.WARNING, "cagent_session"):
        send(broker, "ask", **{"cagent_session_id": "sess-2", option: value})
    assert lines == [NOTHING]
    (warning,) = (record for record in caplog.records if record.name.startswith("cagent_session"))
    assert warning.levelname == "WARNING"
    subject, _, problem = warning.getMessage().partition(": ")
    assert subject.startswith(f"{option} of message ")
    assert subject.endswith(" is malformed, so the actor runs in no session")
    assert str(value or "no value") not in problem


def test_the_current_session_replaces_the_options_that_a_caller_gives(broker: StubBroker) -> None:
    callers = {"cagent_session_id": "callers", "cagent_parent_session_id": "callers-parent"}
    for session_id in ("sess-1", None):
        with session_scope(session_id):
            send(broker, "ask", **callers)
    assert lines == [
        Attribution("sess-1", None, "sess-1"),
        Attribution("callers", "callers-parent", "callers-parent"),
    ]


def test_a_message_object_can_be_sent_in_several_sessions(broker: StubBroker) -> None:
    message = broker.get_actor("ask").message()
    for session_id in ("sess-1", None, "sess-2"):
        with session_scope(session_id):
            broker.enqueue(message)
        wait(broker)
    assert seen == [("ask", "sess-1"), ("ask", None), ("ask", "sess-2")]
    assert message.options == {}


@pytest.mark.parametrize(
    ("broker", "session_id"), [("first", "sess-1"), ("last", None)], indirect=["broker"]
)
def test_other_middleware_starts_in_the_session_if_ours_is_the_first(
    broker: StubBroker, session_id: str | None
) -> None:
    with session_scope("sess-1"):
        send(broker, "ask", see=True)
    assert seen == [("other middleware", session_id), ("ask", "sess-1")]


@pytest.mark.parametrize("broker", ["last"], indirect=True)
def test_the_session_of_a_message_that_is_not_acknowledged_ends_with_the_next_message(
    broker: StubBroker,
) -> None:
    with session_scope("sess-1"):
        send(broker, "ask", fail_to_ack=1)
    for _ in range(2):
        send(broker, "after", see=True)
    assert seen[-2:] == [("other middleware", None), ("after", None)]


@pytest.mark.parametrize("broker", ["last"], indirect=True)
@pytest.mark.parametrize("name", ["ask", "fail", "leave_a_scope_open"])
def test_a_workers_thread_leaves_the_session_before_it_takes_the_next_message(
    broker: StubBroker, name: str
) -> None:
    with session_scope("sess-1"):
        send(broker, name)
    send(broker, "after", see=True)
    assert seen[-2:] == [("other middleware", None), ("after", None)]
