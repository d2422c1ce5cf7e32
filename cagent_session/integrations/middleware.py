"""What the middleware for ASGI and for WSGI have in common."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from cagent_session.context import NOTHING, carried_scope, session_scope
from cagent_session.decorating import F, scoped
from cagent_session.session_id import InvalidSessionId

if TYPE_CHECKING:
    import uuid


class Middleware:
    """The application, and how to find the session of a request."""

    def __init__(
        self,
        app: Callable[..., Any],
        session_id_of: Callable[[Any], str | uuid.UUID | None] | None = None,
    ) -> None:
        if not callable(app):
            raise TypeError(f"SessionMiddleware() takes an application, got {type(app).__name__}")
        if session_id_of is not None:
            kind = type(session_id_of).__name__
            if not callable(session_id_of):
                raise TypeError(f"session_id_of must be a function of the request, got {kind}")
            call: Any = type(session_id_of).__call__  # it may be a callable object
            if inspect.iscoroutinefunction(session_id_of) or inspect.iscoroutinefunction(call):
                raise TypeError(f"session_id_of must be a plain function, got an async {kind}")
        self.app = app
        self.session_id_of = session_id_of

    def scope_of(self, request: Any) -> session_scope:
        """Return the scope of *request*. What is current in the server has no effect on it.

        :raises InvalidSessionId: if the ID is malformed.
        """
        with session_scope(None):  # the server may still be in the session of an earlier request
            found = self.session_id_of(request) if self.session_id_of else None
        return carried_scope(session_scope(found).within(NOTHING))


def run_in_scope(fn: F) -> F:
    """Decorate *fn*: each call of it runs in the scope that is its first argument.

    A ``with`` statement would leave open the scopes that the application leaves open.
    """
    return cast("F", scoped(fn, lambda scope, *_: scope))


def refusal(error: InvalidSessionId) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of the answer to a request with a malformed ID."""
    body = str(error).encode()
    return body, {
        "content-type": "text/plain; charset=utf-8",
        "content-length": str(len(body)),
    }
