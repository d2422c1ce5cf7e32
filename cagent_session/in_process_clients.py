"""Test clients that call an application in the process of the test, without a server.

The application would run in the session of the test. On a server it would run in none, so the test
would hide that it enters no session itself.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from cagent_session.context import open_scopes, purpose_scope, session_scope
from cagent_session.decorating import in_session
from cagent_session.importing import ImportHook
from cagent_session.integrations import asgi, wsgi

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]


@contextlib.contextmanager
def serving_outside(scope: session_scope) -> Iterator[None]:
    """Let the applications that in-process clients call run in no session.

    Only calls whose innermost scope is *scope* are changed. This covers the clients of Starlette,
    FastAPI, httpx, httpx2, werkzeug, Flask and Django, also if they are imported later.
    """
    with pytest.MonkeyPatch.context() as patch:

        def patch_module(module: ModuleType) -> None:
            for class_name, method, wrap in _CLIENTS[module.__name__]:
                cls = getattr(module, class_name, None)
                if hasattr(cls, method):  # releases with other classes are not covered
                    original = getattr(cls, method)
                    patch.setattr(cls, method, _only_in(scope, original, wrap(original)))

        hook = ImportHook(_CLIENTS, patch_module)
        hook.start()
        try:
            for name in _CLIENTS:
                if module := sys.modules.get(name):
                    patch_module(module)
            yield
        finally:
            hook.stop()


def _only_in(
    scope: session_scope, original: Callable[..., Any], outside: Callable[..., Any]
) -> Callable[..., Any]:
    """Return a method that is *outside* while *scope* is the innermost one, and else *original*."""

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        # A scope for a purpose names no session.
        inner = next((s for s in open_scopes() if not isinstance(s, purpose_scope)), None)
        chosen = outside if inner is scope else original
        return chosen(*args, **kwargs)

    return call


def _with_middleware(attribute: str, middleware: Callable[[Any], Any]) -> Wrap:
    """Return a wrapper for a method that calls the application in *attribute* of its object."""

    def wrap(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(client: Any, *args: Any, **kwargs: Any) -> Any:
            # A copy, so that the client keeps its application. copy.copy() could call __getattr__()
            # of the user's own class before the attributes are there.
            double = object.__new__(type(client))
            vars(double).update(vars(client))
            vars(double)[attribute] = middleware(getattr(client, attribute))
            return method(double, *args, **kwargs)

        return call

    return wrap


def _handle_outside(handle: Callable[..., Any]) -> Callable[..., Any]:
    def call(handler: Any, environ: Any) -> Any:
        with session_scope(None):
            response = handle(handler, environ)
        return _streamed_outside(response)

    return call


def _async_handle_outside(handle: Callable[..., Any]) -> Callable[..., Any]:
    async def call(handler: Any, scope: Any) -> Any:
        with session_scope(None):
            response = await handle(handler, scope)
        return _streamed_outside(response)

    return call


def _streamed_outside(response: Any) -> Any:
    """Return *response*. The test reads a streamed body later; it is then made in no session."""
    if response.streaming:
        parts = _async_parts if getattr(response, "is_async", False) else _parts
        response.streaming_content = parts(response.streaming_content)
    return response


@in_session(lambda _: None)
def _parts(body: Any) -> Iterator[bytes]:
    yield from body


@in_session(lambda _: None)
async def _async_parts(body: Any) -> AsyncIterator[bytes]:
    async for part in body:
        yield part


_ASGI = _with_middleware("app", asgi.SessionMiddleware)
_WSGI = _with_middleware("app", wsgi.SessionMiddleware)
_HTTPX = [
    ("ASGITransport", "handle_async_request", _ASGI),
    ("WSGITransport", "handle_request", _WSGI),
]
# By module: a class, its method that calls an application, and how to wrap that method.
_CLIENTS: dict[str, list[tuple[str, str, Wrap]]] = {
    "httpx": _HTTPX,
    "httpx2": _HTTPX,
    "starlette.testclient": [
        ("_TestClientTransport", "handle_request", _ASGI),
        ("TestClient", "lifespan", _ASGI),
    ],
    "werkzeug.test": [
        ("Client", "run_wsgi_app", _with_middleware("application", wsgi.SessionMiddleware))
    ],
    "django.test.client": [
        ("ClientHandler", "__call__", _handle_outside),
        ("AsyncClientHandler", "__call__", _async_handle_outside),
    ],
}
