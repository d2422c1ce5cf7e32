"""An agent server with FastAPI. Each request works in the session that its path names.

pip install ".[testing]" fastapi uvicorn && python examples/servers/on_fastapi.py

In production, start the same app with uvicorn's own command: on_fastapi:app
"""

from __future__ import annotations

import asyncio
from typing import Annotated

import uvicorn
from fastapi import BackgroundTasks, Body, FastAPI
from fastapi.responses import PlainTextResponse, StreamingResponse
from model_calls import complete, run_loop, serve

from cagent_session import InvalidSessionId, generating_title, in_session
from cagent_session.integrations import asgi

Prompt = Annotated[str, Body(embed=True)]  # {"prompt": "Hello"}

api = FastAPI()
api.add_exception_handler(InvalidSessionId, lambda _, error: PlainTextResponse(str(error), 400))


@api.post("/sessions/{session_id}/ask")
@in_session("session_id")
def ask(session_id: str, prompt: Prompt) -> str:
    return complete(prompt)


@api.post("/sessions/{session_id}/title")
@in_session("session_id")
async def title(session_id: str, prompt: Prompt) -> str:
    with generating_title():
        return await asyncio.to_thread(complete, prompt)


@api.post("/sessions/{session_id}/events")
@in_session("session_id")  # refuses a bad ID before the stream starts
def events(session_id: str, prompt: Prompt, tasks: BackgroundTasks) -> StreamingResponse:
    steps = run_loop(session_id, prompt)
    tasks.add_task(steps.close)  # for a caller who hangs up
    return StreamingResponse(steps, media_type="text/plain")


app = asgi.SessionMiddleware(api)  # around all of it, the handlers of errors included

if __name__ == "__main__":
    serve(lambda fd: uvicorn.Server(uvicorn.Config(app, log_level="warning", fd=fd)).run())
