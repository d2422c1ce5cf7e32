"""What do the adapter, mount, unmount and session_factory do to a session?"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import requests
import requests_mock
import responses
from hypothesis import example, given
from hypothesis import strategies as st
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3.util import Retry

import cagent_session.gateway
from cagent_session import (
    InvalidGatewayURL,
    MissingSessionId,
    SessionIdAdapter,
    gateway_headers,
    mount,
    session_factory,
    session_scope,
    unmount,
)
from cagent_session.adapter import _leaves_origin

GATEWAY = "https://gw.example"
MARKED = {"X-Cagent-Forward": "https://api.openai.com/v1"}


class RecordingAdapter(BaseAdapter):
    """A transport without a network: a third party's adapter, with an attribute and a method of its own."""

    def __init__(self) -> None:
        self.sent: list[requests.PreparedRequest] = []
        self.options: dict[str, Any] = {}
        self.closed = 0
        self.cache = "its own"

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # type: ignore[override]
        self.sent.append(request)
        self.options = options
        response = requests.Response()
        response.status_code, response.request, response.url = 200, request, request.url or ""
        return response

    def close(self) -> None:
        self.closed += 1

    def __len__(self) -> int:
        return 0  # as an empty cache: an adapter that is false is one all the same

    def purge(self) -> str:
        return f"purged {self.cache}"

    def __deepcopy__(self, memo: Any) -> RecordingAdapter:
        return RecordingAdapter()  # of its own making, as for a cache that can't be copied


def prepared(url: str = GATEWAY, **headers: str) -> requests.PreparedRequest:
    return requests.Request("POST", url, headers={**MARKED, **headers}).prepare()


def sent_id(adapter: BaseAdapter, request: requests.PreparedRequest | None = None) -> Any:
    """Send through *adapter* in a session and return the ID that went out."""
    with session_scope("sess-1"):
        return adapter.send(request or prepared()).request.headers.get("X-Cagent-Session-Id")


# Stamping


def test_the_callers_request_is_not_changed() -> None:
    request = prepared()
    before = {name: copy.copy(value) for name, value in vars(request).items()}
    inner = RecordingAdapter()
    assert sent_id(SessionIdAdapter(inner=inner), request) == "sess-1"
    assert vars(request) == before
    assert inner.sent[0] is not request
    assert inner.sent[0].body is request.body


def test_a_request_that_needs_no_change_is_not_copied() -> None:
    inner = RecordingAdapter()
    adapter = SessionIdAdapter(inner=inner)
    unmarked = requests.Request("GET", GATEWAY).prepare()
    right_already = prepared(**{"X-Cagent-Session-Id": "sess-1"})
    sent_id(adapter, unmarked)
    sent_id(adapter, right_already)
    adapter.send(request := prepared())
    assert [id(sent) for sent in inner.sent] == [id(unmarked), id(right_already), id(request)]


def test_a_subclass_of_prepared_request_stays_one() -> None:
    class SignedRequest(requests.PreparedRequest):
        signature = "none"

    request = SignedRequest()
    request.prepare("POST", GATEWAY, headers=MARKED)
    request.signature = "signed"
    inner = RecordingAdapter()
    assert sent_id(SessionIdAdapter(inner=inner), request) == "sess-1"
    assert isinstance(inner.sent[0], SignedRequest)
    assert inner.sent[0].signature == "signed"


def test_a_value_that_the_caller_set_as_bytes_is_treated_alike() -> None:
    request = prepared()
    request.headers["X-Cagent-Session-Id"] = b"callers"
    adapter = SessionIdAdapter(inner=RecordingAdapter(), missing="raise")
    assert adapter.send(request).request.headers["X-Cagent-Session-Id"] == b"callers"
    assert sent_id(adapter, request) == "sess-1"


def test_headers_set_by_hand_after_preparation_may_be_a_dict() -> None:
    request = prepared()
    request.headers = dict(request.headers)  # type: ignore[assignment]
    assert sent_id(SessionIdAdapter(inner=RecordingAdapter()), request) == "sess-1"


def test_an_empty_value_that_the_caller_set_is_no_session() -> None:
    with pytest.raises(MissingSessionId):
        SessionIdAdapter(inner=RecordingAdapter(), missing="raise").send(prepared(**{"X-Cagent-Session-Id": ""}))


def test_the_usual_path_parses_no_url(monkeypatch: pytest.MonkeyPatch) -> None:
    for gateway in ("https://gw.example", "https://gw.example:8443"):
        monkeypatch.undo()
        adapter = SessionIdAdapter(gateway, inner=RecordingAdapter())
        monkeypatch.setattr(cagent_session.gateway, "origin_of", lambda url: pytest.fail(f"parsed {url}"))
        assert sent_id(adapter, prepared(f"{gateway}/v1/chat/completions")) == "sess-1"


def test_responses_sees_the_header() -> None:
    """The mock patches HTTPAdapter.send: ours runs, as a subclass and as a wrapper."""
    by_hand = requests.Session()
    by_hand.mount(GATEWAY, SessionIdAdapter(GATEWAY))
    for session in (mount(requests.Session(), GATEWAY), by_hand):
        with responses.RequestsMock() as mock, session_scope("sess-1"):
            mock.get(f"{GATEWAY}/v1/models", json={"data": []})
            session.get(f"{GATEWAY}/v1/models", headers=MARKED)
            session.get(f"{GATEWAY}/v1/models")
            assert [call.request.headers.get("X-Cagent-Session-Id") for call in mock.calls] == ["sess-1", None]


def test_requests_mock_sees_the_header_where_its_adapter_is_mounted() -> None:
    """Its Mocker replaces Session.get_adapter instead: then no adapter runs, ours included."""
    session = requests.Session()
    session.mount("https://", mock := requests_mock.Adapter())
    mock.register_uri("POST", GATEWAY)
    with session_scope("sess-1"):
        mount(session, GATEWAY).post(GATEWAY, headers=MARKED)
        with requests_mock.Mocker() as mocker:
            mocker.post(GATEWAY)
            session.post(GATEWAY, headers=MARKED)
    assert mock.last_request is not None
    assert mock.last_request.headers["X-Cagent-Session-Id"] == "sess-1"
    assert mocker.last_request is not None
    assert "X-Cagent-Session-Id" not in mocker.last_request.headers


# Redirects


def test_a_redirect_off_the_origin_takes_the_marker_off_the_callers_request() -> None:
    """The one change to it, without which requests would take the marker along."""
    headers = {**gateway_headers("https://api.openai.com/v1", model="gpt-4o"), "X-Cagent-Session-Id": "callers"}
    request = requests.Request("POST", "http://gw.example/old", headers={**headers, "X-Other": "kept"}).prepare()
    request.headers[b"X-Cagent-Bytes"] = "set after preparation, where names are not converted"  # type: ignore[index]
    with responses.RequestsMock() as mock:
        mock.post("http://gw.example/old", status=307, headers={"Location": "http://evil.example/new"})
        response = SessionIdAdapter().send(request)
    assert response.status_code == 307
    assert set(request.headers) == {"X-Other", "Content-Length"}


def test_a_redirect_without_location_changes_nothing() -> None:
    request = prepared()
    with responses.RequestsMock() as mock:
        mock.post(GATEWAY, status=304)
        mock.post(GATEWAY, status=302)
        SessionIdAdapter().send(request)
        SessionIdAdapter().send(request)
    assert "X-Cagent-Forward" in request.headers


@example("//gw.example/new")
@example("////evil.example")  # which some releases of Python take for http://evil.example
@given(
    st.builds(
        "{}{}{}".format,
        st.sampled_from(
            [
                "http://",
                "https://",
                "//",
                "///",
                "////",
                "http:////",
                "/",
                "",
                "http:",
                "HTTP://",
                "http://gw.example",
                "\\\\",
            ]
        ),
        st.sampled_from(["gw.example", "gw.example:80", "gw.example:443", "evil.example", "gw.example@evil.example"])
        | st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=12),
        st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=12),
    )
)
def test_the_redirects_target_is_where_requests_goes(location: str) -> None:
    """Whatever the Location: where requests would drop Authorization, we drop ours."""
    response = requests.Response()
    response.status_code, response.url = 307, "http://gw.example/old"
    response.headers["Location"] = location
    response.request = requests.Request("POST", response.url, headers={"Authorization": "Bearer key"}).prepare()
    response._content = b""
    session = requests.Session()
    session.trust_env = False
    try:
        followed = next(session.resolve_redirects(response, response.request, yield_requests=True))
    except StopIteration:
        assert not _leaves_origin(response.request, response)
    except ValueError:
        assert _leaves_origin(response.request, response)
    else:
        assert isinstance(followed, requests.PreparedRequest)
        assert _leaves_origin(response.request, response) == ("Authorization" not in followed.headers)


@pytest.mark.parametrize("duplicate", [lambda connection: connection, copy.copy, copy.deepcopy])
def test_the_connection_that_a_hook_gets_is_the_adapter_in_all_but_send(duplicate: Callable[[Any], Any]) -> None:
    found: list[Any] = []
    session = requests.Session()
    session.mount("https://", SessionIdAdapter(inner=(inner := RecordingAdapter())))
    session.hooks["response"].append(lambda response, **_: found.append(response.connection))
    session.post(GATEWAY, headers=MARKED)
    connection = duplicate(found[0])
    assert isinstance(connection, SessionIdAdapter)
    assert connection.purge() == "purged its own"  # type: ignore[attr-defined]
    assert sent_id(connection) == "sess-1"
    connection.close()
    assert inner.closed == (0 if duplicate is copy.deepcopy else 1)


def test_inner_gets_what_a_response_hook_sends_again_with() -> None:
    session, inner, found = requests.Session(), RecordingAdapter(), []
    session.mount(GATEWAY, SessionIdAdapter(inner=inner))
    session.hooks["response"].append(lambda response, **_: found.append(response.connection))
    session.post(GATEWAY, headers=MARKED)
    found[0].send(prepared(), True, timeout=5)
    assert inner.options == {"stream": True, "timeout": 5}


def test_where_no_hook_sends_again_the_connection_is_the_adapter() -> None:
    adapter: Any = SessionIdAdapter(inner=RecordingAdapter())
    assert adapter.send(prepared()).connection is adapter


def test_what_a_response_hook_sends_again_keeps_its_session_on_the_origin() -> None:
    def authenticate(response: Any, **options: Any) -> Any:
        return response.connection.send(response.request.copy(), **options) if response.status_code == 401 else response

    session = mount(requests.Session(), GATEWAY)
    session.hooks["response"].append(authenticate)
    with responses.RequestsMock() as mock, session_scope("sess-1"):
        mock.post(f"{GATEWAY}/one", status=401)
        mock.post(f"{GATEWAY}/one", status=307, headers={"Location": "/two"})
        mock.post(f"{GATEWAY}/two")
        session.post(f"{GATEWAY}/one", headers=MARKED)
        sent = [call.request.headers.get("X-Cagent-Session-Id") for call in mock.calls]
    assert sent == ["sess-1", "sess-1", "sess-1"]


# The inner adapter


def test_inner_gets_what_send_got_by_keyword() -> None:
    inner = RecordingAdapter()
    SessionIdAdapter(inner=inner).send(prepared(), True, 5, False, cert="cert.pem", proxies={})
    assert inner.options == {"stream": True, "timeout": 5, "verify": False, "cert": "cert.pem", "proxies": {}}
    SessionIdAdapter(inner=inner).send(prepared(), cache="no")
    assert inner.options == {"cache": "no"}


def test_all_that_send_takes_may_come_by_position() -> None:
    SessionIdAdapter(inner=(inner := RecordingAdapter())).send(
        prepared(), True, 5, False, "cert.pem", {"https": "proxy"}
    )
    expected = {"stream": True, "timeout": 5, "verify": False, "cert": "cert.pem", "proxies": {"https": "proxy"}}
    assert inner.options == expected


def test_inner_shows_through() -> None:
    inner = HTTPAdapter(max_retries=3)
    adapter = SessionIdAdapter(inner=inner)
    assert adapter.max_retries is inner.max_retries
    assert adapter.poolmanager is inner.poolmanager
    adapter.max_retries = retries = Retry(5)
    assert inner.max_retries is retries
    adapter.init_poolmanager(2, 2)
    assert inner.poolmanager is adapter.poolmanager


def test_attributes_of_the_inner_adapters_own_show_through() -> None:
    adapter: Any = SessionIdAdapter(inner=(inner := RecordingAdapter()))
    assert (adapter.cache, adapter.purge()) == ("its own", "purged its own")
    adapter.cache = "set"
    assert inner.cache == "set"
    adapter.note = "the wrapper's"
    assert not hasattr(inner, "note")


def test_what_is_set_reaches_the_innermost_adapter() -> None:
    inner = HTTPAdapter()
    outer = SessionIdAdapter(inner=SessionIdAdapter(GATEWAY, inner=inner))
    outer.max_retries = retries = Retry(5)
    assert inner.max_retries is retries
    outer.init_poolmanager(2, 2)
    assert inner.poolmanager is outer.poolmanager
    outer.inner = other = HTTPAdapter()
    assert outer.inner is other
    assert outer.max_retries is other.max_retries


def test_a_method_of_the_wrapper_can_be_replaced_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter: Any = SessionIdAdapter(inner=(inner := RecordingAdapter()))
    monkeypatch.setattr(adapter, "send", lambda *_, **__: "replaced")
    assert adapter.send(prepared()) == "replaced"
    monkeypatch.undo()
    adapter.send(prepared())
    assert len(inner.sent) == 1


@pytest.mark.parametrize("adapter", [SessionIdAdapter(), SessionIdAdapter(inner=RecordingAdapter())])
def test_an_attribute_that_nobody_has_is_an_attribute_error(adapter: Any) -> None:
    with pytest.raises(AttributeError, match=r"'(SessionId|Recording)Adapter' object has no attribute 'nobody'"):
        _ = adapter.nobody
    with pytest.raises(AttributeError, match="'SessionIdAdapter' object has no attribute '__nobody__'"):
        _ = adapter.__nobody__


def test_close_closes_the_inner_adapter() -> None:
    inner = RecordingAdapter()
    SessionIdAdapter(inner=inner).close()
    assert inner.closed == 1


def test_close_closes_the_adapters_own_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = SessionIdAdapter()
    cleared: list[bool] = []
    monkeypatch.setattr(adapter.poolmanager, "clear", lambda: cleared.append(True))
    adapter.close()
    assert cleared == [True]


def test_own_parameters_are_those_of_the_http_adapter() -> None:
    adapter = SessionIdAdapter(GATEWAY, pool_maxsize=3, max_retries=2)
    assert (adapter._pool_maxsize, adapter.max_retries.total) == (3, 2)


def test_a_subclass_may_override_what_the_http_adapter_offers() -> None:
    """SDKs and users set TLS contexts in init_poolmanager; it has to stay in effect."""

    class Pinned(SessionIdAdapter):
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, **kwargs, assert_hostname="gw.example")

    for adapter in (Pinned(), copy.deepcopy(Pinned())):
        assert adapter.poolmanager.connection_pool_kw["assert_hostname"] == "gw.example"


@pytest.mark.parametrize("inner", [object(), "adapter", 7])
def test_inner_must_be_able_to_send(inner: Any) -> None:
    with pytest.raises(TypeError, match=f"inner must be a transport adapter of requests, got {type(inner).__name__}$"):
        SessionIdAdapter(inner=inner)


def test_inner_is_configured_itself() -> None:
    with pytest.raises(TypeError, match="inner adapter with max_retries, pool_maxsize, not its wrapper"):
        SessionIdAdapter(inner=HTTPAdapter(), max_retries=3, pool_maxsize=3)


# Copies


def pickle_round_trip(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing))


COPIES: list[Callable[[Any], Any]] = [copy.copy, copy.deepcopy, pickle_round_trip]


@pytest.mark.parametrize("duplicate", COPIES)
def test_a_copied_adapter_keeps_gateway_missing_and_retries(duplicate: Callable[[Any], Any]) -> None:
    adapter = duplicate(SessionIdAdapter(GATEWAY, missing="raise", max_retries=4, pool_maxsize=3))
    assert (adapter._rule.gateway, adapter._rule.missing) == (GATEWAY, "raise")
    assert (adapter.max_retries.total, adapter._pool_maxsize) == (4, 3)
    assert adapter.inner is None
    with responses.RequestsMock() as mock:
        mock.post(GATEWAY)
        mock.post("https://other.example/")
        assert sent_id(adapter) == "sess-1"
        assert sent_id(adapter, prepared("https://other.example/")) is None


@pytest.mark.parametrize("duplicate", COPIES)
def test_a_copied_wrapper_keeps_its_inner_adapter(duplicate: Callable[[Any], Any]) -> None:
    inner = HTTPAdapter(max_retries=4)
    adapter = duplicate(SessionIdAdapter(GATEWAY, inner=inner))
    assert type(adapter.inner) is HTTPAdapter
    assert adapter.max_retries.total == 4
    assert (adapter.inner is inner) is (duplicate is copy.copy)


class TeamAdapter(SessionIdAdapter):
    """A user's subclass, with an attribute that requests' own pickling has to be told of."""

    __attrs__ = [*HTTPAdapter.__attrs__, "team"]  # noqa: RUF012 - requests has it so
    team = "none"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.max_retries = Retry(1)  # before requests or we have set anything
        super().__init__(*args, **kwargs)


@pytest.mark.parametrize("duplicate", COPIES)
@pytest.mark.parametrize("inner", [None, HTTPAdapter()])
def test_a_copied_subclass_keeps_its_attributes(duplicate: Callable[[Any], Any], inner: HTTPAdapter | None) -> None:
    adapter = TeamAdapter(GATEWAY, inner=inner)
    adapter.team = "red"
    copied = duplicate(adapter)
    assert (type(copied), copied.team, copied._rule.gateway) == (TeamAdapter, "red", GATEWAY)


@pytest.mark.parametrize("duplicate", COPIES)
def test_a_copied_session_stays_mounted_and_unmounts(duplicate: Callable[[Any], Any]) -> None:
    session = requests.Session()
    session.mount("https://", HTTPAdapter(max_retries=4))
    session = duplicate(mount(session, GATEWAY))
    with responses.RequestsMock() as mock:
        mock.post(GATEWAY)
        assert sent_id(session.get_adapter(GATEWAY)) == "sess-1"
    unmount(session)
    assert {type(adapter) for adapter in session.adapters.values()} == {HTTPAdapter}
    assert max_retries_of(session) == 4


def max_retries_of(session: requests.Session) -> Any:
    adapter = session.get_adapter(GATEWAY)
    assert isinstance(adapter, HTTPAdapter)
    return adapter.max_retries.total


# mount and unmount


def test_mount_wraps_and_unmount_restores_the_very_same_objects() -> None:
    session = requests.Session()
    session.mount("https://api.example/v1/", RecordingAdapter())
    session.mount("file://", RecordingAdapter())
    before = list(session.adapters.items())
    assert mount(session, GATEWAY) is session
    assert all(isinstance(adapter, SessionIdAdapter) for adapter in session.adapters.values())
    assert unmount(session) is session
    assert list(session.adapters.items()) == before
    assert unmount(session) is session
    assert list(session.adapters.items()) == before


def test_longer_prefixes_keep_their_adapters() -> None:
    session = requests.Session()
    longer = RecordingAdapter()
    session.mount("https://gw.example/v1/", longer)
    mount(session)
    with session_scope("sess-1"):
        session.post("https://gw.example/v1/chat", headers=MARKED)
    assert longer.sent[0].headers["X-Cagent-Session-Id"] == "sess-1"


def test_mounting_twice_wraps_once() -> None:
    session = mount(requests.Session(), GATEWAY)
    before = dict(session.adapters)
    mount(session, GATEWAY)
    assert dict(session.adapters) == before
    assert not any(isinstance(adapter.inner, SessionIdAdapter) for adapter in before.values())  # type: ignore[attr-defined]


def test_mounting_again_takes_the_latest_settings_and_what_is_new() -> None:
    session = mount(requests.Session())
    session.mount("https://new.example/", new := RecordingAdapter())
    before = unmounted(session)
    mount(session, GATEWAY, missing="raise")
    settings = {
        (a._rule.gateway, a._rule.missing) for a in session.adapters.values() if isinstance(a, SessionIdAdapter)
    }
    assert settings == {(GATEWAY, "raise")}
    unmount(session)
    assert dict(session.adapters) == before
    assert session.adapters["https://new.example/"] is new


def unmounted(session: requests.Session) -> dict[str, Any]:
    return {p: a.inner if isinstance(a, SessionIdAdapter) else a for p, a in session.adapters.items()}


@pytest.mark.parametrize("inner", [None, HTTPAdapter()])
def test_an_adapter_that_the_caller_mounted_stays_as_it_is(inner: HTTPAdapter | None) -> None:
    session = requests.Session()
    session.mount(GATEWAY, own := SessionIdAdapter(GATEWAY, missing="raise", inner=inner))
    mount(session)
    assert session.adapters[GATEWAY] is own
    assert (own._rule.gateway, own._rule.missing, own.inner) == (GATEWAY, "raise", inner)
    unmount(session)
    assert session.adapters[GATEWAY] is own


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"gateway": "https://user:hunter2@gw.example"}, InvalidGatewayURL),
        ({"gateway": "gw.example"}, InvalidGatewayURL),
        ({"missing": "explode"}, ValueError),
    ],
)
def test_a_failed_mount_leaves_the_session_as_it_was(arguments: dict[str, Any], error: type[Exception]) -> None:
    for session in (requests.Session(), mount(requests.Session(), "https://other.example")):
        before = list(session.adapters.items())
        with pytest.raises(error) as failed:
            mount(session, **arguments)
        assert "hunter2" not in str(failed.value)
        assert list(session.adapters.items()) == before


def test_a_mount_that_fails_midway_leaves_the_session_as_it_was() -> None:
    session = requests.Session()
    session.mount("https://odd.example/", object())  # type: ignore[arg-type]
    before = list(session.adapters.items())
    with pytest.raises(TypeError, match="transport adapter"):
        mount(session)
    assert list(session.adapters.items()) == before


@pytest.mark.parametrize("thing", [None, requests, requests.Session, HTTPAdapter()])
@pytest.mark.parametrize("function", [mount, unmount])
def test_only_a_session_is_mounted_or_unmounted(function: Callable[[Any], Any], thing: Any) -> None:
    with pytest.raises(TypeError, match=r"expected a requests\.Session, got"):
        function(thing)


def test_mount_tells_who_has_an_httpx_client_what_to_use() -> None:
    with httpx.Client() as client, pytest.raises(TypeError, match=r"got httpx\.Client.*session_id_hook\(\)"):
        mount(client)  # type: ignore[type-var]


# session_factory


class ProviderSession(requests.Session):
    """A provider SDK's session, which mounts adapters of its own."""

    def __init__(self, retries: int = 0) -> None:
        super().__init__()
        self.mount("https://", HTTPAdapter(max_retries=retries))


def make_provider_session() -> ProviderSession:
    return ProviderSession(7)


def test_factory_makes_mounted_sessions() -> None:
    factory = session_factory(gateway=GATEWAY, missing="raise")
    first, second = factory(), factory()
    assert first is not second
    adapter = first.get_adapter(GATEWAY)
    assert isinstance(adapter, SessionIdAdapter)
    assert (adapter._rule.gateway, adapter._rule.missing) == (GATEWAY, "raise")


def test_factory_keeps_what_the_made_session_is_and_mounts() -> None:
    make_session = session_factory(ProviderSession, GATEWAY)
    for session in (make_session(retries=5), make_session(5)):
        assert isinstance(session, ProviderSession)
        assert max_retries_of(session) == 5


def test_factory_gives_its_sessions_the_retries_an_sdk_would() -> None:
    """Whoever takes an SDK's place in making sessions makes up for what the SDK would have mounted."""
    factory = pickle_round_trip(session_factory(gateway=GATEWAY, max_retries=2, pool_maxsize=3))
    for url in (GATEWAY, "http://gateway.example"):
        adapter: Any = factory().get_adapter(url)
        assert isinstance(adapter, SessionIdAdapter)
        assert (adapter.max_retries.total, adapter._pool_maxsize) == (2, 3)


def test_factory_gives_its_sessions_headers() -> None:
    """The caller's dict may change afterwards: what was made is not touched."""
    headers = dict(MARKED)
    factory = session_factory(gateway=GATEWAY, headers=headers)
    headers["X-Cagent-Forward"] = "elsewhere"
    session = pickle_round_trip(factory)()
    assert session.headers["X-Cagent-Forward"] == MARKED["X-Cagent-Forward"]
    assert session.headers["User-Agent"] == requests.Session().headers["User-Agent"]
    assert isinstance(session.get_adapter(GATEWAY), SessionIdAdapter)


def test_factory_of_something_else_fails_as_mount_does() -> None:
    with pytest.raises(TypeError, match=r"expected a requests\.Session"):
        session_factory(dict, headers=MARKED)()  # type: ignore[type-var]


def test_factory_pickles() -> None:
    session = pickle_round_trip(session_factory(make_provider_session, GATEWAY))()
    assert isinstance(session.get_adapter(GATEWAY), SessionIdAdapter)
    assert max_retries_of(session) == 7


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"gateway": "gw.example"}, InvalidGatewayURL),
        ({"missing": "explode"}, ValueError),
        ({"make": requests.Session()}, TypeError),
        ({"max_retrys": 2}, TypeError),
        ({"make": make_provider_session, "max_retries": 2}, TypeError),
        ({"headers": "https://api.openai.com/v1"}, TypeError),
        ({"headers": 0}, TypeError),
        ({"headers": {"X Cagent": "text"}}, ValueError),
        ({"headers": {b"X-Cagent-Forward": "text"}}, ValueError),
        *(
            ({"headers": {"X-Cagent-Model": value}}, ValueError)
            for value in (None, 1, b"text", "", " text", "a\r\nb", "é")
        ),
    ],
)
def test_factory_refuses_at_once(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        session_factory(**arguments)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"make": requests.Session()}, "takes a callable that makes sessions, got Session$"),
        (
            {"make": make_provider_session, "max_retries": 2, "pool_maxsize": 2},
            "mount adapters with max_retries, pool_maxsize where sessions are made, in <function make_provider_session",
        ),
    ],
)
def test_factory_names_what_it_refuses(arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(TypeError, match=problem):
        session_factory(**arguments)


def test_factory_does_not_repeat_a_headers_value() -> None:
    with pytest.raises(ValueError, match=r"^the value of X-Api-Key must be visible ASCII") as caught:
        session_factory(headers={"X-Api-Key": "sk-secret\n"})
    assert "secret" not in str(caught.value)
