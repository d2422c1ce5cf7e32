"""Tests of the servers in examples/servers, and of session scopes in Flask and FastAPI."""

from __future__ import annotations

import ast
import asyncio
import functools
import importlib
import inspect
import itertools
import os
import re
import runpy
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

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

SERVERS = Path(__file__).parents[2] / "examples" / "servers"
PROGRAMS = ["on_flask", "on_fastapi"]
ENDPOINTS = ["ask", "title", "events"]
SESSIONS = ["sess-0", "sess-1", "sess-2", "sess-3"]

each_program = pytest.mark.parametrize("program", PROGRAMS)


def post(url: str, prompt: object, **kwargs: Any) -> requests.Response:
    return requests.post(url, json={"prompt": str(prompt)}, timeout=60, **kwargs)


def stream(url: str, prompt: object) -> tuple[requests.Response, Iterator[Any]]:
    response = post(url, prompt, stream=True)
    return response, response.iter_lines(chunk_size=1, decode_unicode=True)


def prompts(gateway: ModelsGateway, session_id: str | None) -> list[str]:
    """Return the prompts of the session's calls, in order of arrival.

    A call has none if the server has ended it early, because its own caller has hung up.
    """
    whole = [call for call in gateway.calls_in(session_id) if call.body]
    return [call.json["messages"][0]["content"] for call in whole]


@contextmanager
def running_program(program: str, log: Path, **variables: str) -> Iterator[str]:
    """Run a program of examples/servers, and write its output to *log*."""
    environment = {name: v for name, v in os.environ.items() if not name.endswith("GATEWAY")}
    environment.update(NO_PROXY="127.0.0.1", PORT="0", **variables)
    command = [sys.executable, "-W", "error", str(SERVERS / f"{program}.py")]
    with (
        log.open("wb") as out,
        subprocess.Popen(command, stdout=out, stderr=out, env=environment) as process,
    ):
        try:
            deadline = time.monotonic() + 60
            while not (found := re.search("curl (http://[^/]+)/", log.read_text())):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield found[1]
        finally:
            process.terminate()


@each_program
def test_a_program_attributes_the_calls_of_two_sessions(program: str, tmp_path: Path) -> None:
    """Both streams begin before one of them ends. Meanwhile, other requests are answered."""
    finish = {"sess-1": threading.Event(), "sess-2": threading.Event()}

    def answer(request: Request) -> Response:
        prompt = request.get_json()["messages"][0]["content"]
        assert prompt not in finish or finish[prompt].wait(30)
        return default_answer(request) or Response(status=404)

    with ModelsGateway() as gateway:
        gateway.expect_request("/v1/chat/completions").respond_with_handler(answer)
        variables = {"CAGENT_MODELS_GATEWAY": f"{gateway.url}/", "OPENAI_API_KEY": "sk-secret"}
        with running_program(program, tmp_path / "log", **variables) as url:
            streams = {sess: stream(f"{url}/sessions/{sess}/events", sess)[1] for sess in finish}
            for sess in finish:
                assert next(streams[sess]) == f"You said: Plan: {sess}"
            for sess in finish:
                assert "You said: Hi" in post(f"{url}/sessions/{sess}/ask", "Hi").text
                assert "You said: Hi" in post(f"{url}/sessions/{sess}/title", "Hi").text
            refused = post(f"{url}/sessions/not%20one/events", "Hi")
            assert (refused.status_code, refused.text[:10]) == (400, "session ID")
            for sess in reversed(finish):
                finish[sess].set()
                assert list(streams[sess]) == [f"You said: {sess}"]
        for sess in finish:
            assert sorted(prompts(gateway, sess)) == ["Hi", "Hi", f"Plan: {sess}", sess]
            titles = [
                call.headers.get("X-Cagent-GeneratingTitle") for call in gateway.calls_in(sess)
            ]
            assert titles.count("1") == 1
        assert {call.headers["Authorization"] for call in gateway.calls} == {"Bearer sk-secret"}
        assert {call.session_id for call in gateway.calls} == set(finish)


@each_program
def test_without_a_gateway_a_program_starts_a_stand_in_and_logs_it(
    program: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with running_program(program, log) as url:
        assert "You said: Hello" in post(f"{url}/sessions/sess-1/ask", "Hello").text
    first, *_ = log.read_text().splitlines()
    assert "stand-in" in first
    assert "session sess-1: stamped: POST http://127.0.0.1" in log.read_text()


def test_the_query_of_the_gateways_url_comes_with_each_call(
    gateway: ModelsGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_AGENT_MODELS_GATEWAY", f"{gateway.url}/models?tier=pro")
    model_calls = runpy.run_path(str(SERVERS / "model_calls.py"))
    model_calls["complete"]("Hi")
    model_calls["http"].close()
    received = [request.full_path for request, _ in gateway.log]
    assert received == ["/models/v1/chat/completions?tier=pro"]


@pytest.mark.parametrize("program", ["model_calls", *PROGRAMS])
def test_the_guide_shows_the_functions_of_the_programs(program: str) -> None:
    source = (SERVERS / f"{program}.py").read_text(encoding="utf-8")
    functions = functions_in(source)
    shown = set[str]()
    for example in Document.parse(str(SERVERS / "README.rst"), PythonCodeBlockParser()).examples():
        if example.parsed.startswith(f"# {program}.py\n"):
            shown |= functions_in(example.parsed)
    assert shown
    assert shown <= functions


def functions_in(source: str) -> set[str]:
    return {
        "\n".join(
            [*map(ast.unparse, node.decorator_list), str(ast.get_source_segment(source, node))]
        )
        for node in ast.parse(source).body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }


# The apps run in this process. Endpoints are added that the programs do not have.


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
    """Serve *app* on a pool of threads, as gunicorn and waitress do.

    A thread serves several requests. So if a request leaves a scope open, the next request sees it.
    """
    server: Any = make_server("127.0.0.1", 0, app, threaded=True)
    with ThreadPoolExecutor(len(SESSIONS) + 1) as pool:
        server.process_request = functools.partial(pool.submit, server.process_request_thread)
        with running(
            lambda: server.serve_forever(0.02), server.shutdown, server.server_port
        ) as url:
            yield url


def on_uvicorn(app: Any) -> AbstractContextManager[str]:
    """Serve *app*. Before it stops, uvicorn waits for responses and background tasks."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
    stop = functools.partial(setattr, server, "should_exit", True)
    return running(lambda: server.run([listener]), stop, listener.getsockname()[1])


@pytest.fixture(scope="module")
def started_gateway() -> Iterator[ModelsGateway]:
    with ModelsGateway() as gateway:
        yield gateway


@pytest.fixture
def gateway(started_gateway: ModelsGateway) -> ModelsGateway:
    started_gateway.clear()
    return started_gateway


@pytest.fixture(scope="module")
def modules(started_gateway: ModelsGateway) -> Iterator[dict[str, ModuleType]]:
    """Import the programs. They call our gateway."""
    names = ["model_calls", *PROGRAMS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_AGENT_MODELS_GATEWAY", started_gateway.url)
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.syspath_prepend(str(SERVERS))
        modules = {name: importlib.import_module(name) for name in names}
        yield modules
        modules["model_calls"].http.close()
        for name in names:
            del sys.modules[name]


@pytest.fixture(scope="module")
def apps(modules: dict[str, ModuleType]) -> dict[str, Any]:
    """The programs' apps. Both get an endpoint in no session, and FastAPI's an async stream."""
    complete = modules["model_calls"].complete
    plain = flask.Flask("plain")
    plain.post("/ask")(lambda: complete(flask.request.json["prompt"]))
    api = modules["on_fastapi"].api

    def ask(prompt: Annotated[str, fastapi.Body(embed=True)]) -> str:
        return str(complete(prompt))

    def async_events(
        session_id: str, prompt: Annotated[str, fastapi.Body(embed=True)]
    ) -> StreamingResponse:
        steps = modules["on_fastapi"].async_run_loop(session_id, prompt)
        return StreamingResponse(steps, media_type="text/plain")

    api.post("/plain/ask")(ask)
    api.post("/sessions/{session_id}/async_events")(async_events)
    return {
        "on_flask": DispatcherMiddleware(modules["on_flask"].app, {"/plain": plain}),
        "on_fastapi": modules["on_fastapi"].app,
    }


@pytest.fixture(scope="module", params=PROGRAMS)
def url(request: pytest.FixtureRequest, apps: dict[str, Any]) -> Iterator[str]:
    serve = on_werkzeug if request.param == "on_flask" else on_uvicorn
    with serve(apps[request.param]) as url:
        yield url


def test_each_of_five_concurrent_requests_is_in_its_own_session(
    url: str, gateway: ModelsGateway
) -> None:
    """The gateway answers when it has all five calls. One of them is in no session."""
    together = threading.Barrier(len(SESSIONS) + 1)

    def answer(request: Request) -> Response:
        if not request.get_json()["messages"][0]["content"].startswith("Plan: "):
            together.wait(30)
        return default_answer(request) or Response(status=404)

    def is_echoed(path: str) -> bool:
        return f"You said: {path}" in post(f"{url}/{path}", path).text

    gateway.expect_request("/v1/chat/completions").respond_with_handler(answer)
    with ThreadPoolExecutor(together.parties) as clients:
        for endpoint in ENDPOINTS * 2:
            paths = ["plain/ask", *(f"sessions/{sess}/{endpoint}" for sess in SESSIONS)]
            assert all(clients.map(is_echoed, paths))
    for sess in SESSIONS:
        ask, title, events = (f"sessions/{sess}/{endpoint}" for endpoint in ENDPOINTS)
        assert prompts(gateway, sess) == [ask, title, f"Plan: {events}", events] * 2
    assert prompts(gateway, None) == ["plain/ask"] * len(ENDPOINTS * 2)


# Longer run loops. Each step waits for its turn, and the end of the loop makes a call, too.


Turns = dict[str, threading.Semaphore]
Complete = Callable[[str], str]


@pytest.fixture
def turns(modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> Turns:
    turns = {sess: threading.Semaphore(0) for sess in SESSIONS}
    complete: Complete = modules["model_calls"].complete

    @in_session("session_id")
    def run_loop(session_id: str, steps: str) -> Iterator[str]:
        try:
            for step in range(int(steps)):
                yield f"{step}\n"
                assert turns[session_id].acquire(timeout=90)
                complete(str(step))
        finally:
            complete("closed")

    @in_session("session_id")
    async def async_run_loop(session_id: str, steps: str) -> AsyncIterator[str]:
        try:
            for step in range(int(steps)):
                yield f"{step}\n"
                assert await asyncio.to_thread(turns[session_id].acquire, timeout=90)
                complete(str(step))
        finally:
            complete("closed")

    for program in PROGRAMS:
        monkeypatch.setattr(modules[program], "run_loop", run_loop)
    monkeypatch.setattr(modules["on_fastapi"], "async_run_loop", async_run_loop, raising=False)
    return turns


each_stream = pytest.mark.parametrize(
    ("url", "endpoint"),
    [("on_flask", "events"), ("on_fastapi", "events"), ("on_fastapi", "async_events")],
    indirect=["url"],
)


@each_stream
def test_streams_that_are_read_in_turns_keep_their_sessions(
    url: str, endpoint: str, gateway: ModelsGateway, turns: Turns
) -> None:
    streams = {sess: stream(f"{url}/sessions/{sess}/{endpoint}", 3)[1] for sess in SESSIONS}
    for step in range(3):
        for sess in SESSIONS if step % 2 else reversed(SESSIONS):
            assert next(streams[sess]) == str(step)
            post(f"{url}/plain/ask", "between")
            turns[sess].release()
    for sess in SESSIONS:
        assert list(streams[sess]) == []
        assert prompts(gateway, sess) == ["0", "1", "2", "closed"]
    assert prompts(gateway, None) == ["between"] * 3 * len(SESSIONS)


@each_stream
def test_a_stream_whose_caller_hangs_up_ends_in_its_session(
    url: str, endpoint: str, gateway: ModelsGateway, turns: Turns
) -> None:
    leaving, left = stream(f"{url}/sessions/sess-0/{endpoint}", 1_000_000)
    _, staying = stream(f"{url}/sessions/sess-1/{endpoint}", 2)
    assert (next(left), next(staying)) == ("0", "0")
    leaving.close()
    turns["sess-0"].release(1_000_000)  # some servers notice it only when they write
    deadline = time.monotonic() + 60
    while "closed" not in prompts(gateway, "sess-0"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    turns["sess-1"].release(2)
    assert list(staying) == ["1"]
    *steps, _ = prompts(gateway, "sess-0")
    assert steps == [str(step) for step in range(len(steps))]
    assert prompts(gateway, "sess-1") == ["0", "1", "closed"]
    assert {call.session_id for call in gateway.calls} == {"sess-0", "sess-1"}


def test_fastapi_does_not_close_a_generator_whose_caller_hangs_up() -> None:
    """For this reason, the view in on_fastapi.py adds a task that closes it."""
    app = fastapi.FastAPI()
    steps = (f"{number}\n" for number in itertools.count())
    app.post("/")(lambda: StreamingResponse(steps, media_type="text/plain"))
    with on_uvicorn(app) as url:
        response, lines = stream(url, "")
        assert next(lines) == "0"
        response.close()
    assert inspect.getgeneratorstate(steps) == inspect.GEN_SUSPENDED


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("sess", ["%20", "one%20word", "caf%C3%A9", "line%0D%0Abreak", "x" * 257])
def test_a_bad_id_is_answered_400_and_makes_no_call(
    url: str, gateway: ModelsGateway, endpoint: str, sess: str
) -> None:
    response = post(f"{url}/sessions/{sess}/{endpoint}", "Whose is this?")
    assert (response.status_code, response.text[:10]) == (400, "session ID")
    assert gateway.calls == []


# Code that runs after a view


async def in_session_of_path(
    request: fastapi.Request, call_next: Callable[..., Awaitable[Any]]
) -> Any:
    with session_scope(request.url.path[1:]):
        return await call_next(request)


@pytest.mark.parametrize("middleware", [None, in_session_of_path])
def test_after_a_fastapi_view_code_is_in_the_middlewares_session_not_in_the_views(
    modules: dict[str, ModuleType], gateway: ModelsGateway, middleware: Any
) -> None:
    complete: Complete = modules["model_calls"].complete
    app = fastapi.FastAPI()

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
    attributed = ["view", *(after if middleware else []), "carried task"]
    assert [prompts(gateway, sess) for sess in SESSIONS] == [attributed] * len(SESSIONS)
    assert sorted(prompts(gateway, None)) == ([] if middleware else sorted(after * len(SESSIONS)))


@pytest.mark.parametrize("scope_in", ["view", "before_request"])
def test_a_body_that_flask_streams_is_in_no_session_unless_it_is_decorated(
    modules: dict[str, ModuleType], gateway: ModelsGateway, scope_in: str
) -> None:
    complete: Complete = modules["model_calls"].complete
    app = flask.Flask("streaming")

    def body(sess: str) -> Iterator[str]:
        complete("body")
        yield "done"

    def view(sess: str) -> flask.Response:
        complete("view")
        decorated = in_session("sess")(body)
        return flask.Response(body(sess) if sess == "sess-1" else decorated(sess))

    def enter() -> None:
        flask.g.scope = session_scope((flask.request.view_args or {})["sess"])
        flask.g.scope.__enter__()

    if scope_in == "before_request":
        app.before_request(enter)
        app.teardown_request(lambda _: flask.g.scope.__exit__(None, None, None))
    app.post("/<sess>")(in_session("sess")(view) if scope_in == "view" else view)
    with on_werkzeug(app) as url:
        assert [post(f"{url}/{sess}", "").text for sess in SESSIONS[1:3]] == ["done"] * 2
    assert prompts(gateway, "sess-1") == ["view"]
    assert prompts(gateway, "sess-2") == ["view", "body"]
    assert prompts(gateway, None) == ["body"]
