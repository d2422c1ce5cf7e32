"""Tests of the WSGI middleware: gunicorn's workers and frameworks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from load import (
    REFUSED,
    Job,
    answers_to_malformed_ids,
    calls_of,
    client,
    post,
    send_many,
    sessions_of_a_left_stream,
    wait_for_calls,
)
from serving import WSGI_SERVERS, Server, serving, started

from cagent_session.testing import ModelsGateway

APPS = ["flask_app:app", "django_wsgi:application"]


@pytest.fixture(scope="module", params=[*itertools.product(WSGI_SERVERS, APPS)], ids=" ".join)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    name, app = request.param
    with started(name, app, tmp_path_factory.mktemp("server")) as server:
        yield server


def test_each_call_is_in_the_session_of_its_own_request(server: Server) -> None:
    expected = send_many(500, post, [server.url, server.nginx], ["thread", "sync_stream"])
    assert wait_for_calls(server.gateway, "load", expected.total()) == expected


def test_a_malformed_id_is_answered_400_and_never_reaches_the_application(server: Server) -> None:
    assert answers_to_malformed_ids(server.url, "thread") == REFUSED
    assert not calls_of(server.gateway, "malformed")


def test_a_stream_whose_caller_hangs_up_is_closed_in_its_session(server: Server) -> None:
    assert sessions_of_a_left_stream(server.gateway, f"{server.url}/sync_stream") == {"sess-1"}


@pytest.mark.parametrize(
    ("name", "app", "session_id"),
    [
        *((name, "flask_app:bare_app", "left-open") for name in ("sync", "gthread 1", "gevent")),
        *((name, "flask_app:app", None) for name in ("sync", "gthread 1", "gevent")),
    ],
)
def test_a_scope_that_a_view_leaves_open_reaches_the_next_request_only_without_the_middleware(
    name: str, app: str, session_id: str | None, tmp_path: Path
) -> None:
    """On gevent, the requests of a connection share a greenlet, and so a context."""
    with ModelsGateway() as gateway, serving(name, app, gateway.url, tmp_path) as url:
        with client() as http:
            post(http, Job(url, "leaving_open", None, "first: call"))
            post(http, Job(url, "thread", None, "next: call"))
        assert calls_of(gateway, "first") == {("left-open", "first: call"): 1}
        assert calls_of(gateway, "next") == {(session_id, "next: call"): 1}
