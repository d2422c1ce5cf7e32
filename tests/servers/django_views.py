"""The settings and the views of a Django project: see django_asgi.py and django_wsgi.py."""

from __future__ import annotations

from agent_calls import ask, ask_async, async_steps, steps
from django.conf import settings
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path

from cagent_session import in_session

settings.configure(ALLOWED_HOSTS=["127.0.0.1"], ROOT_URLCONF=__name__, SECRET_KEY="for tests")


def prompt_of(request: HttpRequest) -> str:
    assert request.body
    return str(request.GET["prompt"])


async def plain(request: HttpRequest) -> HttpResponse:
    return HttpResponse(await ask_async(prompt_of(request)))


def thread(request: HttpRequest) -> HttpResponse:
    return HttpResponse(ask(prompt_of(request)))


async def stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(async_steps(prompt_of(request), int(request.GET["steps"])))


def sync_stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(steps(prompt_of(request), int(request.GET["steps"])))


@in_session(lambda _: "of-view")
def decorated_stream(request: HttpRequest) -> StreamingHttpResponse:
    return sync_stream(request)


@in_session(lambda _: "of-view")
async def decorated_async_stream(request: HttpRequest) -> StreamingHttpResponse:
    return await stream(request)


views = [plain, thread, stream, sync_stream, decorated_stream, decorated_async_stream]
urlpatterns = [path(view.__name__, view) for view in views]
