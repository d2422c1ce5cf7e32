"""A Django project as an ASGI application: with the middleware, and ``bare_app`` without it."""

from __future__ import annotations

import django_views  # noqa: F401 - it has the settings
from django.core.asgi import get_asgi_application

from cagent_session.integrations.asgi import Scope, SessionMiddleware


def session_id_of(scope: Scope) -> str | None:
    headers: dict[bytes, bytes] = dict(scope["headers"])
    return headers[b"conversation-id"].decode("latin-1") if b"conversation-id" in headers else None


bare_app = get_asgi_application()
application = SessionMiddleware(get_asgi_application(), session_id_of)
