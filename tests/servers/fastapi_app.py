"""A FastAPI application with the middleware."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from agent_calls import ask, ask_async, async_steps
from fastapi import BackgroundTasks, Depends, FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse
from starlette_app import lifespan, session_id_of

from cagent_session import in_session, session_scope
from cagent_session.integrations.asgi import SessionMiddleware

app = FastAPI(lifespan=lifespan)
app.add_middleware(SessionMiddleware, session_id_of=session_id_of)


@app.post("/plain")
async def plain(request: Request, prompt: str) -> str:
    await request.body()
    return await ask_async(prompt)


async def read_body(request: Request) -> None:
    await request.body()


@app.post("/thread", dependencies=[Depends(read_body)])
def thread(prompt: str) -> str:
    return ask(prompt)


@app.post("/stream")
async def stream(request: Request, prompt: str) -> StreamingResponse:
    await request.body()
    return StreamingResponse(async_steps(prompt))


@app.post("/task")
async def task(request: Request, prompt: str, tasks: BackgroundTasks) -> None:
    await request.body()
    tasks.add_task(ask_async, prompt)


@app.websocket("/websocket")
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


app.post("/plain-dependency", dependencies=[Depends(plain_dependency)])(thread)
app.post("/async-dependency", dependencies=[Depends(async_dependency)])(thread)
app.post("/decorated")(in_session(lambda prompt: "of-view")(thread))
app.post("/decorated_stream")(in_session(lambda request, prompt: "of-view")(stream))
