"""Tests of what happens without the ASGI middleware, and that the middleware cures it."""

from __future__ import annotations

import itertools
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from load import Job, client, post, sessions_of, wait_for_calls
from serving import behind_nginx, serving

from cagent_session.testing import ModelsGateway

LEAKS = sys.version_info < (3, 15)  # asyncio's own loop does: python/cpython#140947
ON_ASYNCIO = {"of-view"} if LEAKS else set[str]()
NOT_LEAKED = {None, "starter"}  # see agent_calls.py


def attempts(gateway: ModelsGateway, leaked: set[str], *kinds: str) -> Iterator[None]:
    """Yield until calls of all *kinds* were in the session that *leaked*, at most 100 times.

    A leak depends on the pieces in which a body arrives. If none is expected, yield 12 times.
    """
    for _ in range(100 if leaked else 12):
        yield
        if leaked and all(leaked <= sessions_of(gateway, kind) for kind in kinds):
            return


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
    """Behind nginx, the next request is another client's."""
    with (
        ModelsGateway() as gateway,
        serving(server, f"starlette_app:{app}", gateway.url, tmp_path) as url,
        behind_nginx(url, tmp_path) as nginx,
        client() as first,
        client() as other,
    ):
        for _ in attempts(gateway, leaked, "same client", "other client"):
            post(first, Job(url, "decorated", None, "first: call", 100_000))
            post(first, Job(url, "plain", None, "same client: call"))
            post(first, Job(nginx, "decorated", None, "first: call", 100_000))
            post(other, Job(nginx, "plain", None, "other client: call"))
        assert sessions_of(gateway, "first") == {"of-view"}
        assert sessions_of(gateway, "same client") - NOT_LEAKED == leaked
        assert sessions_of(gateway, "other client") - NOT_LEAKED == leaked
        assert sessions_of(gateway, "startup") == {None if app == "app" else "starter"}


@pytest.mark.parametrize(
    ("app", "leaked", "own"),
    [("added_app", {"alice"} if LEAKS else set(), set()), ("app", set(), {"bob"})],
)
def test_a_handler_of_all_errors_is_outside_a_middleware_that_is_added(
    app: str, leaked: set[str], own: set[str], tmp_path: Path
) -> None:
    """Starlette runs it in its outermost middleware, with ``add_middleware`` or without."""
    with (
        ModelsGateway() as gateway,
        serving("uvicorn", f"starlette_app:{app}", gateway.url, tmp_path) as url,
    ):
        for _ in attempts(gateway, leaked, "bob"):
            with client() as http:  # uvicorn closes the connection after an error
                post(http, Job(url, "plain", "alice", "alice: call", 100_000))
                with pytest.raises(requests.HTTPError, match="500"):
                    post(http, Job(url, "failing", "bob", "bob: call"))
        assert sessions_of(gateway, "bob") - NOT_LEAKED == leaked | own


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


@pytest.mark.parametrize("is_bare", [True, False])
@pytest.mark.parametrize(
    ("server", "app", "endpoints"),
    [
        ("uvloop", "starlette_app:app", ["decorated_stream", "decorated_task"]),
        ("uvloop", "fastapi_app:app", ["decorated_stream", "decorated_task"]),
        ("uvloop", "django_asgi:application", ["decorated_async_stream"]),
        ("sync", "django_wsgi:application", ["decorated_stream"]),
        ("sync", "flask_app:app", ["decorated_stream"]),
    ],
)
def test_bodies_and_tasks_are_in_the_session_of_the_middleware_not_of_the_decorated_view(
    server: str, app: str, endpoints: list[str], is_bare: bool, tmp_path: Path
) -> None:
    """Without the middleware, they are in the session in which the server was started."""
    if is_bare:
        app = f"{app.partition(':')[0]}:bare_app"
    with (
        ModelsGateway() as gateway,
        serving(server, app, gateway.url, tmp_path) as url,
        client() as http,
    ):
        for endpoint, session_id in itertools.product(endpoints, ["sess-1", None]):
            kind = f"{endpoint} {session_id}"
            post(http, Job(url, endpoint, session_id, f"{kind}: call"))
            wait_for_calls(gateway, kind, 1)
            assert sessions_of(gateway, kind) == {"starter" if is_bare else session_id}
