"""Tests of what happens without the ASGI middleware, and that the middleware cures it."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from load import Job, calls_of, client, post
from serving import behind_nginx, serving

from cagent_session.testing import ModelsGateway

# asyncio's own loop, up to Python 3.14: python/cpython#140947
ON_ASYNCIO = {"of-view"} if sys.version_info < (3, 15) else set[str]()


@pytest.mark.parametrize(
    ("server", "app", "leaked"),
    [
        ("uvicorn", "bare_app", ON_ASYNCIO),
        ("uvicorn h11", "bare_app", ON_ASYNCIO),
        ("uvicorn", "app", set()),
        ("uvicorn h11", "app", set()),
        ("uvicorn reset", "bare_app", set()),
        ("uvloop", "bare_app", set()),
        ("hypercorn", "bare_app", set()),
        ("granian", "bare_app", set()),
    ],
)
def test_after_a_decorated_view_that_read_a_large_body_the_next_view_may_be_in_its_session(
    server: str, app: str, leaked: set[str], tmp_path: Path
) -> None:
    """Behind nginx, the next request is another client's.

    A leak depends on the pieces in which the body arrives. So make several attempts.
    """
    with (
        ModelsGateway() as gateway,
        serving(server, f"starlette_app:{app}", gateway.url, tmp_path) as url,
        behind_nginx(url, tmp_path) as nginx,
        client() as first,
        client() as other,
    ):
        for _ in range(12):
            post(first, Job(url, "decorated", None, "first: call", 100_000))
            post(first, Job(url, "plain", None, "same client: call"))
            post(first, Job(nginx, "decorated", None, "first: call", 100_000))
            post(other, Job(nginx, "plain", None, "other client: call"))
        assert sessions_of(gateway, "first") == {"of-view"}
        assert sessions_of(gateway, "same client") - {None} == leaked
        assert sessions_of(gateway, "other client") - {None} == leaked


def sessions_of(gateway: ModelsGateway, kind: str) -> set[str | None]:
    return {session_id for session_id, _ in calls_of(gateway, kind)}


@pytest.mark.parametrize(
    ("server", "app", "last"),
    [
        *((server, "careless_app", "sess-1") for server in ("uvicorn", "uvloop")),
        *((server, "app", None) for server in ("uvicorn", "uvloop")),
    ],
)
def test_a_pipelined_request_in_no_session_needs_a_scope_of_its_own(
    server: str, app: str, last: str | None, tmp_path: Path
) -> None:
    """All of uvicorn's loops start it in the task that sends the answer before it."""
    with (
        ModelsGateway() as gateway,
        serving(server, f"starlette_app:{app}", gateway.url, tmp_path) as url,
        socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), 60) as connection,
    ):
        head = "POST /plain?prompt={} HTTP/1.1\r\nHost: server\r\nContent-Length: 0\r\n{}\r\n\r\n"
        connection.sendall(
            head.format("first:%20call", "Conversation-Id: sess-1").encode()
            + head.format("last:%20call", "Connection: close").encode()
        )
        while connection.recv(65536):
            pass
        assert sessions_of(gateway, "first") == {"sess-1"}
        assert sessions_of(gateway, "last") == {last}


def test_a_session_of_a_dependency_that_yields_reaches_the_view_only_if_it_is_asynchronous(
    tmp_path: Path,
) -> None:
    """FastAPI runs the steps of a synchronous one in threads, each in a copy of the context."""
    with (
        ModelsGateway() as gateway,
        serving("uvloop", "fastapi_app:app", gateway.url, tmp_path) as url,
        client() as http,
    ):
        for endpoint in ("plain-dependency", "async-dependency", "decorated"):
            post(http, Job(url, endpoint, None, f"{endpoint}: call"))
        assert sessions_of(gateway, "plain-dependency") == {None}
        assert sessions_of(gateway, "async-dependency") == {"dependency"}
        assert sessions_of(gateway, "decorated") == {"of-view"}


@pytest.mark.parametrize(
    ("server", "app", "endpoint"),
    [
        ("uvloop", "starlette_app:app", "decorated_stream"),
        ("uvloop", "fastapi_app:app", "decorated_stream"),
        ("uvloop", "django_asgi:application", "decorated_async_stream"),
        ("sync", "django_wsgi:application", "decorated_stream"),
        ("sync", "flask_app:app", "decorated_stream"),
    ],
)
def test_a_streamed_body_is_in_the_session_of_the_middleware_not_of_the_decorated_view(
    server: str, app: str, endpoint: str, tmp_path: Path
) -> None:
    with (
        ModelsGateway() as gateway,
        serving(server, app, gateway.url, tmp_path) as url,
        client() as http,
    ):
        for session_id in ("sess-1", None):
            post(http, Job(url, endpoint, session_id, f"{session_id}: call"))
            assert sessions_of(gateway, f"{session_id}") == {session_id}
