"""Does every transport send what the rule says? On real sockets."""

from __future__ import annotations

import contextlib
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest

from cagent_session import (
    MissingSessionId,
    MissingSessionIdWarning,
    SessionExecutor,
    gateway_headers,
    session_scope,
)

MARKED = {"X-Cagent-Forward": "https://api.openai.com/v1"}


def test_session_id_with_forward_is_sent(connect: Any, gateway: Any) -> None:
    """Upstream: ID + Forward."""
    client = connect()
    with session_scope("sess-1"):
        client("POST", gateway.url, MARKED)
    assert gateway.session_ids == ["sess-1"]


def test_session_id_without_forward_is_not_sent(connect: Any, gateway: Any) -> None:
    """Upstream: ID without Forward."""
    client = connect()
    with session_scope("sess-1"):
        client("POST", gateway.url)
        client("POST", gateway.url, {"X-Cagent-Forward": ""})
    assert gateway.session_ids == [None, None]


def test_forward_without_session_id_is_not_sent(connect: Any, gateway: Any) -> None:
    """Upstream: Forward without ID."""
    connect()("POST", gateway.url, MARKED)
    assert gateway.session_ids == [None]


@pytest.mark.parametrize("marker", ["X-Cagent-Forward", "x-cagent-forward", "X-CAGENT-FORWARD"])
def test_marker_is_matched_without_case(connect: Any, gateway: Any, marker: str) -> None:
    client = connect()
    with session_scope("sess-1"):
        client("GET", gateway.url, {marker: "https://api.openai.com/v1"})
    assert gateway.session_ids == ["sess-1"]


@pytest.mark.parametrize("name", ["X-Cagent-Session-Id", "x-cagent-session-id"])
@pytest.mark.parametrize(
    ("bound", "scope", "arrives"),
    [
        (True, "sess-1", "sess-1"),
        (True, None, "callers"),
        (False, "sess-1", None),
        (False, None, None),
    ],
)
def test_callers_value(
    connect: Any, gateway: Any, name: str, bound: bool, scope: Any, arrives: Any
) -> None:
    """An ID in scope replaces the value a caller set; in no session it stays; off the gateway it is removed."""
    client = connect()
    with session_scope(scope):
        client("POST", gateway.url, {name: "callers", **(MARKED if bound else {})})
    assert gateway.session_ids == [arrives]


def test_pinned_gateway_alone_sees_the_session(connect: Any, gateway: Any, elsewhere: Any) -> None:
    client = connect(gateway.url)
    with session_scope("sess-1"):
        client("POST", gateway.url + "/v1", MARKED)
        client("POST", elsewhere.url + "/v1", {**MARKED, "X-Cagent-Session-Id": "callers"})
    assert gateway.session_ids == ["sess-1"]
    assert elsewhere.session_ids == [None]


def test_one_client_serves_sessions_in_turn(connect: Any, gateway: Any) -> None:
    client = connect(gateway.url)
    for session_id in ("sess-1", None, "sess-2"):
        with session_scope(session_id):
            client("POST", gateway.url, MARKED)
    assert gateway.session_ids == ["sess-1", None, "sess-2"]


def test_concurrent_sessions_share_one_client(connect: Any, gateway: Any) -> None:
    """Upstream: 16 concurrent sessions, 16 distinct IDs, each on its own request."""
    client = connect(gateway.url)
    together = threading.Barrier(16)

    def call(number: int) -> None:
        together.wait(10)
        client("POST", f"{gateway.url}/{number}", MARKED)

    with SessionExecutor(ThreadPoolExecutor(16)) as pool:
        futures = []
        for number in range(16):
            with session_scope(f"sess-{number}"):
                futures.append(pool.submit(call, number))
        for future in futures:
            future.result()
    assert {(request.path, request.session_id) for request in gateway.arrived} == {
        (f"/{number}", f"sess-{number}") for number in range(16)
    }


def test_direct_call_carries_no_cagent_header(connect: Any, elsewhere: Any) -> None:
    """Upstream: a client that bypasses the gateway sends no X-Cagent-* at all."""
    client = connect()
    with session_scope("sess-1"):
        client("POST", elsewhere.url, {"Authorization": "Bearer key"})
    assert elsewhere.arrived[0].cagent_headers == set()
    assert elsewhere.arrived[0].get("Authorization") == "Bearer key"


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


def test_missing_session_can_be_refused(connect: Any, gateway: Any) -> None:
    """missing="raise" sends nothing; a session, a caller's own value or no marker is not missing."""
    client = connect(missing="raise")
    with pytest.raises(
        MissingSessionId, match=r"POST http://127\.0\.0\.1:\d+/v1 is bound .* session_scope\(\)$"
    ):
        client("POST", f"{gateway.url}/v1?key=secret", MARKED)
    assert gateway.arrived == []
    client("POST", gateway.url)
    client("POST", gateway.url, {**MARKED, "X-Cagent-Session-Id": "callers"})
    with session_scope("sess-1"):
        client("POST", gateway.url, MARKED)
    assert gateway.session_ids == [None, "callers", "sess-1"]


def test_missing_session_can_be_warned_of(connect: Any, gateway: Any) -> None:
    """missing="warn" sends it, and the warning points at the code that made the call."""
    client = connect(missing="warn")
    with pytest.warns(MissingSessionIdWarning, match="in no session") as warned:
        client("POST", gateway.url, MARKED)
    assert gateway.session_ids == [None]
    assert [Path(warning.filename).name for warning in warned] == [
        "conftest.py"
    ]  # where the clients make their calls


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("pinned", [False, True])
def test_redirect_off_the_origin_takes_nothing_along(
    connect: Any, gateway: Any, elsewhere: Any, status: int, pinned: bool
) -> None:
    gateway.redirect("/moved", f"{elsewhere.url}/new", status)
    client = connect(gateway.url if pinned else None)
    with session_scope("sess-1"):
        client(
            "POST",
            f"{gateway.url}/moved",
            gateway_headers("https://api.openai.com/v1", model="gpt-4o"),
        )
    assert gateway.session_ids == ["sess-1"]
    assert [request.cagent_headers for request in elsewhere.arrived] == [set()]


@pytest.mark.parametrize("pinned", [False, True])
def test_what_left_the_origin_stays_unmarked_when_it_comes_back(
    connect: Any, gateway: Any, elsewhere: Any, pinned: bool
) -> None:
    """Over any number of hops, also inside the origin first, as requests does with Authorization."""
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
def test_redirect_to_a_reference_without_scheme_or_with_too_many_slashes(
    connect: Any, gateway: Any, elsewhere: Any, slashes: str, arrive: set[int]
) -> None:
    """With four slashes some releases of Python lead requests to the other host, others to the gateway."""
    gateway.redirect("/old", slashes + elsewhere.url.removeprefix("http://") + "/new")
    client = connect()
    with session_scope("sess-1"), contextlib.suppress(httpx.HTTPError, httpx2.HTTPError):
        client("GET", f"{gateway.url}/old", MARKED)
    assert len(elsewhere.arrived) in arrive
    assert not any(request.cagent_headers for request in elsewhere.arrived)


def test_redirect_to_another_name_of_the_same_machine(connect: Any, gateway: Any) -> None:
    """An origin is a name, not an address."""
    gateway.redirect("/old", gateway.url.replace("127.0.0.1", "localhost") + "/new")
    client = connect()
    with session_scope("sess-1"):
        client("GET", f"{gateway.url}/old", MARKED)
    assert [request.cagent_headers for request in gateway.arrived] == [
        {*gateway.arrived[0].cagent_headers},
        set(),
    ]


def test_a_marked_call_to_elsewhere_that_redirects_to_the_gateway_gains_nothing(
    connect: Any, gateway: Any, elsewhere: Any
) -> None:
    elsewhere.redirect("/old", f"{gateway.url}/new")
    client = connect(gateway.url)
    with session_scope("sess-1"):
        client("GET", f"{elsewhere.url}/old", MARKED)
    assert elsewhere.session_ids == [None]
    assert [request.cagent_headers for request in gateway.arrived] == [set()]


def test_many_threads_many_sessions_one_client(connect: Any, gateway: Any, elsewhere: Any) -> None:
    """Redirects, sessions and threads at once: what arrived is what its sender was in."""
    gateway.redirect("/away", f"{elsewhere.url}/gone", 307)
    client = connect()
    numbers = itertools.count()

    def call(session_id: str, path: str) -> None:
        client("POST", f"{gateway.url}/{path}?from={session_id}&n={next(numbers)}", MARKED)

    with SessionExecutor(ThreadPoolExecutor(8)) as pool:
        jobs: list[Any] = []
        for number in range(64):
            session_id = f"sess-{number % 5}"
            with session_scope(session_id):
                jobs.append(pool.submit(call, session_id, "away" if number % 4 == 0 else "here"))
        for job in jobs:
            job.result()
    assert len(gateway.arrived) == 64
    assert all(f"from={request.session_id}&" in request.path for request in gateway.arrived)
    assert [request.cagent_headers for request in elsewhere.arrived] == [set()] * 16
