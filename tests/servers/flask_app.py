"""A Flask application: ``app`` with the middleware, and ``bare_app`` without it."""

from __future__ import annotations

from typing import Any

from agent_calls import ask, steps
from flask import Flask, Response, request

from cagent_session import in_session, session_scope
from cagent_session.integrations.wsgi import SessionMiddleware


def session_id_of(environ: Any) -> str | None:
    session_id: str | None = environ.get("HTTP_CONVERSATION_ID")
    return session_id


def thread() -> str:
    request.get_data()
    return ask(request.args["prompt"])


def sync_stream() -> Response:
    request.get_data()
    return Response(steps(request.args["prompt"], int(request.args["steps"])))


@in_session(lambda: "of-view")
def decorated_stream() -> Response:
    return sync_stream()


def leaving_open() -> str:
    session_scope("left-open").__enter__()
    return thread()


def new_app() -> Flask:
    app = Flask("agent_server")
    for view in (thread, sync_stream, decorated_stream, leaving_open):
        app.post(f"/{view.__name__}")(view)
    return app


bare_app = new_app()
app = new_app()
app.wsgi_app = SessionMiddleware(app.wsgi_app, session_id_of)  # type: ignore[method-assign]
