"""Does a web server bill each request's calls to its session? The README's two apps, on real servers."""

from __future__ import annotations

import asyncio
import functools
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import fastapi
import flask
import pytest
import requests
import uvicorn
from fastapi.responses import StreamingResponse
from sybil.document import Document
from sybil.parsers.rest import PythonCodeBlockParser
from werkzeug import Request, Response
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.serving import make_server

from cagent_session import carry_session, in_session, session_scope
from cagent_session.testing import ModelsGateway
from cagent_session.testing.answers import default_answer

README = Path(__file__).parents[2] / "README.rst"
ENDPOINTS = ["ask", "title", "events"]
SESSIONS = ["sess-0", "sess-1", "sess-2", "sess-3"]
Turns = dict[str, threading.Semaphore]


@contextmanager
def running(serve: Callable[[], object], stop: Callable[[], object], port: int) -> Iterator[str]:
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        stop()
        thread.join()


@contextmanager
def on_werkzeug(app: Any) -> Iterator[str]:
    """On threads that are used again, as those of gunicorn and waitress: what leaks reaches the next request."""
    server: Any = make_server("127.0.0.1", 0, app, threaded=True)
    with ThreadPoolExecutor(len(SESSIONS) + 1) as pool:
        server.process_request = functools.partial(pool.submit, server.process_request_thread)
        with running(
            lambda: server.serve_forever(0.02), server.shutdown, server.server_port
        ) as url:
            yield url


def on_uvicorn(app: Any) -> AbstractContextManager[str]:
    """Its end waits for responses and background tasks, and closes the listener."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
    stop = functools.partial(setattr, server, "should_exit", True)
    return running(lambda: server.run([listener]), stop, listener.getsockname()[1])


@pytest.fixture(scope="module")
def names() -> Iterator[dict[str, Any]]:
    """Run the README's blocks up to its second app; an endpoint in no session and an async stream join them."""
    document = Document.parse(str(README), PythonCodeBlockParser())
    names: dict[str, Any] = document.namespace

    def ask(prompt: str) -> Any:
        return names["complete"](prompt)

    def async_events(session_id: str, prompt: str) -> StreamingResponse:
        return StreamingResponse(
            names["async_run_loop"](names["AgentSession"](session_id), prompt),
            media_type="text/plain",
        )

    for example in document.examples():
        example.evaluate()
        if isinstance(names.get("app"), flask.Flask):
            plain = flask.Flask("plain")
            plain.post("/ask")(lambda: ask(flask.request.args["prompt"]))
            names["flask"] = DispatcherMiddleware(names.pop("app"), {"/plain": plain})
        if isinstance(names.get("app"), fastapi.FastAPI):
            names["fastapi"] = names.pop("app")
            names["fastapi"].post("/plain/ask")(ask)
            names["fastapi"].post("/sessions/{session_id}/async_events")(async_events)
            break
    yield names
    names["http"].close()
    names["gateway"].stop()


@pytest.fixture(scope="module", params=["flask", "fastapi"])
def url(request: pytest.FixtureRequest, names: dict[str, Any]) -> Iterator[str]:
    serve = on_werkzeug if request.param == "flask" else on_uvicorn
    with serve(names[request.param]) as url:
        yield url


@pytest.fixture
def gateway(names: dict[str, Any]) -> ModelsGateway:
    gateway: ModelsGateway = names["gateway"]
    gateway.clear()
    return gateway


def prompts(gateway: ModelsGateway, session_id: str | None) -> list[str]:
    """Return what the session's calls asked, in order of arrival."""
    return [call.json["messages"][0]["content"] for call in gateway.calls_in(session_id)]


def post(url: str, prompt: object, **kwargs: Any) -> requests.Response:
    return requests.post(url, params={"prompt": str(prompt)}, timeout=60, **kwargs)


def test_requests_at_once_are_billed_each_to_its_own_session(
    url: str, gateway: ModelsGateway
) -> None:
    """The gateway answers none before it has all five, and one of them is in no session."""
    together = threading.Barrier(len(SESSIONS) + 1)

    def answer(request: Request) -> Response:
        together.wait(30)
        return default_answer(request) or Response(status=404)

    def echoed(path: str) -> bool:
        return f"{path} asks" in post(f"{url}/{path}", f"{path} asks").text

    gateway.expect_request("/v1/chat/completions").respond_with_handler(answer)
    with ThreadPoolExecutor(together.parties) as clients:
        for endpoint in ENDPOINTS * 2:
            assert all(
                clients.map(
                    echoed, ["plain/ask", *(f"sessions/{sess}/{endpoint}" for sess in SESSIONS)]
                )
            )
    for sess in SESSIONS:
        assert prompts(gateway, sess) == [
            f"sessions/{sess}/{endpoint} asks" for endpoint in ENDPOINTS * 2
        ]
    assert prompts(gateway, None) == ["plain/ask asks"] * len(ENDPOINTS * 2)


@pytest.fixture
def turns(names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Turns:
    """Give the apps longer run loops: each step takes a turn, and the end calls once more."""
    turns = {sess: threading.Semaphore(0) for sess in SESSIONS}
    complete = names["complete"]

    @in_session("sess.id")
    def run_loop(sess: Any, steps: str) -> Iterator[str]:
        try:
            for step in range(int(steps)):
                yield f"{step}\n"
                assert turns[sess.id].acquire(timeout=30)
                complete(str(step))
        finally:
            complete("closed")

    @in_session("sess.id")
    async def async_run_loop(sess: Any, steps: str) -> AsyncIterator[str]:
        try:
            for step in range(int(steps)):
                yield f"{step}\n"
                assert await asyncio.to_thread(turns[sess.id].acquire, timeout=30)
                complete(str(step))
        finally:
            complete("closed")

    monkeypatch.setitem(names, "run_loop", run_loop)
    monkeypatch.setitem(names, "async_run_loop", async_run_loop)
    return turns


each_stream = pytest.mark.parametrize(
    ("url", "endpoint"),
    [("flask", "events"), ("fastapi", "events"), ("fastapi", "async_events")],
    indirect=["url"],
)


def stream(url: str, steps: int) -> tuple[requests.Response, Iterator[Any]]:
    response = post(url, steps, stream=True)
    return response, response.iter_lines(chunk_size=1, decode_unicode=True)


@each_stream
def test_streams_that_are_read_in_turns_keep_to_their_sessions(
    url: str, endpoint: str, gateway: ModelsGateway, turns: Turns
) -> None:
    streams = {sess: stream(f"{url}/sessions/{sess}/{endpoint}", 3)[1] for sess in SESSIONS}
    for step in range(3):
        for sess in SESSIONS if step % 2 else reversed(SESSIONS):
            assert next(streams[sess]) == str(step)
            post(f"{url}/plain/ask", "between")
            turns[sess].release()
    assert [list(rest) for rest in streams.values()] == [[]] * len(SESSIONS)
    assert [prompts(gateway, sess) for sess in SESSIONS] == [["0", "1", "2", "closed"]] * len(
        SESSIONS
    )
    assert prompts(gateway, None) == ["between"] * 3 * len(SESSIONS)


@each_stream
def test_a_stream_whose_client_hangs_up_ends_in_its_session(
    url: str, endpoint: str, gateway: ModelsGateway, turns: Turns
) -> None:
    leaving, left = stream(f"{url}/sessions/sess-0/{endpoint}", 1_000_000)
    _, staying = stream(f"{url}/sessions/sess-1/{endpoint}", 2)
    assert (next(left), next(staying)) == ("0", "0")
    leaving.close()
    turns["sess-0"].release(1_000_000)  # a server may notice only when it writes
    deadline = time.monotonic() + 20
    while "closed" not in prompts(gateway, "sess-0"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    turns["sess-1"].release(2)
    assert list(staying) == ["1"]
    *steps, _ = prompts(gateway, "sess-0")
    assert steps == [str(step) for step in range(len(steps))]
    assert prompts(gateway, "sess-1") == ["0", "1", "closed"]
    assert {call.session_id for call in gateway.calls} == {"sess-0", "sess-1"}


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("sess", ["%20", "one%20word", "caf%C3%A9", "line%0D%0Abreak", "x" * 257])
def test_a_bad_id_is_the_clients_fault_and_calls_nothing(
    url: str, gateway: ModelsGateway, endpoint: str, sess: str
) -> None:
    response = post(f"{url}/sessions/{sess}/{endpoint}", "Whose is this?")
    assert (response.status_code, response.text[:10]) == (400, "session ID")
    assert gateway.calls == []


async def in_session_of_path(
    request: fastapi.Request, call_next: Callable[..., Awaitable[Any]]
) -> Any:
    with session_scope(request.url.path[1:]):
        return await call_next(request)


@pytest.mark.parametrize("middleware", [None, in_session_of_path])
def test_what_fastapi_runs_after_a_view_is_in_a_middlewares_session_not_in_the_views(
    names: dict[str, Any], gateway: ModelsGateway, middleware: Any
) -> None:
    complete, app = names["complete"], fastapi.FastAPI()

    def body() -> Iterator[str]:
        yield "started"
        complete("body")

    def view(sess: str, tasks: fastapi.BackgroundTasks) -> StreamingResponse:
        complete("view")
        tasks.add_task(complete, "task")
        tasks.add_task(carry_session(complete), "carried task")
        return StreamingResponse(body())

    if middleware:
        app.middleware("http")(middleware)
    app.post("/{sess}")(view if middleware else in_session("sess")(view))
    with on_uvicorn(app) as url, ThreadPoolExecutor() as clients:
        list(clients.map(lambda sess: post(f"{url}/{sess}", ""), SESSIONS))
    after = ["body", "task"]
    billed = ["view", *(after if middleware else []), "carried task"]
    assert [prompts(gateway, sess) for sess in SESSIONS] == [billed] * len(SESSIONS)
    assert sorted(prompts(gateway, None)) == ([] if middleware else sorted(after * len(SESSIONS)))
