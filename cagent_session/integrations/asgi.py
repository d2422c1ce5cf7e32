"""ASGI applications: each request runs in its own session, or in none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from cagent_session.context import session_scope
from cagent_session.integrations.middleware import Middleware, refusal, run_in_scope
from cagent_session.session_id import InvalidSessionId

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class SessionMiddleware(Middleware):
    """ASGI middleware that runs each request in its own session, or in no session.

    Put it around the whole application, outside all other middleware: ``add_middleware`` of
    Starlette is not enough, because Starlette runs the handlers of ``Exception`` outside of it. The
    session covers the view, the body that it streams, and the background tasks of Starlette and
    FastAPI. Without this middleware, a request may run in the session of an earlier one: on
    asyncio's own event loop, context variables can pass from one request to the next on a
    connection of uvicorn (python/cpython#140947).

    If an ID is malformed, the request never reaches the application. An HTTP request is answered
    with the status 400. A websocket is closed with the code 1008 before it is accepted; servers
    answer such a handshake with the status 403. The application's lifespan runs in no session.

    :param app: an application of ASGI 3.
    :param session_id_of: a plain function that takes the ASGI scope of a request or a websocket,
        and returns its session ID: 1 to 256 visible ASCII characters, or a :class:`uuid.UUID`.
        ``None`` means no session. By default, all requests run in no session. If it raises
        :class:`~cagent_session.InvalidSessionId`, the request is refused with that message. Other
        errors pass to the server. If anybody can call the server, the function must return only IDs
        that the caller may use.
    :raises TypeError: if *app* or *session_id_of* can't be called, or if *session_id_of* is a
        coroutine function.

    >>> async def app(scope, receive, send): ...
    >>> app = SessionMiddleware(app, lambda scope: scope["path"].rpartition("/")[2] or None)
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application in the session of *scope*."""
        is_request = scope["type"] in ("http", "websocket")
        try:
            session = self.scope_of(scope) if is_request else session_scope(None)
        except InvalidSessionId as error:
            await _refuse(scope, send, error)
            return
        await _run(session, self.app, scope, receive, send)


@run_in_scope
async def _run(_: session_scope, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    await app(scope, receive, send)


async def _refuse(scope: Scope, send: Send, error: InvalidSessionId) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": str(error)})
        return
    body, headers = refusal(error)
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": 400, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
