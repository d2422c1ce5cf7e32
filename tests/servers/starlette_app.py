"""Starlette: ``app`` inside the middleware, ``added_app`` with it added, the others without it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

from agent_calls import ask, ask_async, async_steps, steps
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from cagent_session import in_session, session_scope
from cagent_session.integrations.asgi import Scope, SessionMiddleware


def session_id_of(scope: Scope) -> str | None:
    return HTTPConnection(scope).headers.get("Conversation-Id")


@asynccontextmanager
async def lifespan(_: object) -> AsyncIterator[None]:
    await ask_async("startup: call")
    yield


def prompt_of(request: Request) -> str:
    return request.query_params["prompt"]


def steps_of(request: Request) -> int:
    return int(request.query_params["steps"])


async def plain(request: Request) -> Response:
    await request.body()
    return PlainTextResponse(await ask_async(prompt_of(request)))


async def thread(request: Request) -> Response:
    await request.body()
    return PlainTextResponse(await run_in_threadpool(ask, prompt_of(request)))


async def stream(request: Request) -> Response:
    await request.body()
    return StreamingResponse(async_steps(prompt_of(request), steps_of(request)))


async def sync_stream(request: Request) -> Response:
    await request.body()
    return StreamingResponse(steps(prompt_of(request), steps_of(request)))


async def task(request: Request) -> Response:
    await request.body()
    return Response(background=BackgroundTask(ask_async, prompt_of(request)))


@in_session(lambda _: "of-view")
async def decorated(request: Request) -> Response:
    return await plain(request)


@in_session(lambda _: "of-view")
async def decorated_stream(request: Request) -> Response:
    return await stream(request)


@in_session(lambda _: "of-view")
async def decorated_task(request: Request) -> Response:
    return await task(request)


async def failing(request: Request) -> Response:
    raise LookupError


async def answer_error(request: Request, _: Exception) -> Response:
    return PlainTextResponse(await ask_async(prompt_of(request)), 500)


async def websocket(socket: WebSocket) -> None:
    await socket.accept()
    async for prompt in socket.iter_text():
        await socket.send_text(await ask_async(prompt))


def new_app() -> Any:
    views = [plain, thread, stream, sync_stream, task, failing]
    views += [decorated, decorated_stream, decorated_task]
    routes = [Route(f"/{view.__name__}", view, methods=["POST"]) for view in views]
    return Starlette(
        routes=[*routes, WebSocketRoute("/websocket", websocket)],
        lifespan=lifespan,
        exception_handlers={Exception: answer_error},
    )


bare_app = new_app()
added_app = new_app()
added_app.add_middleware(SessionMiddleware, session_id_of=session_id_of)
app = new_app()
app = SessionMiddleware(app, session_id_of)


async def careless_app(scope: Any, receive: Any, send: Any) -> None:
    """Do what the middleware does, but only for requests that have a session."""
    session_id = session_id_of(scope) if scope["type"] == "http" else None
    with session_scope(session_id) if session_id else nullcontext():
        await bare_app(scope, receive, send)
