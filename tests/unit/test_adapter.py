"""What do the adapter, mount, unmount and session_factory do to a session?"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any, ClassVar
from unittest import mock

import httpx
import pytest
import requests
import requests_mock
import responses
from requests.adapters import BaseAdapter, HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.util import Retry

import cagent_session.gateway
from cagent_session import (
    Gateway,
    InvalidGatewayURL,
    MissingSessionId,
    SessionIdAdapter,
    mount,
    session_factory,
    session_scope,
    unmount,
)
from cagent_session.headers import as_text
from cagent_session.transports import sent_headers as transport

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
        SessionIdAdapter(inner=RecordingAdapter(), missing="raise").send(
            prepared(**{"X-Cagent-Session-Id": ""})
        )


def test_the_usual_path_parses_no_url(monkeypatch: pytest.MonkeyPatch) -> None:
    for gateway in ("https://gw.example", "https://gw.example:8443"):
        monkeypatch.undo()
        adapter = SessionIdAdapter(gateway, inner=RecordingAdapter())
        monkeypatch.setattr(
            cagent_session.gateway, "origin_of", lambda url: pytest.fail(f"parsed {url}")
        )
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
            assert [call.request.headers.get("X-Cagent-Session-Id") for call in mock.calls] == [
                "sess-1",
                None,
            ]


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


def test_what_a_response_hook_sends_again_keeps_its_session_on_the_origin() -> None:
    def authenticate(response: Any, **options: Any) -> Any:
        return (
            response.connection.send(response.request.copy(), **options)
            if response.status_code == 401
            else response
        )

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
    assert inner.options == {
        "stream": True,
        "timeout": 5,
        "verify": False,
        "cert": "cert.pem",
        "proxies": {},
    }
    SessionIdAdapter(inner=inner).send(prepared(), cache="no")
    assert inner.options == {"cache": "no"}


def test_all_that_send_takes_may_come_by_position() -> None:
    SessionIdAdapter(inner=(inner := RecordingAdapter())).send(
        prepared(), True, 5, False, "cert.pem", {"https": "proxy"}
    )
    expected = {
        "stream": True,
        "timeout": 5,
        "verify": False,
        "cert": "cert.pem",
        "proxies": {"https": "proxy"},
    }
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


def test_a_method_of_the_wrapper_can_be_replaced_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    adapter: Any = SessionIdAdapter(inner=(inner := RecordingAdapter()))
    monkeypatch.setattr(adapter, "send", lambda *_, **__: "replaced")
    assert adapter.send(prepared()) == "replaced"
    monkeypatch.undo()
    adapter.send(prepared())
    assert len(inner.sent) == 1


@pytest.mark.parametrize(
    "adapter", [SessionIdAdapter(), SessionIdAdapter(inner=RecordingAdapter())]
)
def test_an_attribute_that_nobody_has_is_an_attribute_error(adapter: Any) -> None:
    with pytest.raises(
        AttributeError, match=r"'(SessionId|Recording)Adapter' object has no attribute 'nobody'"
    ):
        _ = adapter.nobody
    with pytest.raises(
        AttributeError, match="'SessionIdAdapter' object has no attribute '__nobody__'"
    ):
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
    with pytest.raises(
        TypeError,
        match=f"inner must be a transport adapter of requests, got {type(inner).__name__}$",
    ):
        SessionIdAdapter(inner=inner)


def test_inner_is_configured_itself() -> None:
    with pytest.raises(
        TypeError, match="inner adapter with max_retries, pool_maxsize, not its wrapper"
    ):
        SessionIdAdapter(inner=HTTPAdapter(), max_retries=3, pool_maxsize=3)


# Copies


def pickle_round_trip(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing))


COPIES: list[Callable[[Any], Any]] = [copy.copy, copy.deepcopy, pickle_round_trip]


@pytest.mark.parametrize("duplicate", COPIES)
def test_a_copied_adapter_keeps_gateway_missing_and_retries(
    duplicate: Callable[[Any], Any],
) -> None:
    adapter = duplicate(SessionIdAdapter(GATEWAY, missing="raise", max_retries=4, pool_maxsize=3))
    assert adapter.gateway == Gateway(GATEWAY, missing="raise")
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
def test_a_copied_subclass_keeps_its_attributes(
    duplicate: Callable[[Any], Any], inner: HTTPAdapter | None
) -> None:
    adapter = TeamAdapter(GATEWAY, inner=inner)
    adapter.team = "red"
    copied = duplicate(adapter)
    assert (type(copied), copied.team, copied.gateway) == (TeamAdapter, "red", Gateway(GATEWAY))


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
    gateways = {a.gateway for a in session.adapters.values() if isinstance(a, SessionIdAdapter)}
    assert gateways == {Gateway(GATEWAY, missing="raise")}
    unmount(session)
    assert dict(session.adapters) == before
    assert session.adapters["https://new.example/"] is new


def unmounted(session: requests.Session) -> dict[str, Any]:
    return {
        p: a.inner if isinstance(a, SessionIdAdapter) else a for p, a in session.adapters.items()
    }


@pytest.mark.parametrize("inner", [None, HTTPAdapter()])
def test_an_adapter_that_the_caller_mounted_stays_as_it_is(inner: HTTPAdapter | None) -> None:
    session = requests.Session()
    session.mount(GATEWAY, own := SessionIdAdapter(GATEWAY, missing="raise", inner=inner))
    mount(session)
    assert session.adapters[GATEWAY] is own
    assert (own.gateway, own.inner) == (Gateway(GATEWAY, missing="raise"), inner)
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
def test_a_failed_mount_leaves_the_session_as_it_was(
    arguments: dict[str, Any], error: type[Exception]
) -> None:
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
    with (
        httpx.Client() as client,
        pytest.raises(TypeError, match=r"got httpx\.Client.*session_id_hook\(\)"),
    ):
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
    assert adapter.gateway == Gateway(GATEWAY, missing="raise")


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
    with pytest.raises(
        ValueError, match=r"^the value of X-Api-Key must be visible ASCII"
    ) as caught:
        session_factory(headers={"X-Api-Key": "sk-secret\n"})
    assert "secret" not in str(caught.value)


# What an inner adapter does


class WritingAdapter(RecordingAdapter):
    """Writes on the request that it sends."""

    def __init__(self, write: Callable[[Any], None]) -> None:
        super().__init__()
        self.write = write

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # type: ignore[override]
        self.write(request)
        return super().send(request, **options)


def set_idempotency_key(request: Any) -> None:
    request.headers.setdefault("Idempotency-Key", str(len(KEYS)))
    KEYS.append(request.headers["Idempotency-Key"])


KEYS: list[str] = []


@pytest.mark.parametrize("stored", [True, False])
def test_what_an_inner_adapter_writes_stays_on_the_callers_request(
    stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An Idempotency-Key that is set if missing is the same when the request is sent again."""
    monkeypatch.setattr(transport, "_HAS_STORE", stored)
    KEYS.clear()
    request = prepared()
    adapter = SessionIdAdapter(inner=WritingAdapter(set_idempotency_key))
    assert (sent_id(adapter, request), sent_id(adapter, request)) == ("sess-1", "sess-1")
    assert KEYS == ["0", "0"]
    assert request.headers == {**MARKED, "Idempotency-Key": "0", "Content-Length": "0"}


def replace_headers(request: Any) -> None:
    request.headers = {**request.headers, "Idempotency-Key": "7"}


def copy_headers(request: Any) -> None:
    request.headers = request.headers.copy()
    request.headers["Idempotency-Key"] = "7"


def edit_headers(request: Any) -> None:
    request.headers.update({"Idempotency-Key": "7", "X-Gone": "too"})
    del request.headers["X-Gone"]


@pytest.mark.parametrize("write", [replace_headers, copy_headers, edit_headers])
@pytest.mark.parametrize("gateway", [None, GATEWAY, "https://other.example"])
def test_however_it_writes_the_request_is_as_without_us(
    write: Callable[[Any], None], gateway: str | None
) -> None:
    request = prepared(**{"X-Cagent-Session-Id": "callers", "X-Gone": "soon"})
    adapter = SessionIdAdapter(gateway, inner=WritingAdapter(write))
    for _ in range(2):
        sent_id(adapter, request)
    expected = {**prepared().headers, "X-Cagent-Session-Id": "callers", "Idempotency-Key": "7"}
    if write is not edit_headers:
        expected["X-Gone"] = "soon"
    assert request.headers == expected


def test_attributes_that_it_sets_are_the_callers_requests_too() -> None:
    def sign(request: Any) -> None:
        request.url += "?signature=1"
        request.signed = True

    request: Any = prepared(GATEWAY + "/")
    assert sent_id(SessionIdAdapter(inner=WritingAdapter(sign)), request) == "sess-1"
    assert (request.url, request.signed) == (GATEWAY + "/?signature=1", True)


def test_what_it_writes_before_an_error_stays_too() -> None:
    def fail(request: Any) -> None:
        request.headers["Idempotency-Key"] = "7"
        raise requests.ConnectionError

    request = prepared()
    with pytest.raises(requests.ConnectionError):
        sent_id(SessionIdAdapter(inner=WritingAdapter(fail)), request)
    assert request.headers == {**prepared().headers, "Idempotency-Key": "7"}


@pytest.mark.parametrize(
    ("write", "left"),
    [
        (lambda headers: headers.update({"x-cagent-session-id": "inner's"}), "inner's"),
        (lambda headers: headers.pop("X-Cagent-Session-Id"), None),
    ],
)
def test_an_id_that_it_writes_is_its_own(write: Callable[[Any], Any], left: str | None) -> None:
    """Then what was sent is not taken for what we have set."""
    request = prepared()
    adapter = SessionIdAdapter(inner=WritingAdapter(lambda sent: write(sent.headers)))
    assert sent_id(adapter, request) == left
    assert request.headers.get("X-Cagent-Session-Id") == left


def test_what_is_written_on_the_sent_request_later_is_not_the_callers() -> None:
    request = prepared()
    with session_scope("sess-1"):
        sent = SessionIdAdapter(inner=RecordingAdapter()).send(request).request
    sent.headers["X-Note"] = "later"
    del sent.headers["X-Cagent-Forward"]
    assert request.headers == prepared().headers


class TLSAdapter(HTTPAdapter):
    """A third party's adapter, which overrides what HTTPAdapter has, and adds to it."""

    timeout = 7
    called: ClassVar[list[str]] = []
    _level = 1

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        self.called.append("init_poolmanager")
        super().init_poolmanager(*args, **kwargs, ca_certs="private.pem")

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        self.called.append("proxy_manager_for")
        return super().proxy_manager_for(*args, **kwargs, ca_certs="private.pem")

    def proxy_headers(self, proxy: str) -> dict[str, str]:
        return {"Proxy-Authorization": "mine"}

    @property
    def level(self) -> int:
        return self._level

    @level.setter
    def level(self, value: int) -> None:
        self._level = value * 10


@pytest.mark.parametrize("wrap", ["once", "twice"])
def test_every_method_that_the_inner_adapter_overrides_runs(wrap: str) -> None:
    inner = TLSAdapter()
    adapter: Any = SessionIdAdapter(GATEWAY, inner=inner)
    adapter = adapter if wrap == "once" else SessionIdAdapter(inner=adapter)
    inner.called.clear()
    adapter.init_poolmanager(50, 50)
    assert inner.poolmanager.connection_pool_kw["ca_certs"] == "private.pem"
    manager = adapter.proxy_manager_for("http://proxy.example")
    assert manager.connection_pool_kw["ca_certs"] == "private.pem"
    assert adapter.proxy_headers("http://proxy.example") == {"Proxy-Authorization": "mine"}
    assert inner.called == ["init_poolmanager", "proxy_manager_for"]


def methods_of_http_adapter() -> list[str]:
    return [name for name, value in vars(HTTPAdapter).items() if callable(value) and name[0] != "_"]


@pytest.mark.parametrize("name", [n for n in methods_of_http_adapter() if n != "send"])
def test_no_method_of_the_base_class_hides_the_inner_adapters(name: str) -> None:
    """Whichever methods this release of requests has."""
    inner = type("Own", (HTTPAdapter,), {name: lambda self, *args, **_: ("own", args)})()
    assert getattr(SessionIdAdapter(inner=inner), name)(1) == ("own", (1,))
    assert callable(getattr(SessionIdAdapter, name))


def test_properties_and_class_attributes_are_the_inner_adapters() -> None:
    adapter: Any = SessionIdAdapter(inner=(inner := TLSAdapter()))
    adapter.level = 2
    adapter.timeout = 8
    assert (adapter.level, inner.level, inner.timeout, TLSAdapter.timeout) == (20, 20, 8, 7)
    del adapter.timeout
    assert (adapter.timeout, vars(adapter).keys()) == (7, {"gateway", "inner"})


def test_a_method_of_the_inner_adapter_can_be_replaced_for_a_while() -> None:
    adapter = SessionIdAdapter(inner=(inner := TLSAdapter()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapter, "proxy_headers", lambda proxy: {"patched": proxy})
        assert inner.proxy_headers("p") == adapter.proxy_headers("p") == {"patched": "p"}
    with mock.patch.object(adapter, "proxy_headers", lambda proxy: {"patched": proxy}):
        assert inner.proxy_headers("p") == {"patched": "p"}
    assert inner.proxy_headers("p") == adapter.proxy_headers("p")
    assert "patched" not in inner.proxy_headers("p")


def test_an_attribute_of_an_adapter_with_slots_is_set_there() -> None:
    class Slotted(BaseAdapter):
        __slots__ = ("limit",)

        def send(self, request: Any, **_: Any) -> requests.Response:  # type: ignore[override]
            raise NotImplementedError

        def close(self) -> None: ...

    inner: Any = Slotted()
    adapter: Any = SessionIdAdapter(inner=inner)
    inner.limit = 1
    adapter.limit = 2
    assert inner.limit == 2
    del adapter.limit
    assert not hasattr(inner, "limit")
    adapter.note = "the wrapper's own"
    del adapter.note
    assert not hasattr(adapter, "note")


@pytest.mark.parametrize(
    "make", [lambda cls: cls(GATEWAY), lambda cls: copy.deepcopy(cls(GATEWAY))]
)
def test_a_class_may_combine_it_with_another_adapter(make: Callable[[Any], Any]) -> None:
    class Combined(TLSAdapter, SessionIdAdapter):
        pass

    adapter = make(Combined)
    assert adapter.poolmanager.connection_pool_kw["ca_certs"] == "private.pem"
    with responses.RequestsMock() as mocked:
        mocked.post(GATEWAY)
        assert sent_id(adapter) == "sess-1"
    adapter.close()


# Adapters around adapters


def test_two_adapters_for_two_gateways_each_serve_their_own() -> None:
    one, two = "https://one.example", "https://two.example"
    adapter = SessionIdAdapter(
        one, inner=SessionIdAdapter(two, inner=(inner := RecordingAdapter()))
    )
    model = {"X-Cagent-Model": "gpt-4o"}
    for url in (one, two, "https://three.example"):
        request = prepared(url, **model)
        before = dict(request.headers)
        sent_id(adapter, request)
        assert dict(request.headers) == before
    ours = [{n: v for n, v in r.headers.items() if n.startswith("X-Cagent")} for r in inner.sent]
    assert ours == [{**MARKED, **model, "X-Cagent-Session-Id": "sess-1"}] * 2 + [{}]


def test_an_adapter_around_another_hides_no_missing_session() -> None:
    inner = SessionIdAdapter("https://two.example", inner=RecordingAdapter(), missing="raise")
    adapter = SessionIdAdapter("https://one.example", inner=inner)
    with pytest.raises(MissingSessionId):
        adapter.send(prepared("https://two.example"))
    sent = adapter.send(
        prepared("https://two.example", **{"X-Cagent-Session-Id": "callers"})
    ).request
    assert sent.headers["X-Cagent-Session-Id"] == "callers"


# Headers


@pytest.mark.parametrize(
    "headers",
    [
        {b"X-Cagent-Forward": b"https://api.openai.com/v1", b"x-cagent-session-id": b"old"},
        {"X-Cagent-Forward": "x", "X-Cagent-Session-Id": "old", "x-cagent-session-id": "older"},
        {"X-Cagent-Forward": "x", "X-Cagent-Session-Id": "old", b"x-cagent-session-id": b"older"},
    ],
)
@pytest.mark.parametrize("kind", [dict, CaseInsensitiveDict])
def test_names_in_bytes_or_in_two_spellings_are_seen(headers: Any, kind: Any) -> None:
    """Set by hand, after preparation."""
    here, elsewhere = prepared(), prepared("https://other.example")
    for request in (here, elsewhere):
        request.headers = kind({**headers, b"X-Other": b"1"})
    adapter = SessionIdAdapter(GATEWAY, inner=(inner := RecordingAdapter()))
    sent_id(adapter, here)
    sent_id(adapter, elsewhere)
    names = [sorted(as_text(name).lower() for name in request.headers) for request in inner.sent]
    assert names == [["x-cagent-forward", "x-cagent-session-id", "x-other"], ["x-other"]]
    assert inner.sent[0].headers["X-Cagent-Session-Id"] == "sess-1"


def test_a_missing_session_is_told_of_a_marker_in_bytes() -> None:
    request = prepared()
    request.headers = CaseInsensitiveDict[Any]({b"X-Cagent-Forward": b"x"})  # type: ignore[arg-type]
    with pytest.raises(MissingSessionId):
        SessionIdAdapter(inner=RecordingAdapter(), missing="raise").send(request)


def test_names_in_bytes_that_are_not_ours_are_left_alone() -> None:
    request = requests.Request("GET", GATEWAY).prepare()
    request.headers = headers = CaseInsensitiveDict[Any]({b"X-Other": b"1"})  # type: ignore[arg-type]
    SessionIdAdapter(inner=(inner := RecordingAdapter())).send(request)
    assert inner.sent[0] is request
    assert request.headers is headers


def test_a_request_may_have_no_headers() -> None:
    request = requests.PreparedRequest()
    request.url, request.method = GATEWAY, "GET"
    SessionIdAdapter(inner=(inner := RecordingAdapter())).send(request)
    assert inner.sent == [request]


@pytest.mark.parametrize("callers", [None, "callers"])
@pytest.mark.parametrize(
    "give",
    [
        lambda headers: headers,
        dict,
        lambda headers: list(headers.items()),
        CaseInsensitiveDict,
    ],
)
def test_the_headers_of_a_sent_request_given_to_a_new_call_bring_no_old_session(
    give: Callable[[Any], Any], callers: str | None
) -> None:
    session = requests.Session()
    session.mount("https://", SessionIdAdapter(inner=(inner := RecordingAdapter())))
    own = {} if callers is None else {"X-Cagent-Session-Id": callers}
    with session_scope("sess-1"):
        response = session.post(GATEWAY, headers={**MARKED, **own})
    session.post(GATEWAY, headers=dict(give(response.request.headers)))
    assert [r.headers.get("X-Cagent-Session-Id") for r in inner.sent] == ["sess-1", callers]


def test_on_the_wire_the_id_is_a_plain_str() -> None:
    """Recorders write it down as it is: YAML has a form of its own for a subclass."""
    seen: list[Any] = []
    adapter = SessionIdAdapter(
        inner=WritingAdapter(lambda r: seen.append(r.headers["X-Cagent-Session-Id"]))
    )
    with session_scope("sess-1"):
        response = adapter.send(prepared())
        adapter.send(response.request)
    assert [type(value) for value in seen] == [str, str]


@pytest.mark.parametrize("callers", [None, "callers"])
def test_a_pickled_response_has_plain_headers_with_the_callers_values(callers: str | None) -> None:
    """It loads without this library, and a request that is sent again is nobody's old one."""
    own = {} if callers is None else {"X-Cagent-Session-Id": callers}
    with session_scope("sess-1"):
        sent = SessionIdAdapter(inner=RecordingAdapter()).send(prepared(**own)).request
    pickled = pickle.dumps(sent)
    assert b"cagent_session" not in pickled
    headers = pickle.loads(pickled).headers
    assert type(headers) is CaseInsensitiveDict
    assert headers == prepared(**own).headers
    assert b"cagent_session" not in pickle.dumps(sent.headers["X-Cagent-Session-Id"])
    assert pickle.loads(pickle.dumps(sent.headers["X-Cagent-Session-Id"])) == "sess-1"


def test_a_dot_behind_the_host_leaves_no_origin() -> None:
    session = mount(requests.Session())
    with responses.RequestsMock() as mocked, session_scope("sess-1"):
        mocked.get(
            "https://gw.example./one", status=302, headers={"Location": "https://gw.example/two"}
        )
        mocked.get("https://gw.example/two")
        session.get("https://gw.example./one", headers=MARKED)
        sent = [call.request.headers.get("X-Cagent-Session-Id") for call in mocked.calls]
    assert sent == ["sess-1", "sess-1"]


# What people see


def test_repr_shows_gateway_missing_and_inner_but_no_query() -> None:
    inner = RecordingAdapter()
    adapter = SessionIdAdapter("https://gw.example/models?key=hunter2", inner=inner, missing="warn")
    known = "Gateway('https://gw.example/models', missing='warn')"
    assert repr(adapter) == f"SessionIdAdapter({known}, inner={inner!r})"
    assert repr(SessionIdAdapter()) == "SessionIdAdapter(Gateway(missing='omit'))"


def test_gateway_may_be_a_url_or_a_gateway_everywhere() -> None:
    gateway = Gateway(GATEWAY, missing="raise")
    session = requests.Session()
    for adapter in (
        SessionIdAdapter(gateway),
        mount(session, gateway).get_adapter(GATEWAY),
        session_factory(gateway=gateway)().get_adapter(GATEWAY),
    ):
        assert isinstance(adapter, SessionIdAdapter)
        assert adapter.gateway == gateway
    assert SessionIdAdapter(gateway, missing="omit").gateway == Gateway(GATEWAY)


def test_mount_names_a_session_of_another_library() -> None:
    session: Any = type("Session", (), {"__module__": "niquests.sessions"})()
    with pytest.raises(TypeError, match=r"requests\.Session, got niquests\.sessions\.Session$"):
        mount(session)
