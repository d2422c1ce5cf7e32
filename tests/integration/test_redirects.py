"""What redirects, and the people and programs that follow them, take along. On real sockets."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter

from cagent_session import SessionIdAdapter, gateway_headers, mount, session_scope

HEADERS = gateway_headers("https://api.openai.com/v1", model="gpt-4o", install_id="machine-1")
Follow = Callable[[requests.Session, requests.Response], object]


@pytest.fixture(params=["known gateway", "marker alone"])
def session(request: pytest.FixtureRequest, gateway: Any) -> Iterator[requests.Session]:
    url = gateway.url if request.param == "known gateway" else None
    with mount(requests.Session(), url) as session:
        session.trust_env = False
        yield session


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
def test_whoever_follows_a_redirect_off_the_origin_takes_nothing_along(
    session: requests.Session, gateway: Any, elsewhere: Any, follow: Follow
) -> None:
    gateway.redirect("/", elsewhere.url + "/new")
    with session_scope("sess-1"):
        response = session.get(gateway.url + "/", headers=HEADERS, allow_redirects=False)
        follow(session, response)
    assert gateway.session_ids == ["sess-1"]
    assert [request.cagent_headers for request in elsewhere.arrived] == [set()]


@pytest.mark.parametrize(
    "follow",
    [by_resolve_redirects, by_yielded_requests, by_next, by_a_copy_of_the_request],
)
def test_whoever_follows_a_redirect_inside_the_origin_keeps_the_session(
    session: requests.Session, gateway: Any, follow: Follow
) -> None:
    gateway.redirect("/", gateway.url + "/new")
    with session_scope("sess-1"):
        response = session.get(gateway.url + "/", headers=HEADERS, allow_redirects=False)
        follow(session, response)
    assert gateway.session_ids == ["sess-1", "sess-1"]


class Refreshing(requests.Session):
    """Follows a header and a status that requests does not follow."""

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


def test_headers_of_the_session_go_to_the_known_gateway_alone(gateway: Any, elsewhere: Any) -> None:
    """The first example of the README: every request of the session has the headers."""
    with mount(requests.Session(), gateway.url) as session, session_scope("sess-1"):
        session.trust_env = False
        session.headers.update(HEADERS)
        session.get(elsewhere.url)
        session.get(gateway.url)
    assert [request.cagent_headers for request in elsewhere.arrived] == [set()]
    assert [request.cagent_headers for request in gateway.arrived] == [
        {name.lower() for name in [*HEADERS, "X-Cagent-Session-Id"]}
    ]


def test_the_callers_request_is_marked_after_a_redirect_off_the_origin(
    session: requests.Session, gateway: Any, elsewhere: Any
) -> None:
    """Sent again, it is attributed as the first time."""
    gateway.redirect("/", elsewhere.url + "/new")
    request = session.prepare_request(requests.Request("GET", gateway.url + "/", headers=HEADERS))
    before = dict(request.headers)
    for session_id in ("sess-1", "sess-2"):
        with session_scope(session_id):
            session.send(request)
    assert dict(request.headers) == before
    assert gateway.session_ids == ["sess-1", "sess-2"]
    assert [request.cagent_headers for request in elsewhere.arrived] == [set(), set()]


def test_a_redirect_of_a_hooks_own_request_leaves_the_first_request_alone(
    session: requests.Session, gateway: Any, elsewhere: Any
) -> None:
    """A hook gets a token, is redirected off the origin, and the call goes on with its marker."""
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
def test_a_hook_may_take_the_hooks_off_its_request(gateway: Any, hooks: Any) -> None:
    """As without us: the answer was served, and is not lost."""

    def take_off(response: requests.Response, **_: Any) -> None:
        response.request.hooks = hooks

    with mount(requests.Session(), gateway.url) as session, session_scope("sess-1"):
        session.trust_env = False
        response = session.get(gateway.url, headers=HEADERS, hooks={"response": take_off})
    assert response.status_code == 200
    again = response.request.copy()
    assert session.send(again).status_code == 200


def test_one_request_sent_by_many_threads_and_redirected_away(gateway: Any, elsewhere: Any) -> None:
    gateway.redirect("/", elsewhere.url + "/new")
    session = mount(requests.Session())
    session.trust_env = False
    request = session.prepare_request(requests.Request("GET", gateway.url + "/", headers=HEADERS))
    errors: list[Exception] = []
    start = threading.Barrier(8)

    def send(number: int) -> None:
        start.wait(10)
        try:
            with session_scope(f"sess-{number}"):
                for _ in range(10):
                    session.send(request)
        except Exception as error:  # noqa: BLE001 - any is a failure
            errors.append(error)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(map(str, gateway.session_ids)) == sorted(
        f"sess-{n}" for n in range(8) for _ in range(10)
    )
    assert all(request.cagent_headers == set() for request in elsewhere.arrived)


def test_a_url_that_the_caller_changes_is_the_callers_decision(
    gateway: Any, elsewhere: Any
) -> None:
    """Such as a balancer's. The marker alone decides here; it is the caller's."""
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
def test_the_origin_is_where_an_inner_adapter_sends_to(
    gateway: Any, elsewhere: Any, session_id: str | None
) -> None:
    """Such as a balancer: a redirect there is one inside the origin."""

    class Balancing(HTTPAdapter):
        def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> Any:
            request.url = str(request.url).replace(gateway.url, elsewhere.url)
            return super().send(request, *args, **kwargs)

    elsewhere.redirect("/", elsewhere.url + "/new")
    session = requests.Session()
    session.trust_env = False
    session.mount("http://", Balancing())
    with mount(session), session_scope(session_id):
        session.get(gateway.url + "/", headers=HEADERS)
    assert elsewhere.session_ids == [session_id, session_id]
    assert [request.get("X-Cagent-Forward") for request in elsewhere.arrived] == [
        HEADERS["X-Cagent-Forward"]
    ] * 2


def test_one_redirected_request_sent_by_many_threads_takes_nothing_along(
    gateway: Any, elsewhere: Any
) -> None:
    gateway.redirect("/", elsewhere.url + "/new")
    with mount(requests.Session()) as session:
        session.trust_env = False
        for _ in range(5):
            with session_scope("sess-1"):
                response = session.get(gateway.url + "/", headers=HEADERS, allow_redirects=False)
            start, errors = threading.Barrier(4), list[Exception]()

            def send(
                following: Any = response.next, start: Any = start, errors: Any = errors
            ) -> None:
                start.wait(10)
                try:
                    session.send(following, allow_redirects=False)
                except Exception as error:  # noqa: BLE001 - any is a failure
                    errors.append(error)

            threads = [threading.Thread(target=send) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert errors == []
    assert [request.cagent_headers for request in elsewhere.arrived] == [set()] * 20


@pytest.mark.parametrize("stays", [True, False])
def test_headers_without_a_marker_stay_inside_the_origin_too(
    gateway: Any, elsewhere: Any, stays: bool
) -> None:
    """Such as the install ID alone, if the gateway's URL is not known."""
    gateway.redirect("/", (gateway if stays else elsewhere).url + "/new")
    with mount(requests.Session()) as session, session_scope("sess-1"):
        session.trust_env = False
        session.get(gateway.url + "/", headers={"X-Cagent-Id": "machine-1"})
    arrived = [request.cagent_headers for request in [*gateway.arrived, *elsewhere.arrived]]
    assert arrived == [{"x-cagent-id"}, {"x-cagent-id"} if stays else set()]
