"""Tests of the logging filter: each record gets the ID of the session in which it is logged."""

from __future__ import annotations

import asyncio
import io
import logging
import logging.config
import pickle
import queue
import threading
import weakref
from collections.abc import Callable
from logging.handlers import MemoryHandler, QueueHandler, QueueListener, SocketHandler
from typing import Any

import pytest
import requests
from werkzeug import Request, Response

from cagent_session import (
    carry_session,
    gateway_headers,
    in_session,
    mount,
    session_scope,
    sub_session,
)
from cagent_session.integrations.logging import SessionIdFilter
from cagent_session.testing import ModelsGateway


class RecordingHandler(logging.Handler):
    """A handler that keeps its records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def session_ids(self) -> list[Any]:
        """The session ID of each record. If its root differs, both IDs."""
        names = ("root_session_id", "session_id")
        ids = [[getattr(record, name, "no attribute") for name in names] for record in self.records]
        return [one if one == other else (one, other) for one, other in ids]


def with_filter(handler: Any, **options: Any) -> Any:
    handler.addFilter(SessionIdFilter(**options))
    return handler


@pytest.fixture
def logger(monkeypatch: pytest.MonkeyPatch) -> logging.Logger:
    """Return a logger that is isolated from all others, because dictConfig() closes handlers."""
    monkeypatch.setattr(logging, "_handlers", weakref.WeakValueDictionary())
    monkeypatch.setattr(logging, "_handlerList", [])
    monkeypatch.setattr(
        logging.Logger, "manager", logging.Manager(logging.RootLogger(logging.DEBUG))
    )
    return logging.getLogger("agent")


@pytest.fixture
def records(logger: logging.Logger) -> RecordingHandler:
    """Return a handler with the logger's records. It has a filter without options."""
    records: RecordingHandler = with_filter(RecordingHandler())
    logger.addHandler(records)
    return records


@pytest.mark.parametrize(
    ("options", "no_session"),
    [({}, "-"), ({"default": "none"}, "none"), ({"default": ""}, ""), ({"default": None}, None)],
)
def test_each_record_gets_the_session_in_which_it_was_logged(
    logger: logging.Logger, options: Any, no_session: Any
) -> None:
    records = with_filter(RecordingHandler(), **options)
    logger.addHandler(records)
    logger.debug("before")
    with session_scope("outer"):
        logger.info("outside")
        with session_scope("inner"):
            logger.warning("inside")
        with session_scope(None):
            logger.error("in no session")
        logger.critical("outside again")
    logger.info("after")
    assert records.session_ids == [no_session, "outer", "inner", no_session, "outer", no_session]


def test_a_record_of_a_sub_session_gets_the_root_and_the_sub_session(
    logger: logging.Logger, records: RecordingHandler
) -> None:
    with session_scope("root"), sub_session("outer"), sub_session("inner"):
        logger.info("inside")
        with session_scope("other"):
            logger.info("in another session")
    assert records.session_ids == [("root", "inner"), "other"]


def test_a_thread_logs_in_a_carried_session(
    logger: logging.Logger,
    records: RecordingHandler,
    inherited_by_threads: Callable[[str], str | None],
) -> None:
    with session_scope("sess-1"):
        for job in (logger.info, carry_session(logger.info)):
            thread = threading.Thread(target=job, args=["in a thread"])
            thread.start()
            thread.join()
    assert records.session_ids == [inherited_by_threads("sess-1") or "-", "sess-1"]


def test_concurrent_tasks_log_in_their_own_sessions(
    logger: logging.Logger, records: RecordingHandler
) -> None:
    @in_session("session_id")
    async def work(session_id: str) -> None:
        for _ in range(3):
            logger.info(session_id)
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*(work(f"sess-{number}") for number in range(8)))

    asyncio.run(main())
    assert len(set(records.session_ids)) == 8
    assert records.session_ids == [record.getMessage() for record in records.records]


@pytest.mark.usefixtures("logger")
@pytest.mark.parametrize(
    ("options", "no_session"),
    [({}, "-"), ({"default": "no session"}, "no session"), ({"default": None}, "None")],
)
@pytest.mark.parametrize(
    "factory", ["cagent_session.integrations.logging.SessionIdFilter", SessionIdFilter]
)
def test_dict_config_can_make_the_filter(
    factory: Any, options: dict[str, Any], no_session: str
) -> None:
    written = io.StringIO()
    handler = {
        "class": "logging.StreamHandler",
        "stream": written,
        "filters": ["session"],
        "formatter": "short",
    }
    logging.config.dictConfig(
        {
            "version": 1,
            "filters": {"session": {"()": factory, **options}},
            "formatters": {"short": {"format": "%(session_id)s|%(name)s|%(message)s"}},
            "handlers": {"out": handler},
            "loggers": {"agent": {"handlers": ["out"], "level": "INFO"}},
        }
    )
    with session_scope("sess-1"):
        logging.getLogger("agent").info("one")
    logging.getLogger("agent.tools").info("two")
    assert written.getvalue() == f"sess-1|agent|one\n{no_session}|agent.tools|two\n"


@pytest.mark.parametrize("given", ["given", None])
def test_a_session_id_in_extra_stays_unchanged(
    logger: logging.Logger, records: RecordingHandler, given: str | None
) -> None:
    with session_scope("sess-1"):
        logger.info("about another session", extra={"session_id": given})
    logger.info("from none", extra={"session_id": given})
    assert records.session_ids == [given, given]


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"session_id": "sub-1"}, ("root", "sub-1")),  # it is the current one
        ({"session_id": "other"}, "other"),
        ({"session_id": "other", "root_session_id": "its root"}, ("its root", "other")),
        ({"root_session_id": "other"}, ("other", "sub-1")),
    ],
)
def test_a_record_keeps_the_ids_in_extra_and_gets_those_that_it_does_not_have(
    logger: logging.Logger, records: RecordingHandler, extra: Any, expected: Any
) -> None:
    with session_scope("root"), sub_session("sub-1"):
        logger.info("inside", extra=extra)
    assert records.session_ids == [expected]


def test_only_the_first_of_several_filters_sets_the_id(
    logger: logging.Logger, records: RecordingHandler
) -> None:
    logger.addHandler(second := with_filter(RecordingHandler(), default="second"))
    logger.info("in no session")
    assert (records.session_ids, second.session_ids) == (["-"], ["-"])


def test_a_record_that_passes_through_a_queue_keeps_its_session(
    logger: logging.Logger,
) -> None:
    passed_on: queue.Queue[Any] = queue.Queue()
    logger.addHandler(with_filter(QueueHandler(passed_on)))
    listener = QueueListener(
        passed_on, read := with_filter(RecordingHandler(), default="the listener's")
    )
    listener.start()
    with session_scope("sess-1"):
        logger.info("in a session")
    logger.info("in no session")
    listener.stop()
    assert read.session_ids == ["sess-1", "-"]


def test_a_record_that_is_written_later_keeps_its_session(logger: logging.Logger) -> None:
    written = with_filter(RecordingHandler(), default="the writer's")
    logger.addHandler(
        with_filter(MemoryHandler(capacity=9, flushLevel=logging.ERROR, target=written))
    )
    logger.info("in no session")
    with session_scope("sess-1"):
        logger.info("in a session")
    with session_scope("sess-2"):
        logger.error("now write")
    assert written.session_ids == ["-", "sess-1", "sess-2"]


def test_a_filter_on_a_handler_sees_records_of_child_loggers(records: RecordingHandler) -> None:
    with session_scope("sess-1"):
        logging.getLogger("agent.tools").info("in a session")
    assert records.session_ids == ["sess-1"]


def test_a_filter_on_a_logger_sees_no_records_of_child_loggers(logger: logging.Logger) -> None:
    with_filter(logger).addHandler(records := RecordingHandler())
    with session_scope("sess-1"):
        logger.info("by itself")
        logging.getLogger("agent.tools").info("by a child")
    assert records.session_ids == ["sess-1", "no attribute"]


@pytest.mark.parametrize(("session_id", "arrives"), [("sess-1", "sess-1"), (None, "-")])
def test_a_record_that_is_sent_to_another_process_keeps_its_session(
    logger: logging.Logger, records: RecordingHandler, session_id: str | None, arrives: str
) -> None:
    with session_scope(session_id):
        logger.info("to be sent")
    handler = SocketHandler("127.0.0.1", 0)  # this does not connect before the first emit()
    sent = handler.makePickle(records.records[0])
    with session_scope("receiver"):
        # The first four bytes are the length.
        logger.handle(logging.makeLogRecord(pickle.loads(sent[4:])))
    assert records.session_ids == [arrives, arrives]


def test_urllib3_logs_a_call_in_its_session(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The gateway's threads are in no session."""

    def answer(_: Request) -> Response:
        logging.getLogger("gateway").info("answering")
        return Response()

    with ModelsGateway() as gateway, mount(requests.Session(), gateway.url) as http:
        http.trust_env = False
        gateway.expect_request("/v1/models").respond_with_handler(answer)
        with (
            caplog.at_level(logging.DEBUG),
            caplog.filtering(SessionIdFilter()),
            session_scope("sess-1"),
        ):
            http.get(
                f"{gateway.url}/v1/models",
                headers=gateway_headers("https://api.openai.com/v1"),
                timeout=10,
            )
    logged = [(record.name, vars(record).get("session_id")) for record in caplog.records]
    assert [session_id for name, session_id in logged if name.startswith("urllib3")] == [
        "sess-1"
    ] * 2
    assert ("gateway", "-") in logged
