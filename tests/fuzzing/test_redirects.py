"""Tests of redirects: whatever the ``Location``, no ``X-Cagent-*`` header leaves the gateway."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from hostile import ANY_TEXT, ANY_URLS, FEWER, ODD, mutated
from hypothesis import example, given
from hypothesis import strategies as st
from wire import Log, Names, RecordingAdapter, Target, Wire, header_lines

from cagent_session import SessionIdAdapter, gateway_headers, mount, session_scope

GATEWAY = "http://gw.example"
IDENTITY = gateway_headers("https://api.openai.com/v1", provider="openai", model="gpt-4o")

Journey = tuple[Log, "list[tuple[Target, dict[Any, Any]]]", "type[Exception] | None"]
Follow = Callable[["list[bytes]", int, Callable[[requests.Session], object]], Journey]

MOVED = b"HTTP/1.1 %d Moved\r\nConnection: close\r\nContent-Length: 0\r\nLocation: %b\r\n\r\n"
HOSTILE = r"""
    / /v2 v2 ?again #x . .. /./..//v2 //gw.example/ http://gw.example:80/ http: http://gw.example.
    http://GW.example/ http://gw.example:8080/ https://gw.example/ //gw.example:443
    http://gw.example:0/ http://gw.example:x //evil.example ///evil.example ////evil.example
    http:////evil.example http:///evil.example HTTP://evil.example \\evil.example /\evil.example
    http:\\evil.example http:evil.example http:/evil.example ftp://evil.example //user@evil.example
    http://gw.example@evil.example http://gw.example\@evil.example/ //@evil.example javascript:0
    http://gw.example%2eevil.example http://gw.example%00.evil.example //evil.example#@gw.example
    https://evil.example http://127.0.0.1/ http://[::1 http://[::1]:80/ http://xn--/
    http://ﬁ.example/ http://bücher.example/
"""
REFERENCES = st.just("") | st.sampled_from(HOSTILE.split())
LOCATIONS = (
    REFERENCES
    | REFERENCES
    | mutated(REFERENCES)
    | ANY_URLS
    | ANY_TEXT
    | st.builds("{}{}".format, ODD, REFERENCES)
).map(lambda text: text.encode("utf-8", "replace"))
ROUTES = st.lists(
    (LOCATIONS | st.binary()).filter(lambda location: b"\n" not in location), min_size=1, max_size=3
)


@pytest.fixture(scope="module")
def follow(names: Names) -> Iterator[Follow]:
    """Return a function that calls the gateway and follows its redirects.

    One name leads to the gateway. All other names lead to another server.
    """
    log: Log = []
    answers: list[bytes] = []
    with (
        Wire("gateway", log, answers).listening() as gateway,
        Wire("elsewhere", log, answers).listening() as elsewhere,
    ):

        def follow(
            route: list[bytes], status: int, mounted: Callable[[requests.Session], object]
        ) -> Journey:
            log.clear()
            answers[:] = [MOVED % (status, location) for location in route]
            bare, error = RecordingAdapter(tls=False), None
            with requests.Session() as session, session_scope("sess-1"):
                session.trust_env = False
                session.mount("http://", bare)
                session.mount("https://", bare)
                mounted(session)
                try:
                    session.post(f"{GATEWAY}/v1", headers=IDENTITY, timeout=10)
                except Exception as raised:  # noqa: BLE001 - the tests compare which errors come
                    error = type(raised)
            return log.copy(), bare.sent, error

        names.leads_to = lambda host, port: (
            (gateway if (host, port) == ("gw.example", 80) else elsewhere).address
        )
        yield follow
        names.leads_to = lambda _host, _port: None


def request_line(hop: tuple[str, bytes]) -> tuple[str, bytes]:
    return hop[0], hop[1].partition(b"\r\n")[0]


def cagent_headers(raw: bytes) -> set[bytes]:
    return {line for line in header_lines(raw) if line.lower().startswith(b"x-cagent-")}


@FEWER
@given(ROUTES, st.sampled_from([302, 307]), st.sampled_from([None, GATEWAY]))
@example([b"////evil.example/"], 302, None)
def test_no_cagent_header_leaves_the_gateway(
    follow: Follow, route: list[bytes], status: int, pinned: str | None
) -> None:
    """The URLs and the error are the same as without the library."""
    arrived, sent, error = follow(route, status, lambda session: mount(session, pinned))
    bare_arrived, bare_sent, bare_error = follow(route, status, lambda session: None)
    assert error is bare_error
    assert [target for target, _ in sent] == [target for target, _ in bare_sent]
    assert [request_line(hop) for hop in arrived] == [request_line(hop) for hop in bare_arrived]
    assert b"X-Cagent-Session-Id: sess-1" in header_lines(arrived[0][1])
    left = False
    for server, raw in arrived:
        left = left or server == "elsewhere"
        assert not (left and cagent_headers(raw))
    target, headers = sent[-1]
    if target[0] == "https" and (left or target != ("https", "gw.example", 443)):
        assert not any(str(name).lower().startswith("x-cagent-") for name in headers)
    elif target[0] == "https" and pinned:
        assert "X-Cagent-Session-Id" not in headers


@FEWER
@given(LOCATIONS)
@example(b"/\xff")
@example(b"http://[::1")
def test_an_adapter_alone_returns_any_redirect(location: bytes) -> None:
    """A ``Location`` that can't be parsed raises an error only when requests follows it."""
    answer = requests.Response()
    answer.status_code, answer.url, answer.headers["Location"] = (
        302,
        GATEWAY,
        location.decode("latin-1"),
    )
    inner = RecordingAdapter()
    inner.send = lambda *_args, **_kwargs: answer  # type: ignore[method-assign]
    request = requests.Request("POST", GATEWAY, IDENTITY).prepare()
    with session_scope("sess-1"):
        assert SessionIdAdapter(inner=inner).send(request) is answer
