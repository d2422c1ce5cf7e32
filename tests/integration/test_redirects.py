"""Tests of redirects with requests, on real sockets. requests or the caller follows them."""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter

from cagent_session import SessionIdAdapter, gateway_headers, mount, session_scope

HEADERS = gateway_headers("https://api.openai.com/v1", model="gpt-4o", install_id="machine-1")
Follow = Callable[[requests.Session, requests.Response], object]


@pytest.fixture(params=["known gateway", "marker alone"])
def session(
    request: pytest.FixtureRequest, http: requests.Session, gateway: Any
) -> requests.Session:
    return mount(http, gateway.url if request.param == "known gateway" else None)


def run_at_once(count: int, work: Callable[[int], object]) -> None:
    """Call ``work(0)``, ``work(1)`` and so on in threads that start together."""
    start = threading.Barrier(count)
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(lambda number: (start.wait(10), work(number)), range(count)))


def by_resolve_redirects(session: requests.Session, response: requests.Response) -> None:
    list(session.resolve_redirects(response, response.request))


def by_yielded_requests(session: requests.Session, response: requests.Response) -> None:
    following = session.resolve_redirects(response, response.request, yield_requests=True)
    session.send(next(following))  # type: ignore[arg-type] # yield_requests=True yields requests


def by_next(session: requests.Session, response: requests.Response) -> None:
    assert response.next is not None
    session.send(response.next)


def by_a_copy_of_the_request(session: requests.Session, response: requests.Response) -> None:
    following = response.request.copy()
    following.url = response.headers["Location"]
    session.rebuild_auth(following, response)
    session.send(following)


def by_a_deep_copy(session: requests.Session, response: requests.Response) -> None:
    following = copy.deepcopy(response.request)
    following.url = response.headers["Location"]
    session.send(following)


def by_a_copy_of_the_headers(session: requests.Session, response: requests.Response) -> None:
    following = requests.Request("GET", response.headers["Location"]).prepare()
    following.headers = copy.copy(response.request.headers)
    session.send(following)


def by_the_connection(_: requests.Session, response: Any) -> None:
    following = response.request.copy()
    following.url = response.headers["Location"]
    response.connection.send(following)


@pytest.mark.parametrize(
    "follow",
    [
        by_resolve_redirects,
        by_yielded_requests,
        by_next,
        by_a_copy_of_the_request,
        by_a_deep_copy,
        by_a_copy_of_the_headers,
        by_the_connection,
    ],
)
def test_a_followed_redirect_off_the_origin_has_no_cagent_headers(
    session: requests.Session, gateway: Any, elsewhere: Any, follow: Follow
) -> None:
    gateway.redirect("/", elsewhere.url + "/new")
    with session_scope("sess-1"):
        response = session.get(gateway.url + "/", headers=HEADERS, allow_redirects=False)
        follow(session, response)
    assert gateway.session_ids == ["sess-1"]
    assert [request.cagent_headers for request in elsewhere.arrived] == [set()]


@pytest.mark.parametrize(
    "follow", [by_resolve_redirects, by_yielded_requests, by_next, by_a_copy_of_the_request]
)
def test_a_followed_redirect_inside_the_origin_keeps_the_session(
    session: requests.Session, gateway: Any, follow: Follow
) -> None:
    gateway.redirect("/", gateway.url + "/new")
    with session_scope("sess-1"):
        response = session.get(gateway.url + "/", headers=HEADERS, allow_redirects=False)
        follow(session, response)
    assert gateway.session_ids == ["sess-1", "sess-1"]


class OwnRedirects(requests.Session):
    """A session that follows its own header, with any status."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        return resp.headers.get("X-Moved-To")


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("status", [200, 402])
def test_a_sessions_own_kind_of_redirect_has_no_cagent_headers(
    gateway: Any, elsewhere: Any, known: bool, status: int
) -> None:
    gateway.answer("/", status, {"X-Moved-To": elsewhere.url + "/new"})
    session = mount(OwnRedirects(), gateway.url if known else None)
    session.trust_env = False
    with session, session_scope("sess-1"):
        session.get(gateway.url + "/", headers=HEADERS)
    assert gateway.session_ids == ["sess-1"]
    assert [request.cagent_headers for request in elsewhere.arrived] == [set()]


def test_headers_of_the_session_go_only_to_the_known_gateway(
    http: requests.Session, gateway: Any, elsewhere: Any
) -> None:
    """A session's headers are added to all its requests, also to those for other hosts."""
    http.headers.update(HEADERS)
    mount(http, gateway.url)
    with session_scope("sess-1"):
        http.get(elsewhere.url)
        http.get(gateway.url)
    assert [request.cagent_headers for request in elsewhere.arrived] == [set()]
    ours = {name.lower() for name in [*HEADERS, "X-Cagent-Session-Id"]}
    assert [request.cagent_headers for request in gateway.arrived] == [ours]


def test_a_request_that_was_redirected_away_can_be_sent_again(
    session: requests.Session, gateway: Any, elsewhere: Any
) -> None:
    gateway.redirect("/", elsewhere.url + "/new")
    request = session.prepare_request(requests.Request("GET", gateway.url + "/", headers=HEADERS))
    before = dict(request.headers)
    for session_id in ("sess-1", "sess-2", None):
        with session_scope(session_id):
            session.send(request)
    assert dict(request.headers) == before
    assert gateway.session_ids == ["sess-1", "sess-2", None]
    assert [request.cagent_headers for request in elsewhere.arrived] == [set()] * 3


def test_a_redirect_of_a_hooks_request_does_not_affect_the_first_request(
    session: requests.Session, gateway: Any, elsewhere: Any
) -> None:
    """The hook's request is redirected off the origin. The first call keeps its marker."""
    gateway.redirect("/token", elsewhere.url + "/token")
    gateway.redirect("/", "/new", 307)

    def get_token(response: Any, **options: Any) -> None:
        if response.request.path_url == "/":
            token = requests.Request("GET", gateway.url + "/token", headers=HEADERS).prepare()
            response.connection.send(token, **options)

    with session_scope("sess-1"):
        session.get(gateway.url + "/", headers=HEADERS, hooks={"response": [get_token]})
    paths = [(request.path, request.session_id) for request in gateway.arrived]
    assert paths == [("/", "sess-1"), ("/token", "sess-1"), ("/new", "sess-1")]


@pytest.mark.parametrize("hooks", [None, [], {}])
def test_a_hook_may_remove_the_hooks_of_its_request(
    http: requests.Session, gateway: Any, hooks: Any
) -> None:
    """The caller still gets the response."""

    def remove(response: requests.Response, **_: Any) -> None:
        response.request.hooks = hooks

    mount(http, gateway.url)
    with session_scope("sess-1"):
        response = http.get(gateway.url, headers=HEADERS, hooks={"response": remove})
    assert response.status_code == 200
    assert http.send(response.request.copy()).status_code == 200


def test_a_request_sent_by_many_threads_and_redirected_away_keeps_its_sessions(
    http: requests.Session, gateway: Any, elsewhere: Any
) -> None:
    gateway.redirect("/", elsewhere.url + "/new")
    session = mount(http)
    request = session.prepare_request(requests.Request("GET", gateway.url + "/", headers=HEADERS))

    def send(number: int) -> None:
        with session_scope(f"sess-{number}"):
            for _ in range(10):
                session.send(request)

    run_at_once(8, send)
    assert sorted(gateway.session_ids) == sorted(f"sess-{n}" for n in range(8) for _ in range(10))
    assert all(request.cagent_headers == set() for request in elsewhere.arrived)


def test_a_url_changed_by_the_caller_is_not_a_redirect(gateway: Any, elsewhere: Any) -> None:
    """A load balancer may do so. Without a known gateway, the caller's marker decides."""
    adapter = SessionIdAdapter()
    request = requests.Request("GET", gateway.url + "/", headers=HEADERS).prepare()
    with session_scope("sess-1"):
        adapter.send(request)
        request.url = elsewhere.url + "/"
        adapter.send(request)
    assert (gateway.session_ids, elsewhere.session_ids) == (["sess-1"], ["sess-1"])


@pytest.mark.parametrize(
    "write",
    [
        lambda request: {**request.headers, "X-Signature": "1"},
        lambda request: request.headers.copy(),
    ],
)
def test_a_redirect_is_noticed_if_an_inner_adapter_replaces_the_headers(
    session: requests.Session, gateway: Any, elsewhere: Any, write: Callable[[Any], Any]
) -> None:
    class Signing(HTTPAdapter):
        def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> Any:
            request.headers = write(request)
            return super().send(request, *args, **kwargs)

    known = session.get_adapter(gateway.url).gateway  # type: ignore[attr-defined]
    session.mount("http://", Signing())
    mount(session, known)
    gateway.redirect("/", elsewhere.url + "/new")
    with session_scope("sess-1"):
        session.get(gateway.url + "/", headers=HEADERS)
    assert gateway.session_ids == ["sess-1"]
    assert [request.cagent_headers for request in elsewhere.arrived] == [set()]


@pytest.mark.parametrize("session_id", ["sess-1", None])
def test_an_inner_adapter_may_change_the_origin(
    http: requests.Session, gateway: Any, elsewhere: Any, session_id: str | None
) -> None:
    """An adapter may change the host. A redirect on the new host stays inside the origin."""

    class Balancing(HTTPAdapter):
        def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> Any:
            request.url = str(request.url).replace(gateway.url, elsewhere.url)
            return super().send(request, *args, **kwargs)

    elsewhere.redirect("/", elsewhere.url + "/new")
    http.mount("http://", Balancing())
    mount(http)
    with session_scope(session_id):
        http.get(gateway.url + "/", headers=HEADERS)
    assert elsewhere.session_ids == [session_id, session_id]
    markers = [request.get("X-Cagent-Forward") for request in elsewhere.arrived]
    assert markers == [HEADERS["X-Cagent-Forward"]] * 2


def test_a_redirected_request_sent_by_many_threads_has_no_cagent_headers(
    http: requests.Session, gateway: Any, elsewhere: Any
) -> None:
    gateway.redirect("/", elsewhere.url + "/new")
    session = mount(http)
    for _ in range(5):
        with session_scope("sess-1"):
            response = session.get(gateway.url + "/", headers=HEADERS, allow_redirects=False)
        following: Any = response.next
        send = functools.partial(session.send, following, allow_redirects=False)
        run_at_once(4, lambda _, send=send: send())  # type: ignore[misc] # of this turn
    assert [request.cagent_headers for request in elsewhere.arrived] == [set()] * 20


@pytest.mark.parametrize("stays", [True, False])
def test_headers_without_a_marker_also_stay_inside_the_origin(
    http: requests.Session, gateway: Any, elsewhere: Any, stays: bool
) -> None:
    """One example is the install ID alone. The gateway's URL is not known here."""
    gateway.redirect("/", (gateway if stays else elsewhere).url + "/new")
    with session_scope("sess-1"):
        mount(http).get(gateway.url + "/", headers={"X-Cagent-Id": "machine-1"})
    arrived = [request.cagent_headers for request in [*gateway.arrived, *elsewhere.arrived]]
    assert arrived == [{"x-cagent-id"}, {"x-cagent-id"} if stays else set()]
