"""Tests of origins: the session ID goes only to the gateway's scheme, host and port.

The tests do not parse URLs to find out where a request goes. They record the scheme with which the
transport connects, and the name and port that it looks up.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import requests
from hostile import ANY_URLS, FEWER, HOSTS, PLAIN_URLS, USERS, mutate
from hypothesis import example, given
from hypothesis import strategies as st
from requests.adapters import BaseAdapter
from wire import Names, RecordingAdapter, Target

from cagent_session import InvalidGatewayURL, SessionIdAdapter, session_id_hook, session_scope

MARKED = {"X-Cagent-Forward": "https://api.openai.com/v1"}
Connect = Callable[[str, "str | None"], "tuple[Target | None, bool]"]


def requests_connects(
    names: Names, prepare: Callable[[requests.PreparedRequest, str], None]
) -> Connect:
    def connect(url: str, gateway: str | None) -> tuple[Target | None, bool]:
        names.asked.clear()
        bare = RecordingAdapter()
        adapter: BaseAdapter = bare if gateway is None else SessionIdAdapter(gateway, inner=bare)
        request = requests.Request("POST", "http://other.example", headers=MARKED).prepare()
        with contextlib.suppress(OSError, ValueError), session_scope("sess-1"):
            prepare(request, url)
            adapter.send(request)
        if not names.asked:
            return None, False
        ((target, headers),) = bare.sent
        return (target[0], *names.asked[0]), "X-Cagent-Session-Id" in headers

    return connect


class RecordingTransport(httpx.HTTPTransport):
    """The transport of httpx. It also keeps the last request."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.given = request
        return super().handle_request(request)


def httpx_connects(names: Names, client: httpx.Client, transport: RecordingTransport) -> Connect:
    def connect(url: str, gateway: str | None) -> tuple[Target | None, bool]:
        names.asked.clear()
        client.event_hooks = {"request": [] if gateway is None else [session_id_hook(gateway)]}
        with (
            contextlib.suppress(httpx.HTTPError, httpx.InvalidURL, ValueError),
            session_scope("sess-1"),
        ):
            client.post(url, headers=MARKED)
        if not names.asked:
            return None, False
        return (
            transport.given.url.scheme,
            *names.asked[0],
        ), "X-Cagent-Session-Id" in transport.given.headers

    return connect


@pytest.fixture(scope="module", params=["requests", "requests, URL set by hand", "httpx"])
def connect(request: pytest.FixtureRequest, names: Names) -> Iterator[Connect]:
    """Return a function that sends a marked request to a URL, with a gateway or without one.

    It returns the target that the transport connects to, and whether the session ID was sent.
    """
    if request.param == "httpx":
        transport = RecordingTransport()
        with httpx.Client(transport=transport, trust_env=False) as client:
            yield httpx_connects(names, client, transport)
    elif request.param == "requests":
        yield requests_connects(names, lambda prepared, url: prepared.prepare_url(url, None))
    else:
        yield requests_connects(names, lambda prepared, url: setattr(prepared, "url", url))


@st.composite
def near(draw: Any) -> tuple[str, str]:
    """Draw a gateway's URL, and a URL that differs a little from it."""
    gateway = draw(PLAIN_URLS)
    scheme, rest = gateway.split("://", 1)
    return gateway, mutate(draw, f"{scheme}://{draw(USERS)}{rest}")


@given(near() | st.tuples(PLAIN_URLS | ANY_URLS, ANY_URLS))
@example(("https://gw.example", "https://gw.example\\@evil.example/"))
def test_the_session_id_goes_only_to_the_gateway(connect: Connect, pair: tuple[str, str]) -> None:
    gateway, url = pair
    try:
        SessionIdAdapter(gateway)
    except InvalidGatewayURL:
        return
    target, stamped = connect(url, gateway)
    if stamped:
        assert target == connect("/".join(gateway.split("/")[:3]), None)[0]


@FEWER
@given(
    st.sampled_from(
        [
            ("http", "", ":80"),
            ("https", "", ":443"),
            ("https", ":8443", ":08443"),
            ("http", ":443", ":443"),
        ]
    ),
    HOSTS,
    USERS,
    st.booleans(),
    st.booleans(),
    st.sampled_from(
        [
            "",
            "/",
            "/v1/../v2",
            "?key=1",
            "/#x",
            "/v1?to=http://evil.example/",
            "//evil.example",
            "/%40@:/",
        ]
    ),
    st.data(),
)
def test_a_call_to_any_spelling_of_the_gateways_url_gets_the_session_id(
    connect: Connect,
    origin: tuple[str, str, str],
    host: str,
    user: str,
    dot: bool,
    upper: bool,
    rest: str,
    data: Any,
) -> None:
    scheme, *ports = origin
    gateway = f"{scheme}://{host}{data.draw(st.sampled_from(ports))}"
    spelled = (host.upper() if upper and host.isascii() else host) + "." * (
        dot and host[-1].isalpha()
    )
    url = f"{scheme.upper() if upper else scheme}://{user}{spelled}{data.draw(st.sampled_from(ports))}{rest}"
    assert connect(url, gateway) == (connect(gateway, None)[0], True)
