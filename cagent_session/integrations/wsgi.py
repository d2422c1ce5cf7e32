"""WSGI applications: each request runs in its own session, or in none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from cagent_session.context import session_scope
from cagent_session.integrations.middleware import Middleware, refusal, run_in_scope
from cagent_session.session_id import InvalidSessionId

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class SessionMiddleware(Middleware):
    """WSGI middleware that runs each request in its own session, or in no session.

    Put it around the whole application, outside all other middleware. The session covers the view
    and the body that it streams. A request with a malformed ID is answered with the status 400, and
    never reaches the application.

    The server gets a generator, whatever the application returns. So it sends a body that is a
    ``wsgi.file_wrapper`` in parts, and it can't find out the length of a body: the application has
    to set ``Content-Length`` if that is needed. Flask and Django's ``CommonMiddleware`` do so,
    unless they stream the body.

    :param app: a WSGI application.
    :param session_id_of: a plain function that takes the WSGI environment of a request, and returns
        its session ID: 1 to 256 visible ASCII characters, or a :class:`uuid.UUID`. ``None`` means
        no session. By default, all requests run in no session. If it raises
        :class:`~cagent_session.InvalidSessionId`, the request is refused with that message. Other
        errors pass to the server. If anybody can call the server, the function must return only IDs
        that the caller may use.
    :raises TypeError: if *app* or *session_id_of* can't be called, or if *session_id_of* is a
        coroutine function.

    >>> def app(environ, start_response): ...
    >>> app = SessionMiddleware(app, lambda environ: environ.get("HTTP_CONVERSATION_ID"))
    """

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Return the body of the response. Each part of it is made in the session of *environ*."""
        try:
            scope = self.scope_of(environ)
        except InvalidSessionId as error:
            body, headers = refusal(error)
            start_response("400 Bad Request", list(headers.items()))
            return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body]
        response = _respond(scope, self.app, environ, start_response)
        next(response)  # calls the application
        return response


@run_in_scope
def _respond(
    _: session_scope,
    app: WSGIApplication,
    environ: WSGIEnvironment,
    start_response: StartResponse,
) -> Iterator[bytes]:
    body: Any = app(environ, start_response)
    try:
        yield b""  # for the next() above
        for part in body:  # noqa: UP028 - yield from would close the body a second time
            yield part
    finally:
        if hasattr(body, "close"):
            body.close()
