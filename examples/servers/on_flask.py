"""An agent server with Flask. Each request works in the session that its path names.

pip install ".[testing]" "flask[async]" && python examples/servers/on_flask.py

In production, start the same app with a WSGI server, such as gunicorn: on_flask:app
"""

from __future__ import annotations

import asyncio

from flask import Flask, Response, request
from model_calls import complete, run_loop, serve
from werkzeug.serving import make_server

from cagent_session import InvalidSessionId, generating_title, in_session
from cagent_session.integrations import wsgi

app = Flask("agent_server")
app.wsgi_app = wsgi.SessionMiddleware(app.wsgi_app)  # type: ignore[method-assign]
app.register_error_handler(InvalidSessionId, lambda error: (str(error), 400))


@app.post("/sessions/<session_id>/ask")
@in_session("session_id")
def ask(session_id: str) -> str:
    return complete(request.json["prompt"])


@app.post("/sessions/<session_id>/title")
@in_session("session_id")
async def title(session_id: str) -> str:
    with generating_title():
        return await asyncio.to_thread(complete, request.json["prompt"])


@app.post("/sessions/<session_id>/events")
@in_session("session_id")  # refuses a bad ID before the stream starts
def events(session_id: str) -> Response:
    return Response(run_loop(session_id, request.json["prompt"]), mimetype="text/plain")


if __name__ == "__main__":
    serve(lambda fd: make_server("", 0, app, threaded=True, fd=fd).serve_forever())
