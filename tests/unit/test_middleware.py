"""Tests of the ASGI and the WSGI middleware, without a server."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NoReturn

import fastapi
import flask
import pytest
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from werkzeug.test import Client

from cagent_session import (
    InvalidSessionId,
    compacting,
    current_session_id,
    session_scope,
    sub_session,
)
from cagent_session.context import Attribution, current_attribution
from cagent_session.integrations import asgi, wsgi

UUID = uuid.UUID("12345678-1234-5678-1234-567812345678")

each_kind = pytest.mark.parametrize("kind", [asgi, wsgi])
each_malformed_id = pytest.mark.parametrize(
    ("session_id", "problem"),
    [
        ("", b"session ID must be 1-256 visible ASCII characters, got an empty string"),
        ("one word", b"session ID must be 1-256 visible ASCII characters, got a space at"),
        ("x" * 257, b"session ID must be 1-256 visible ASCII characters, got 257 characters"),
        (b"sess-1", b"session ID must be a str or a uuid.UUID, got bytes"),
    ],
)
each_id = pytest.mark.parametrize(
    ("session_id", "expected"), [("sess-1", "sess-1"), (UUID, str(UUID)), (None, None)]
)


def fail(*_: Any) -> NoReturn:
    raise LookupError("no such user")


def refuse(request: Any) -> NoReturn:
    raise InvalidSessionId("this conversation is over")


def read_id(request: dict[str, Any]) -> Any:
    return request["id"]


class AsyncFinder:
    async def __call__(self, request: Any) -> str:
        return "sess-1"


@each_kind
@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["module:app"], "SessionMiddleware() takes an application, got str"),
        ([fail, "X-Session"], "session_id_of must be a function of the request, got str"),
        ([fail, asyncio.sleep], "session_id_of must be a plain function, got an async function"),
        ([fail, AsyncFinder()], "session_id_of must be a plain function, got an async AsyncFinder"),
    ],
)
def test_wrong_arguments_raise_type_error(kind: Any, arguments: Any, problem: str) -> None:
    with pytest.raises(TypeError) as caught:
        kind.SessionMiddleware(*arguments)
    assert str(caught.value) == problem


# ASGI


async def no_messages(*_: Any) -> NoReturn:
    raise AssertionError("the application received or sent a message")


def run_asgi(app: Any, scope: dict[str, Any]) -> list[dict[str, Any]]:
    """Run *app* in the session "outer". Return the messages that it has sent."""
    sent = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def run() -> None:
        with session_scope("outer"):
            try:
                await app(scope, no_messages, send)
            finally:
                assert current_session_id() == "outer"

    asyncio.run(run())
    return sent


async def tell_session(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(0)
    await send({"session": current_session_id()})


@each_id
@pytest.mark.parametrize("type_", ["http", "websocket"])
def test_asgi_requests_run_in_their_session(type_: str, session_id: Any, expected: Any) -> None:
    app = asgi.SessionMiddleware(tell_session, read_id)
    assert run_asgi(app, {"type": type_, "id": session_id}) == [{"session": expected}]


@pytest.mark.parametrize(
    ("type_", "session_id_of"),
    [("http", None), ("websocket", None), ("lifespan", fail), ("of an extension", fail)],
)
def test_all_else_runs_in_no_session(type_: str, session_id_of: Any) -> None:
    app = asgi.SessionMiddleware(tell_session, session_id_of)
    assert run_asgi(app, {"type": type_}) == [{"session": None}]


def test_the_asgi_application_gets_what_the_server_gave() -> None:
    got = list[Any]()

    async def app(*arguments: Any) -> None:
        got.extend(arguments)

    given = ({"type": "http"}, no_messages, no_messages)
    asyncio.run(asgi.SessionMiddleware(app)(*given))
    assert [id(each) for each in got] == [id(each) for each in given]


@each_malformed_id
def test_an_asgi_request_with_a_malformed_id_is_answered_400(
    session_id: Any, problem: bytes
) -> None:
    app = asgi.SessionMiddleware(no_messages, read_id)
    start, body = run_asgi(app, {"type": "http", "id": session_id})
    assert body["body"].startswith(problem)
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body["body"])).encode()),
    ]
    assert start == {"type": "http.response.start", "status": 400, "headers": headers}
    assert body == {"type": "http.response.body", "body": body["body"]}


@each_malformed_id
def test_a_websocket_with_a_malformed_id_is_closed(session_id: Any, problem: bytes) -> None:
    app = asgi.SessionMiddleware(no_messages, read_id)
    [message] = run_asgi(app, {"type": "websocket", "id": session_id})
    assert message.pop("reason").startswith(problem.decode())
    assert message == {"type": "websocket.close", "code": 1008}


def test_the_asgi_middleware_refuses_what_session_id_of_refuses() -> None:
    start, body = run_asgi(asgi.SessionMiddleware(no_messages, refuse), {"type": "http"})
    assert (start["status"], body["body"]) == (400, b"this conversation is over")


async def fail_later(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(0)
    fail(scope)


@pytest.mark.parametrize(("app", "of"), [(no_messages, fail), (fail_later, read_id)])
def test_asgi_errors_pass(app: Any, of: Any) -> None:
    with pytest.raises(LookupError, match="no such user"):
        run_asgi(asgi.SessionMiddleware(app, of), {"type": "http", "id": "sess-1"})


def test_concurrent_requests_on_an_event_loop_keep_their_sessions() -> None:
    session_ids = ["sess-1", None, "sess-2", "sess-1"]

    async def run() -> list[list[str | None]]:
        started, all_started = list[Any](), asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send(current_session_id())
            started.append(scope)
            if len(started) == len(session_ids):
                all_started.set()
            await all_started.wait()
            await asyncio.create_task(send(current_session_id()))

        wrapped = asgi.SessionMiddleware(app, read_id)

        async def request(session_id: str | None) -> list[str | None]:
            seen = list[str | None]()

            async def send(message: Any) -> None:
                seen.append(message)

            await wrapped({"type": "http", "id": session_id}, no_messages, send)
            return seen

        return await asyncio.gather(*map(request, session_ids))

    assert asyncio.run(run()) == [[session_id] * 2 for session_id in session_ids]


def test_the_session_covers_the_view_the_streamed_body_and_the_background_task_of_fastapi() -> None:
    seen = []
    app = fastapi.FastAPI()

    @app.get("/")
    def view(tasks: fastapi.BackgroundTasks) -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            seen.append(current_session_id())
            yield "body"
            seen.append(current_session_id())

        seen.append(current_session_id())
        tasks.add_task(lambda: seen.append(current_session_id()))
        return StreamingResponse(body())

    def session_id_of(scope: asgi.Scope) -> str | None:
        return fastapi.requests.HTTPConnection(scope).headers.get("Conversation-Id")

    caller = TestClient(asgi.SessionMiddleware(app, session_id_of))
    assert caller.get("/", headers={"Conversation-Id": "sess-1"}).text == "body"
    assert caller.get("/").text == "body"
    assert seen == ["sess-1"] * 4 + [None] * 4


# WSGI


class Body:
    """A body that records in which session each part is made, and in which one it is closed."""

    def __init__(self) -> None:
        self.parts = iter(range(3))
        self.closed_in = list[str | None]()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return f"{next(self.parts)} in {current_session_id()}".encode()

    def close(self) -> None:
        self.closed_in.append(current_session_id())


class Application:
    """A WSGI application. It answers with *body*."""

    def __init__(self, body: Any) -> None:
        self.body = body
        self.called_in = list[str | None]()

    def __call__(self, environ: Any, start_response: Any) -> Any:
        self.called_in.append(current_session_id())
        start_response("200 OK", [])
        return self.body


def respond(app: Any, session_id_of: Any, session_id: Any) -> tuple[Any, list[Any]]:
    """Return the body, and the list that gets what the application tells start_response()."""
    started = list[Any]()

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Callable[..., None]:
        started.append((status, headers))
        return started.append

    environ: Any = {"id": session_id}
    return wsgi.SessionMiddleware(app, session_id_of)(environ, start_response), started


@each_id
def test_a_wsgi_request_runs_in_its_session_to_the_end(session_id: Any, expected: Any) -> None:
    app = Application(Body())
    body, started = respond(app, read_id, session_id)
    assert started == [("200 OK", [])]
    with session_scope("server"):
        for number in range(3):
            assert next(body) == f"{number} in {expected}".encode()
            assert current_session_id() == "server"
        assert list(body) == []
    assert app.called_in == app.body.closed_in == [expected]


def test_without_session_id_of_a_wsgi_request_runs_in_no_session() -> None:
    with session_scope("server"):
        assert next(respond(Application(Body()), None, "sess-1")[0]) == b"0 in None"


def test_a_body_needs_no_close_method() -> None:
    assert list(respond(Application([b"one", b"two"]), read_id, "sess-1")[0]) == [b"one", b"two"]


@pytest.mark.parametrize("read", [0, 1])
def test_if_the_caller_hangs_up_the_body_is_closed_in_its_session(read: int) -> None:
    app = Application(Body())
    body, _ = respond(app, read_id, "sess-1")
    for _ in range(read):
        next(body)
    with session_scope("server"):
        body.close()
    assert app.called_in == app.body.closed_in == ["sess-1"]


@each_malformed_id
def test_a_wsgi_request_with_a_malformed_id_is_answered_400(
    session_id: Any, problem: bytes
) -> None:
    app = Application(Body())
    [body], [(status, headers)] = respond(app, read_id, session_id)
    assert status == "400 Bad Request"
    assert dict(headers) == {
        "content-type": "text/plain; charset=utf-8",
        "content-length": str(len(body)),
    }
    assert body.startswith(problem)
    assert app.called_in == []


def test_a_refused_head_request_has_no_body() -> None:
    """Some servers would send it, and the client would take it for the next answer."""
    environ: Any = {"id": "one word", "REQUEST_METHOD": "HEAD"}
    app = wsgi.SessionMiddleware(Application([]), read_id)
    assert app(environ, lambda *_: lambda _: None) == []


def test_the_wsgi_middleware_refuses_what_session_id_of_refuses() -> None:
    [body], [(status, _)] = respond(Application([]), refuse, None)
    assert (status, body) == ("400 Bad Request", b"this conversation is over")


def failing_app(environ: Any, start_response: Any) -> NoReturn:
    fail(environ)


@pytest.mark.parametrize(("app", "of"), [(Application([]), fail), (failing_app, read_id)])
def test_wsgi_errors_pass(app: Any, of: Any) -> None:
    with pytest.raises(LookupError, match="no such user"):
        list(respond(app, of, "sess-1")[0])


def test_an_error_in_the_body_passes_and_the_body_is_closed() -> None:
    body = Body()
    body.parts = map(fail, "1")
    with session_scope("server"), pytest.raises(LookupError, match="no such user"):
        list(respond(Application(body), read_id, "sess-1")[0])
    assert body.closed_in == ["sess-1"]


@each_kind
@pytest.mark.parametrize("session_id", ["sess-1", "sess-2"])
def test_a_requests_session_is_its_own_even_if_the_server_is_in_it(
    kind: Any, session_id: str
) -> None:
    """A server may have been started by an agent, or be in the session of the request before."""
    seen = list[Attribution]()

    async def asgi_app(*_: Any) -> None:
        seen.append(current_attribution())

    def wsgi_app(*_: Any) -> list[bytes]:
        seen.append(current_attribution())
        return []

    def serve() -> None:
        if kind is asgi:
            scope = {"type": "http", "id": session_id}
            asyncio.run(asgi.SessionMiddleware(asgi_app, read_id)(scope, no_messages, no_messages))
        else:
            respond(wsgi_app, read_id, session_id)

    with compacting():
        serve()
        with session_scope("server"), sub_session("sess-1"):
            serve()
    assert seen == [Attribution(session_id, None, session_id)] * 2


@each_kind
def test_session_id_of_runs_in_no_session(kind: Any) -> None:
    """The server may be in the session of the request before."""
    seen = list[str | None]()
    app = kind.SessionMiddleware(fail, lambda _: seen.append(current_session_id()))
    with session_scope("before"), pytest.raises(LookupError):
        asyncio.run(app({"type": "http"}, None, None)) if kind is asgi else app({}, None)
    assert seen == [None]


def test_a_scope_that_an_asgi_view_leaves_open_ends_with_its_request() -> None:
    async def app(*_: Any) -> None:
        session_scope("left-open").__enter__()

    assert run_asgi(asgi.SessionMiddleware(app), {"type": "http"}) == []


def test_a_scope_that_a_wsgi_view_leaves_open_ends_with_its_request() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        before = current_session_id()
        session_scope("left-open").__enter__()
        return [str(before).encode()]

    for session_id in ("sess-1", None):
        assert list(respond(app, read_id, session_id)[0]) == [str(session_id).encode()]
        assert current_session_id() is None


def test_the_session_covers_the_view_and_the_streamed_body_of_flask() -> None:
    app = flask.Flask("app")

    @app.get("/")
    def view() -> flask.Response:
        def body(of_view: str | None) -> Iterator[str]:
            yield f"view: {of_view}, "
            yield f"body: {current_session_id()}"

        return flask.Response(body(current_session_id()))

    caller = Client(wsgi.SessionMiddleware(app, lambda environ: environ.get("HTTP_CONVERSATION")))
    answer = caller.get("/", headers={"Conversation": "sess-1"})
    assert answer.text == "view: sess-1, body: sess-1"
    assert caller.get("/").text == "view: None, body: None"
