"""Tests of every transport, on real sockets: the rule, concurrency and redirects."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import httpx2
import pytest

from cagent_session import (
    Gateway,
    MissingSessionId,
    MissingSessionIdWarning,
    SessionExecutor,
    compacting,
    gateway_headers,
    generating_title,
    session_scope,
    sub_session,
)

MARKED = {"X-Cagent-Forward": "https://api.openai.com/v1"}


ERRORS = (httpx.HTTPError, httpx2.HTTPError, aiohttp.ClientError, ValueError)
CALLERS = {"X-Cagent-Session-Id": "callers"}
RULE: list[tuple[dict[str, str], str | None, str | None]] = [
    # Upstream tests the first three: ID and Forward, ID without Forward, Forward without ID.
    (MARKED, "sess-1", "sess-1"),
    ({}, "sess-2", None),
    (MARKED, None, None),
    ({"X-Cagent-Forward": ""}, "sess-3", None),
    ({"x-cagent-forward": "https://api.openai.com/v1"}, "sess-4", "sess-4"),
    ({"X-CAGENT-FORWARD": "https://api.openai.com/v1"}, "sess-5", "sess-5"),
    # The current session's ID replaces the caller's. Other requests lose the caller's.
    ({**MARKED, **CALLERS}, "sess-6", "sess-6"),
    ({**MARKED, "x-cagent-session-id": "callers"}, "sess-7", "sess-7"),
    ({**MARKED, **CALLERS}, None, "callers"),
    (CALLERS, "sess-8", None),
    ({"x-cagent-session-id": "callers"}, None, None),
]


@pytest.mark.parametrize("pinned", [False, True])
def test_the_rule(connect: Any, gateway: Any, pinned: bool) -> None:
    client = connect(gateway.url if pinned else None)
    for headers, session_id, _ in RULE:
        with session_scope(session_id):
            client("POST", gateway.url, headers)
    assert gateway.session_ids == [arrives for _, _, arrives in RULE]


def test_only_a_pinned_gateway_gets_the_session(connect: Any, gateway: Any, elsewhere: Any) -> None:
    client = connect(gateway.url)
    with session_scope("sess-1"):
        client("POST", gateway.url + "/v1", MARKED)
        client("POST", elsewhere.url + "/v1", {**MARKED, "X-Cagent-Session-Id": "callers"})
    assert gateway.session_ids == ["sess-1"]
    assert elsewhere.session_ids == [None]


def test_a_direct_call_has_no_cagent_header(connect: Any, elsewhere: Any) -> None:
    """Upstream: a client that does not use the gateway sends no X-Cagent-* header."""
    client = connect()
    with session_scope("sess-1"):
        client("POST", elsewhere.url, {"Authorization": "Bearer key"})
    assert elsewhere.arrived[0].cagent_headers == set()
    assert elsewhere.arrived[0].get("Authorization") == "Bearer key"


NAMES: dict[str, Any] = {
    "session_header": "X-Session-Id",
    "root_header": "X-Cagent-Root-Session",
    "parent_header": "x-parent-session-id",
}
OURS = {*map(str.lower, NAMES.values()), "my-marker"}


def our_headers(request: Any) -> dict[str, str]:
    """Return the headers of *request* that are in NAMES, or that begin with ``X-Cagent-``."""
    lower = {name.lower(): value for name, value in request.headers}
    return {n: lower[n] for n in lower if n in OURS or n.startswith("x-cagent-")}


def test_a_gateway_without_a_marker_gets_every_call_with_its_own_header(
    connect: Any, gateway: Any, elsewhere: Any
) -> None:
    client = connect(Gateway(gateway.url, session_header="X-Session-Id", marker=None))
    callers = {"x-session-id": "callers"}
    with session_scope("sess-1"):
        client("POST", gateway.url)
        client("POST", gateway.url, callers)
        client("POST", elsewhere.url)
        client("POST", elsewhere.url, {**callers, **MARKED, "X-Other": "stays"})
    client("POST", gateway.url, callers)
    assert [our_headers(request) for request in gateway.arrived] == [
        {"x-session-id": "sess-1"},
        {"x-session-id": "sess-1"},
        {"x-session-id": "callers"},
    ]
    assert [our_headers(request) for request in elsewhere.arrived] == [{}, {}]
    assert elsewhere.arrived[1].get("X-Other") == "stays"


def test_a_gateway_can_have_another_marker(connect: Any, gateway: Any, elsewhere: Any) -> None:
    client = connect(Gateway(gateway.url, session_header="X-Session-Id", marker="My-Marker"))
    with session_scope("sess-1"):
        client("POST", gateway.url, {"my-marker": "1"})
        client("POST", gateway.url, {"my-marker": "", "X-Session-Id": "callers"})
        client("POST", elsewhere.url, {"my-marker": "1"})
    assert our_headers(gateway.arrived[0]) == {"my-marker": "1", "x-session-id": "sess-1"}
    assert our_headers(gateway.arrived[1]) == {}
    assert our_headers(elsewhere.arrived[0]) == {}


def test_a_call_carries_session_root_and_parent(connect: Any, gateway: Any, elsewhere: Any) -> None:
    client = connect(Gateway(gateway.url, **NAMES))
    by_hand = {**MARKED, "x-cagent-root-session": "callers", "x-parent-session-id": "callers"}
    with session_scope("root"):
        client("POST", gateway.url, MARKED)
        client("POST", gateway.url, by_hand)
        with sub_session("sub-1"), sub_session("sub-2"):
            client("POST", gateway.url, by_hand)
            client("POST", gateway.url, {"x-cagent-root-session": "callers"})
            client("POST", elsewhere.url, by_hand)
    client("POST", gateway.url, by_hand)
    marker = {"x-cagent-forward": MARKED["X-Cagent-Forward"]}
    in_root = {**marker, "x-session-id": "root", "x-cagent-root-session": "root"}
    line = {"x-cagent-root-session": "root", "x-parent-session-id": "sub-1"}
    callers = {"x-cagent-root-session": "callers", "x-parent-session-id": "callers"}
    assert [our_headers(request) for request in gateway.arrived] == [
        in_root,
        in_root,
        {**marker, **line, "x-session-id": "sub-2"},
        {},
        {**marker, **callers},
    ]
    assert our_headers(elsewhere.arrived[0]) == {}


@pytest.mark.parametrize("marker", ["X-Cagent-Forward", None])
def test_after_a_redirect_off_the_origin_the_gateways_headers_do_not_come_back(
    connect: Any, gateway: Any, elsewhere: Any, marker: str | None
) -> None:
    """Not even where a call needs no marker, and is redirected to the gateway."""
    gateway.redirect("/old", f"{elsewhere.url}/new", 307)
    elsewhere.redirect("/new", f"{gateway.url}/back", 307)
    gateway.redirect("/back", f"{gateway.url}/end", 307)
    client = connect(Gateway(gateway.url, **NAMES, marker=marker))
    with session_scope("root"), sub_session("sub"), compacting():
        client("POST", f"{gateway.url}/old", {**MARKED, "x-parent-session-id": "callers"})
    assert our_headers(gateway.arrived[0]).keys() == {
        *map(str.lower, NAMES.values()),
        "x-cagent-forward",
        "x-cagent-compacting",
    }
    assert our_headers(elsewhere.arrived[0]) == {}
    assert our_headers(gateway.arrived[1]) == {}


def test_a_purpose_is_sent_with_bound_calls_only(
    connect: Any, gateway: Any, elsewhere: Any
) -> None:
    client = connect(gateway.url)
    with session_scope("sess-1"):
        with generating_title():
            client("POST", gateway.url, MARKED)
            client("POST", gateway.url)
            client("POST", elsewhere.url, MARKED)
        with compacting():
            client("POST", gateway.url, {**MARKED, "x-cagent-compacting": "callers"})
        client("POST", gateway.url, MARKED)
    common = {"x-cagent-forward": MARKED["X-Cagent-Forward"], "x-cagent-session-id": "sess-1"}
    assert [our_headers(request) for request in gateway.arrived] == [
        {**common, "x-cagent-generatingtitle": "1"},
        {},
        {**common, "x-cagent-compacting": "1"},
        common,
    ]
    assert our_headers(elsewhere.arrived[0]) == {}


def test_identity_headers_arrive(connect: Any, gateway: Any) -> None:
    """Upstream: Provider, Model and Model-Name headers; an empty Model-Name is left out."""
    client = connect()
    headers = gateway_headers(
        "https://api.openai.com/v1", provider="openai", model="gpt-4o", model_name=""
    )
    client("POST", gateway.url, headers)
    client("POST", gateway.url, gateway_headers("https://api.openai.com/v1", model_name="fast"))
    empty, named = gateway.arrived
    assert (empty.get("X-Cagent-Provider"), empty.get("X-Cagent-Model")) == ("openai", "gpt-4o")
    assert empty.get("X-Cagent-Model-Name") is None
    assert named.get("X-Cagent-Model-Name") == "fast"


def test_a_missing_session_can_raise_an_error(connect: Any, gateway: Any) -> None:
    """No session is missing if there is a current session or a caller's ID, or no marker."""
    client = connect(missing="raise")
    problem = r"POST http://127\.0\.0\.1:\d+/v1 is bound .* session_scope\(\)$"
    with pytest.raises(MissingSessionId, match=problem):
        client("POST", f"{gateway.url}/v1?key=secret", MARKED)
    assert gateway.arrived == []
    client("POST", gateway.url)
    client("POST", gateway.url, {**MARKED, **CALLERS})
    with session_scope("sess-1"):
        client("POST", gateway.url, MARKED)
    assert gateway.session_ids == [None, "callers", "sess-1"]


def test_a_warning_of_a_missing_session_points_at_the_call(connect: Any, gateway: Any) -> None:
    client = connect(missing="warn")
    with pytest.warns(MissingSessionIdWarning, match="in no session") as warned:
        client("POST", gateway.url, MARKED)
    assert gateway.session_ids == [None]
    files = [Path(warning.filename).name for warning in warned]
    assert files == ["conftest.py"]  # this module calls the clients


@pytest.mark.parametrize("pinned", [False, True])
def test_a_redirect_off_the_origin_has_no_cagent_header(
    connect: Any, gateway: Any, elsewhere: Any, pinned: bool
) -> None:
    client = connect(gateway.url if pinned else None)
    headers = gateway_headers("https://api.openai.com/v1", model="gpt-4o")
    for status in (301, 302, 303, 307, 308):
        gateway.redirect(f"/{status}", f"{elsewhere.url}/{status}", status)
        with session_scope(f"sess-{status}"):
            client("POST", f"{gateway.url}/{status}", headers)
    assert [(r.path, r.session_id) for r in gateway.arrived] == [
        (f"/{status}", f"sess-{status}") for status in (301, 302, 303, 307, 308)
    ]
    assert [request.cagent_headers for request in elsewhere.arrived] == [set()] * 5


@pytest.mark.parametrize("pinned", [False, True])
def test_a_redirect_that_comes_back_to_the_origin_has_no_cagent_header(
    connect: Any, gateway: Any, elsewhere: Any, pinned: bool
) -> None:
    """This holds for any number of redirects. requests does the same to ``Authorization``."""
    gateway.redirect("/one", "/two")
    gateway.redirect("/two", f"{elsewhere.url}/three")
    elsewhere.redirect("/three", "/four")
    elsewhere.redirect("/four", f"{gateway.url}/five")
    client = connect(gateway.url if pinned else None)
    with session_scope("sess-1"):
        client("GET", f"{gateway.url}/one", MARKED)
    assert [(r.path, r.session_id) for r in gateway.arrived] == [
        ("/one", "sess-1"),
        ("/two", "sess-1"),
        ("/five", None),
    ]
    assert [(r.path, r.cagent_headers) for r in elsewhere.arrived] == [
        ("/three", set()),
        ("/four", set()),
    ]
    assert gateway.arrived[-1].cagent_headers == set()


def test_redirect_inside_the_origin_keeps_the_session(connect: Any, gateway: Any) -> None:
    gateway.redirect("/old", f"{gateway.url}/new", 307)
    client = connect(gateway.url)
    with session_scope("sess-1"):
        client("POST", f"{gateway.url}/old", MARKED)
    assert gateway.session_ids == ["sess-1", "sess-1"]


@pytest.mark.parametrize(
    ("slashes", "arrive"), [("//", {1}), ("////", {0, 1}), ("http:////", {0, 1})]
)
def test_a_redirect_without_scheme_or_with_too_many_slashes_has_no_cagent_header(
    connect: Any, gateway: Any, elsewhere: Any, slashes: str, arrive: set[int]
) -> None:
    """With four slashes, the host depends on the version of Python."""
    gateway.redirect("/old", slashes + elsewhere.url.removeprefix("http://") + "/new")
    client = connect()
    with session_scope("sess-1"), contextlib.suppress(*ERRORS):
        client("GET", f"{gateway.url}/old", MARKED)
    assert len(elsewhere.arrived) in arrive
    assert not any(request.cagent_headers for request in elsewhere.arrived)


def test_a_redirect_to_another_name_of_the_machine_has_no_cagent_header(
    connect: Any, gateway: Any
) -> None:
    """Origins are compared by name, not by address."""
    gateway.redirect("/old", gateway.url.replace("127.0.0.1", "localhost") + "/new")
    client = connect()
    with session_scope("sess-1"):
        client("GET", f"{gateway.url}/old", MARKED)
    assert [request.cagent_headers for request in gateway.arrived] == [
        {*gateway.arrived[0].cagent_headers},
        set(),
    ]


def test_a_redirect_from_another_host_to_the_gateway_has_no_cagent_header(
    connect: Any, gateway: Any, elsewhere: Any
) -> None:
    elsewhere.redirect("/old", f"{gateway.url}/new")
    client = connect(gateway.url)
    with session_scope("sess-1"):
        client("GET", f"{elsewhere.url}/old", MARKED)
    assert elsewhere.session_ids == [None]
    assert [request.cagent_headers for request in gateway.arrived] == [set()]


def test_concurrent_sessions_share_one_client(connect: Any, gateway: Any, elsewhere: Any) -> None:
    """As in upstream's test, 16 sessions call at once. Some calls are redirected off the origin."""
    gateway.redirect("/away", f"{elsewhere.url}/gone", 307)
    client, together = connect(), threading.Barrier(16)

    def call(session_id: str, path: str) -> None:
        together.wait(10)
        client("POST", f"{gateway.url}/{path}?from={session_id}", MARKED)

    with SessionExecutor(ThreadPoolExecutor(16)) as pool:
        jobs: list[Any] = []
        for number in range(64):
            session_id = f"sess-{number % 16}"
            with session_scope(session_id):
                jobs.append(pool.submit(call, session_id, "away" if number % 4 == 0 else "here"))
        for job in jobs:
            job.result()
    assert len(gateway.arrived) == 64
    assert len(set(gateway.session_ids)) == 16
    assert all(request.path.endswith(f"from={request.session_id}") for request in gateway.arrived)
    assert [request.cagent_headers for request in elsewhere.arrived] == [set()] * 16
