"""Each route leads a client of its provider through the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl

import pytest
from anthropic import Anthropic, AsyncAnthropic
from google import genai
from openai import AsyncOpenAI, OpenAI

from cagent_session import Gateway, instrument, session_scope, uninstrument
from cagent_session.routes import PROVIDERS, Route
from cagent_session.testing import ModelsGateway

MESSAGES: Any = [{"role": "user", "content": "Hi"}]

Ask = Callable[[Route], object]


def by_openai(route: Route) -> object:
    with OpenAI(base_url=route.base_url, api_key="any", default_query=route.query) as client:
        return client.chat.completions.create(model="a", messages=MESSAGES)


def by_async_openai(route: Route) -> object:
    async def ask() -> object:
        options: Any = {"api_key": "any", "default_query": route.query}
        async with AsyncOpenAI(base_url=route.base_url, **options) as client:
            return await client.chat.completions.create(model="a", messages=MESSAGES)

    return asyncio.run(ask())


def by_anthropic(route: Route) -> object:
    options: Any = {"api_key": "any", "default_query": route.query}
    with Anthropic(base_url=route.base_url, **options) as client:
        return client.messages.create(model="a", messages=MESSAGES, max_tokens=9)


def by_async_anthropic(route: Route) -> object:
    async def ask() -> object:
        options: Any = {"api_key": "any", "default_query": route.query}
        async with AsyncAnthropic(base_url=route.base_url, **options) as client:
            return await client.messages.create(model="a", messages=MESSAGES, max_tokens=9)

    return asyncio.run(ask())


def by_genai(route: Route) -> object:
    options: Any = {"base_url": route.base_url, "client_args": {"params": route.query}}
    with genai.Client(api_key="any", http_options=options) as client:
        return client.models.generate_content(model="a", contents="Hi")


OWN_CLIENTS: dict[str, dict[Ask, str]] = {
    "anthropic": {by_anthropic: "/v1/messages", by_async_anthropic: "/v1/messages"},
    "google": {by_genai: "/v1/models/a:generateContent"},
}
OPENAI: dict[Ask, str] = dict.fromkeys([by_openai, by_async_openai], "/v1/chat/completions")
CASES = [
    (provider, ask, path)
    for provider in PROVIDERS
    for ask, path in OWN_CLIENTS.get(provider, OPENAI).items()
]


@pytest.fixture(autouse=True)
def undo_instrument() -> Iterator[None]:
    yield
    uninstrument()


@pytest.mark.parametrize("address", ["/a%2Fb/%C3%A9?tier=pro&plan=a%20b", ""])
@pytest.mark.parametrize(("provider", "ask", "path"), CASES)
def test_a_client_gets_all_it_needs_from_the_route(
    address: str,
    provider: str,
    ask: Ask,
    path: str,
    models_gateway: ModelsGateway,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The program has no other line of this library than instrument() and a scope."""
    monkeypatch.setenv("CAGENT_MODELS_GATEWAY", models_gateway.url + address)
    gateway = Gateway.from_environment()
    assert gateway is not None
    route = gateway.route(provider)
    instrument(gateway, headers=route.headers)
    with session_scope("sess-1"):
        ask(route)
    ((request, _),) = models_gateway.log
    called_path, _, called_query = request.environ["RAW_URI"].partition("?")
    prefix, _, query = address.partition("?")
    assert called_path == prefix + path
    assert parse_qsl(called_query) == parse_qsl(query)
    (call,) = models_gateway.calls
    assert (call.session_id, call.forward) == ("sess-1", PROVIDERS[provider].forward)
    assert call.headers["X-Cagent-Provider"] == provider
