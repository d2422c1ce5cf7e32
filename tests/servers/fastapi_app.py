"""A FastAPI application: ``app`` with the middleware, and ``bare_app`` without it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import agent_calls
from agent_calls import ask, ask_async, async_steps
from fastapi import BackgroundTasks, Depends, FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse
from starlette_app import lifespan, session_id_of

from cagent_session import in_session, session_scope
from cagent_session.integrations.asgi import SessionMiddleware

bare_app = FastAPI(lifespan=lifespan)


@bare_app.post("/plain")
async def plain(request: Request, prompt: str) -> str:
    await request.body()
    return await ask_async(prompt)


async def read_body(request: Request) -> None:
    await request.body()


@bare_app.post("/thread", dependencies=[Depends(read_body)])
def thread(prompt: str) -> str:
    return ask(prompt)


@bare_app.post("/stream")
async def stream(request: Request, prompt: str, steps: int) -> StreamingResponse:
    await request.body()
    return StreamingResponse(async_steps(prompt, steps))


@bare_app.post("/sync_stream", dependencies=[Depends(read_body)])
def sync_stream(prompt: str, steps: int) -> StreamingResponse:
    return StreamingResponse(agent_calls.steps(prompt, steps))


@bare_app.post("/task")
async def task(request: Request, prompt: str, tasks: BackgroundTasks) -> None:
    await request.body()
    tasks.add_task(ask_async, prompt)


@bare_app.websocket("/websocket")
async def websocket(socket: WebSocket) -> None:
    await socket.accept()
    async for prompt in socket.iter_text():
        await socket.send_text(await ask_async(prompt))


def plain_dependency() -> Iterator[None]:
    with session_scope("dependency"):
        yield


async def async_dependency() -> AsyncIterator[None]:
    with session_scope("dependency"):
        yield


bare_app.post("/plain-dependency", dependencies=[Depends(plain_dependency)])(thread)
bare_app.post("/async-dependency", dependencies=[Depends(async_dependency)])(thread)
bare_app.post("/decorated")(in_session(lambda prompt: "of-view")(thread))
bare_app.post("/decorated_stream")(in_session(lambda **_: "of-view")(stream))
bare_app.post("/decorated_task")(in_session(lambda **_: "of-view")(task))

app: Any = bare_app
app = SessionMiddleware(app, session_id_of)
