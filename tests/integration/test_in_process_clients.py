"""In the session of a test, an application that the test calls in its own process is in none."""

from __future__ import annotations

import asyncio
import functools
import importlib
import operator
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import django
import flask
import httpx
import httpx2
import pytest
from django.conf import settings
from django.http import HttpResponse, StreamingHttpResponse
from django.test import AsyncClient, Client
from django.urls import path
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from cagent_session import (
    compacting,
    current_session_id,
    in_process_clients,
    in_session,
    session_scope,
)
from cagent_session.in_process_clients import serving_outside
from cagent_session.integrations import asgi

found: list[tuple[str, str | None]] = []
"""Where an application asked for the current session, and its answer."""


@pytest.fixture(autouse=True)
def new_list() -> None:
    found.clear()


def note(where: str) -> str:
    found.append((where, current_session_id()))
    return where


def parts() -> Iterator[str]:
    yield note("first part")
    yield note("second part")


async def async_parts() -> AsyncIterator[str]:
    for part in parts():
        yield part


# Starlette


async def starlette_view(_: Any) -> StreamingResponse:
    note("view")
    return StreamingResponse(async_parts(), background=BackgroundTask(note, "task"))


def starlette_thread(_: Any) -> PlainTextResponse:
    return PlainTextResponse(note("view"))


async def starlette_websocket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(note("websocket"))
    await websocket.close()


@asynccontextmanager
async def lifespan(_: Any) -> AsyncIterator[None]:
    note("start")
    yield
    note("end")


on_starlette = Starlette(
    routes=[
        Route("/", starlette_view),
        Route("/thread", starlette_thread),
        WebSocketRoute("/websocket", starlette_websocket),
    ],
    lifespan=lifespan,
)

# Flask

on_flask = flask.Flask("on_flask")


@on_flask.get("/")
def flask_view() -> flask.Response:
    note("view")
    return flask.Response(parts())


# Django


def django_view(_: Any) -> StreamingHttpResponse:
    note("view")
    return StreamingHttpResponse(parts())


async def django_async_view(_: Any) -> StreamingHttpResponse:
    note("view")
    return StreamingHttpResponse(async_parts())


def django_plain_view(_: Any) -> HttpResponse:
    return HttpResponse(note("view"))


settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=(
        path("", django_view),
        path("async", django_async_view),
        path("plain", django_plain_view),
    ),
)
django.setup()

# How a test calls these applications. Each function returns the body.


def starlettes_client() -> str:
    return str(TestClient(on_starlette).get("/").text)


def starlettes_client_in_a_thread() -> str:
    return str(TestClient(on_starlette).get("/thread").text)


def starlettes_client_with_lifespan() -> str:
    with TestClient(on_starlette) as client:
        return str(client.get("/thread").text)


def starlettes_client_for_websockets() -> str:
    with TestClient(on_starlette).websocket_connect("/websocket") as websocket:
        return str(websocket.receive_text())


def asgi_transport(library: Any) -> str:
    async def call() -> str:
        async with library.AsyncClient(transport=library.ASGITransport(on_starlette)) as client:
            return str((await client.get("http://app.example/")).text)

    return asyncio.run(call())


def wsgi_transport(library: Any) -> str:
    with library.Client(transport=library.WSGITransport(on_flask)) as client:
        return str(client.get("http://app.example/").text)


def flasks_client() -> str:
    return on_flask.test_client().get("/").text


def djangos_client() -> str:
    return str(Client().get("/").getvalue(), "utf-8")


def djangos_client_without_a_stream() -> str:
    return str(Client().get("/plain").content, "utf-8")


def djangos_async_client() -> str:
    async def call() -> str:
        response = await AsyncClient().get("/async")
        return "".join([part.decode() async for part in response.streaming_content])

    return asyncio.run(call())


STREAMED = ["view", "first part", "second part"]
CLIENTS: list[tuple[Callable[[], str], list[str]]] = [
    (starlettes_client, [*STREAMED, "task"]),
    (starlettes_client_in_a_thread, ["view"]),
    (starlettes_client_with_lifespan, ["start", "view", "end"]),
    (starlettes_client_for_websockets, ["websocket"]),
    *(
        (functools.partial(transport, library), places)
        for library in (httpx, httpx2)
        for transport, places in (
            (asgi_transport, [*STREAMED, "task"]),
            (wsgi_transport, STREAMED),
        )
    ),
    (flasks_client, STREAMED),
    (djangos_client, STREAMED),
    (djangos_client_without_a_stream, ["view"]),
    (djangos_async_client, STREAMED),
]

each_client = pytest.mark.parametrize(("call", "places"), CLIENTS)


@each_client
def test_an_application_is_in_no_session(
    call: Callable[[], str], places: list[str], session_id: str
) -> None:
    assert call() in ("".join(STREAMED[1:]), "view", "websocket")
    assert found == [(place, None) for place in places]
    assert current_session_id() == session_id


@each_client
def test_in_another_session_than_the_tests_a_call_is_left_alone(
    call: Callable[[], str], places: list[str], session_id: str
) -> None:
    """The code that is tested may itself call an application in its process."""
    with session_scope("another"):
        call()
    assert found == [(place, "another") for place in places]


def test_a_purpose_in_the_test_does_not_bring_the_session_to_the_application(
    session_id: str,
) -> None:
    with compacting(), TestClient(Starlette(routes=[Route("/", starlette_thread)])) as client:
        client.get("/")
        assert current_session_id() == session_id
    assert found == [("view", None)]


@each_client
def test_without_the_fixture_nothing_changes(call: Callable[[], str], places: list[str]) -> None:
    with session_scope("sess-1") as session_id:
        with serving_outside(session_scope(session_id)):
            pass
        call()
    assert found == [(place, "sess-1") for place in places]


def test_an_application_that_enters_a_session_is_in_it(session_id: str) -> None:
    app = asgi.SessionMiddleware(
        on_starlette, lambda scope: HTTPConnection(scope).headers["Conversation-Id"]
    )
    TestClient(app).get("/thread", headers={"Conversation-Id": session_id})
    assert found == [("view", session_id)]


def test_the_client_keeps_its_application_and_its_cookies(session_id: str) -> None:
    app = flask.Flask("with_cookies")

    @app.get("/")
    def view() -> flask.Response:
        note(flask.request.cookies.get("name", "no cookie"))
        response = flask.Response()
        response.set_cookie("name", "value")
        return response

    client = app.test_client()
    client.get("/")
    with client:
        client.get("/")
        assert flask.request.path == "/", "the client keeps the context of the request"
    assert found == [("no cookie", None), ("value", None)]
    assert client.application is app


class ClientOfAnApi(TestClient):
    """A class that can't be copied by copy.copy()."""

    def __init__(self, api: object) -> None:
        super().__init__(on_starlette)
        self.api = api

    def __getattr__(self, name: str) -> Any:
        return getattr(self.api, name)


def test_the_class_of_a_client_may_be_the_users_own(session_id: str) -> None:
    with ClientOfAnApi(object()) as client:
        client.get("/thread")
    assert found == [("start", None), ("view", None), ("end", None)]


def test_an_application_may_call_another_one_in_its_own_session(session_id: str) -> None:
    app = flask.Flask("caller")
    app.get("/")(in_session(lambda: session_id)(flasks_client))
    assert app.test_client().get("/").text == "".join(STREAMED[1:])
    assert found == [(place, session_id) for place in STREAMED]


@pytest.mark.anyio
async def test_an_asynchronous_test_is_in_the_session_too(session_id: str) -> None:
    assert current_session_id() == session_id
    async with httpx.AsyncClient(transport=httpx.ASGITransport(on_starlette)) as client:
        await client.get("http://app.example/thread")
    assert found == [("view", None)]


def test_a_client_may_be_imported_in_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "werkzeug.test")
    with (scope := session_scope("sess-1")), serving_outside(scope):
        client = importlib.import_module("werkzeug.test").Client
        assert client(on_flask).get("/").text == "".join(STREAMED[1:])
    assert found == [(place, None) for place in STREAMED]


def test_another_release_of_a_library_may_lack_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", ModuleType("httpx"))
    with (scope := session_scope("sess-1")), serving_outside(scope):
        flasks_client()
    assert found == [(place, None) for place in STREAMED]


def test_afterwards_all_methods_are_the_original_ones() -> None:
    def methods() -> list[object]:
        return [
            getattr(sys.modules[module], cls).__dict__[method]
            for module, classes in in_process_clients._CLIENTS.items()
            for cls, method, _ in classes
        ]

    before, finders = methods(), list(sys.meta_path)
    with serving_outside(session_scope("sess-1")):
        assert not set(map(id, before)) & set(map(id, methods()))
    assert all(map(operator.is_, before, methods()))
    assert sys.meta_path == finders


def test_a_test_of_a_view_that_enters_no_session_fails(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\ncagent_require_session = true")
    pytester.makepyfile("""
        import fastapi
        from fastapi.testclient import TestClient

        def test_of_the_view(session_id, gateway_session, models_gateway):
            app = fastapi.FastAPI()
            app.get("/")(lambda: gateway_session.get(models_gateway.url + "/v1/models").status_code)
            assert TestClient(app).get("/").json() == 400

        def test_of_the_agent(session_id, gateway_session, models_gateway):
            gateway_session.get(models_gateway.url + "/v1/models")
    """)
    result = pytester.runpytest_inprocess("-p", "no:asyncio")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["1 call reached the models gateway in no session:*"])
