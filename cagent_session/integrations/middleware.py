"""What the middleware for ASGI and for WSGI have in common."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cagent_session.context import session_scope

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
        """Return the session scope for *request*.

        :raises InvalidSessionId: if the ID of its session is malformed.
        """
        with session_scope(None):  # the server may still be in the session of an earlier request
            return session_scope(self.session_id_of(request) if self.session_id_of else None)
