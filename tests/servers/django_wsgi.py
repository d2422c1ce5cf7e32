"""A Django project as a WSGI application: with the middleware, and ``bare_app`` without it."""

from __future__ import annotations

from typing import Any

import django_views  # noqa: F401 - it has the settings
from django.core.wsgi import get_wsgi_application

from cagent_session.integrations.wsgi import SessionMiddleware


def session_id_of(environ: Any) -> str | None:
    session_id: str | None = environ.get("HTTP_CONVERSATION_ID")
    return session_id


bare_app = get_wsgi_application()
application = SessionMiddleware(get_wsgi_application(), session_id_of)
