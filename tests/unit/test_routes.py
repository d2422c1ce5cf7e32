"""Tests of ``Gateway.route`` and ``Route``."""

from __future__ import annotations

import copy
import pickle
import re
import uuid
from pathlib import Path
from typing import Any

import pytest

from cagent_session import Gateway, Route, gateway_headers
from cagent_session.routes import PROVIDERS

URL = "https://api.docker.com/models?tier=pro"  # docker-agent's own test address


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_provider_has_a_route(provider: str) -> None:
    route = Gateway(URL).route(provider)
    suffix = "/" if provider in ("anthropic", "google") else "/v1/"
    assert route.base_url == f"https://api.docker.com/models{suffix}"
    assert route.headers == gateway_headers(PROVIDERS[provider].forward, provider=provider)
    assert route.query == {"tier": "pro"}


def test_the_guide_has_the_table() -> None:
    guide = Path(__file__).parents[2] / "examples" / "sdks" / "README.rst"
    rows = re.findall(
        r"\* - ``(.+)``\n     - ``(/.*)``\n     - ``(http.+)``", guide.read_text("utf-8")
    )
    assert {name: (suffix, forward) for name, suffix, forward in rows} == PROVIDERS


def test_a_route_has_only_the_headers_that_the_gateway_reads() -> None:
    route = Gateway(URL, session_header="x-session-id", marker=None).route("openai", model="gpt-4o")
    assert (route.base_url, route.headers) == ("https://api.docker.com/models/v1/", {})
    helicone = Gateway("https://gateway.helicone.ai", marker="Helicone-Target-Url")
    target = helicone.route("openai", forward="https://api.openai.com").headers
    assert target == {"Helicone-Target-Url": "https://api.openai.com"}
    same = Gateway(URL, marker="x-cagent-forward").route("openai")
    assert same == Gateway(URL).route("openai")


def test_the_headers_may_say_more() -> None:
    others: dict[str, Any] = {"model": "a/b", "model_name": "fast", "install_id": uuid.UUID(int=1)}
    route = Gateway(URL).route("mistral", forward="https://eu.mistral.ai/v1", **others)
    expected = gateway_headers("https://eu.mistral.ai/v1", provider="mistral", **others)
    assert route.headers == expected


@pytest.mark.parametrize(
    ("url", "base_url", "query"),
    [
        ("https://gw.example", "https://gw.example/v1/", {}),
        ("https://gw.example/", "https://gw.example/v1/", {}),
        ("https://gw.example/a%2Fb/%C3%A9", "https://gw.example/a%2Fb/%C3%A9/v1/", {}),
        ("https://gw.example//a//", "https://gw.example//a//v1/", {}),
        ("https://gw.example/a?b=c%20d&e=", "https://gw.example/a/v1/", {"b": "c d", "e": ""}),
        ("https://gw.example?", "https://gw.example/v1/", {}),
    ],
)
def test_the_path_is_kept_as_it_is(url: str, base_url: str, query: dict[str, str]) -> None:
    route = Gateway(url, "https://second.example").route("openai")
    assert (route.base_url, route.query) == (base_url, query)


@pytest.mark.parametrize(
    ("provider", "problem"),
    [
        ("mistrall", "there is no provider 'mistrall' in the table: did you mean mistral?"),
        ("OpenAI", "there is no provider 'OpenAI' in the table: did you mean openai"),
        ("gpt", "there is no provider 'gpt' in the table: it has openai, anthropic, google, dmr,"),
    ],
)
def test_an_unknown_provider_needs_a_forward(provider: str, problem: str) -> None:
    with pytest.raises(ValueError, match=r"give its base URL as forward=$") as caught:
        Gateway(URL).route(provider)
    assert str(caught.value).startswith(problem)
    route = Gateway(URL).route(provider, forward="https://new.example/v1")
    assert route.base_url == "https://api.docker.com/models/v1/"
    assert route.headers["X-Cagent-Forward"] == "https://new.example/v1"


@pytest.mark.parametrize(
    ("gateway", "arguments", "problem"),
    [
        (Gateway(), {}, "route() needs the gateway's URL: Gateway(url).route(...)"),
        (Gateway(f"{URL}&tier=free"), {}, "the query of the gateway's URL has the same name twice"),
        (Gateway(URL), {"forward": "gw.example"}, "forward must be an absolute http or https URL"),
        (Gateway(URL), {"forward": ""}, "forward must be an absolute http or https URL"),
        (Gateway(URL), {"model": "line\nbreak"}, "the value of X-Cagent-Model must be visible"),
    ],
)
def test_wrong_values_raise_value_error(gateway: Gateway, arguments: Any, problem: str) -> None:
    with pytest.raises(ValueError) as caught:
        gateway.route("openai", **arguments)
    assert str(caught.value).startswith(problem)


def test_a_route_never_changes() -> None:
    route = Gateway(URL).route("openai")
    route.headers["X-Cagent-Forward"] = route.query["tier"] = "other"
    with pytest.raises(AttributeError, match="a Route never changes"):
        route.base_url = "https://other.example"  # type: ignore[misc, unused-ignore]
    with pytest.raises(AttributeError, match="a Route never changes"):
        del route.base_url
    assert route == Gateway(URL).route("openai")


def test_routes_are_values() -> None:
    route = Gateway(URL).route("openai")
    same = Route(route.base_url, route.headers, route.query)
    copies = [same, copy.copy(route), copy.deepcopy(route), pickle.loads(pickle.dumps(route))]
    assert {route, *copies} == {route}
    assert route != Gateway(URL).route("groq")
    assert route != Gateway("https://api.docker.com/models").route("openai")
    assert route != route.base_url


def test_its_repr_shows_no_secret() -> None:
    assert repr(Gateway(f"{URL}&key=sk-secret").route("openai")) == (
        "Route('https://api.docker.com/models/v1/')"
    )
