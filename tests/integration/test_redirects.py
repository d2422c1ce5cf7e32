"""Redirects of requests, whoever follows them, on real sockets."""

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
    session.send(next(following))  # type: ignore[arg-type] # a request, as was asked for


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
def test_no_way_to_follow_a_redirect_off_the_origin_takes_headers_along(
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
def test_every_way_to_follow_a_redirect_inside_the_origin_keeps_the_session(
    session: requests.Session, gateway: Any, follow: Follow
) -> None:
    gateway.redirect("/", gateway.url + "/new")
    with session_scope("sess-1"):
        response = session.get(gateway.url + "/", headers=HEADERS, allow_redirects=False)
        follow(session, response)
    assert gateway.session_ids == ["sess-1", "sess-1"]


class Refreshing(requests.Session):
    """Follows a header of its own, with any status."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        return resp.headers.get("X-Moved-To")


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("status", [200, 402])
def test_a_session_with_redirects_of_its_own_takes_nothing_along(
    gateway: Any, elsewhere: Any, known: bool, status: int
) -> None:
    gateway.answer("/", status, {"X-Moved-To": elsewhere.url + "/new"})
    session = mount(Refreshing(), gateway.url if known else None)
    session.trust_env = False
    with session, session_scope("sess-1"):
        session.get(gateway.url + "/", headers=HEADERS)
    assert gateway.session_ids == ["sess-1"]
    assert [request.cagent_headers for request in elsewhere.arrived] == [set()]


def test_headers_of_the_session_go_to_the_known_gateway_alone(
    http: requests.Session, gateway: Any, elsewhere: Any
) -> None:
    """Every request of such a session has the headers, also those to other hosts."""
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


def test_a_redirect_of_a_hooks_own_request_leaves_the_first_request_alone(
    session: requests.Session, gateway: Any, elsewhere: Any
) -> None:
    """A hook gets a token by a redirect off the origin. The first call keeps its marker."""
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
    """The response must not be lost."""

    def remove(response: requests.Response, **_: Any) -> None:
        response.request.hooks = hooks

    mount(http, gateway.url)
    with session_scope("sess-1"):
        response = http.get(gateway.url, headers=HEADERS, hooks={"response": remove})
    assert response.status_code == 200
    assert http.send(response.request.copy()).status_code == 200


def test_one_request_sent_by_many_threads_and_redirected_away(
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


def test_a_url_that_the_caller_changes_is_no_redirect(gateway: Any, elsewhere: Any) -> None:
    """For example by a load balancer. Without a known gateway, the caller's marker counts."""
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
def test_an_inner_adapter_that_replaces_the_headers_hides_no_redirect(
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
def test_the_origin_is_the_one_to_which_an_inner_adapter_sends(
    http: requests.Session, gateway: Any, elsewhere: Any, session_id: str | None
) -> None:
    """A load balancer may change the host. A redirect on that host stays inside the origin."""

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


def test_one_redirected_request_sent_by_many_threads_takes_nothing_along(
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
def test_headers_without_a_marker_stay_inside_the_origin_too(
    http: requests.Session, gateway: Any, elsewhere: Any, stays: bool
) -> None:
    """Such as the install ID alone, if the gateway's URL is not known."""
    gateway.redirect("/", (gateway if stays else elsewhere).url + "/new")
    with session_scope("sess-1"):
        mount(http).get(gateway.url + "/", headers={"X-Cagent-Id": "machine-1"})
    arrived = [request.cagent_headers for request in [*gateway.arrived, *elsewhere.arrived]]
    assert arrived == [{"x-cagent-id"}, {"x-cagent-id"} if stays else set()]
