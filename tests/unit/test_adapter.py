"""Tests of ``SessionIdAdapter``, ``mount``, ``unmount`` and ``session_factory``, offline."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any
from unittest import mock

import httpx
import pytest
import requests
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
    compacting,
    mount,
    session_factory,
    session_scope,
    sub_session,
    unmount,
)
from cagent_session.headers import as_text
from cagent_session.transports import sent_headers

GATEWAY = "https://gw.example"
MARKED = {"X-Cagent-Forward": "https://api.openai.com/v1"}


class RecordingAdapter(BaseAdapter):
    """A third party's adapter. It records what it gets, and sends nothing."""

    def __init__(self) -> None:
        self.sent: list[requests.PreparedRequest] = []
        self.options: dict[str, Any] = {}
        self.closed = 0

    def send(self, request: Any, **options: Any) -> requests.Response:  # type: ignore[override]
        self.sent.append(request)
        self.options = options
        response = requests.Response()
        response.status_code, response.request, response.url = 200, request, request.url or ""
        return response

    def close(self) -> None:
        self.closed += 1

    def __len__(self) -> int:
        return 0  # so bool() of the adapter is false, like that of an empty cache

    def __deepcopy__(self, memo: Any) -> RecordingAdapter:
        return RecordingAdapter()  # like a cache that can't be copied


def prepared(url: str = GATEWAY, **headers: str) -> requests.PreparedRequest:
    return requests.Request("POST", url, headers={**MARKED, **headers}).prepare()


def sent_id(adapter: BaseAdapter, request: requests.PreparedRequest | None = None) -> Any:
    """Send *request* in the session "sess-1". Return the ID that was sent."""
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
    sent_id(adapter, unmarked)
    adapter.send(request := prepared())
    assert [id(sent) for sent in inner.sent] == [id(unmarked), id(request)]


def test_a_subclass_of_prepared_request_keeps_its_class() -> None:
    class SignedRequest(requests.PreparedRequest):
        signature = "none"

    request = SignedRequest()
    request.prepare("POST", GATEWAY, headers=MARKED)
    request.signature = "signed"
    inner = RecordingAdapter()
    assert sent_id(SessionIdAdapter(inner=inner), request) == "sess-1"
    assert isinstance(inner.sent[0], SignedRequest)
    assert inner.sent[0].signature == "signed"


def test_the_callers_id_may_be_bytes_and_an_empty_one_does_not_count() -> None:
    request = prepared()
    request.headers["X-Cagent-Session-Id"] = b"callers"
    adapter = SessionIdAdapter(inner=RecordingAdapter(), missing="raise")
    assert adapter.send(request).request.headers["X-Cagent-Session-Id"] == b"callers"
    assert sent_id(adapter, request) == "sess-1"
    with pytest.raises(MissingSessionId):
        adapter.send(prepared(**{"X-Cagent-Session-Id": ""}))


def test_a_usual_call_parses_no_url(monkeypatch: pytest.MonkeyPatch) -> None:
    for gateway in ("https://gw.example", "https://gw.example:8443"):
        monkeypatch.undo()
        adapter = SessionIdAdapter(gateway, inner=RecordingAdapter())
        monkeypatch.setattr(
            cagent_session.gateway, "origin_of", lambda url: pytest.fail(f"parsed {url}")
        )
        assert sent_id(adapter, prepared(f"{gateway}/v1/chat/completions")) == "sess-1"


# The inner adapter


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((True, 5, False, "cert.pem", {"https": "proxy"}), {}),
        ((True, 5, False), {"cert": "cert.pem", "proxies": {"https": "proxy"}}),
    ],
)
def test_inner_gets_the_arguments_of_send_by_keyword(args: Any, kwargs: Any) -> None:
    adapter = SessionIdAdapter(inner=(inner := RecordingAdapter()))
    adapter.send(prepared(), *args, **kwargs)
    names = ("stream", "timeout", "verify", "cert", "proxies")
    values = (True, 5, False, "cert.pem", {"https": "proxy"})
    assert inner.options == dict(zip(names, values, strict=True))
    adapter.send(prepared(), cache="no")
    assert inner.options == {"cache": "no"}


@pytest.mark.parametrize("wrap", [None, GATEWAY], ids=["once", "twice"])
def test_an_attribute_is_set_on_the_innermost_adapter(wrap: str | None) -> None:
    inner = HTTPAdapter()
    outer = SessionIdAdapter(inner=SessionIdAdapter(wrap, inner=inner) if wrap else inner)
    outer.max_retries = retries = Retry(5)
    assert inner.max_retries is retries
    outer.init_poolmanager(2, 2)
    assert inner.poolmanager is outer.poolmanager
    outer.inner = other = HTTPAdapter()
    assert outer.inner is other
    assert outer.max_retries is other.max_retries


def test_a_method_of_the_wrapper_can_be_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter: Any = SessionIdAdapter(inner=(inner := RecordingAdapter()))
    monkeypatch.setattr(adapter, "send", lambda *_, **__: "replaced")
    assert adapter.send(prepared()) == "replaced"
    monkeypatch.undo()
    adapter.send(prepared())
    assert len(inner.sent) == 1


@pytest.mark.parametrize("inner", [None, RecordingAdapter()])
def test_an_unknown_attribute_is_an_attribute_error(inner: Any) -> None:
    adapter: Any = SessionIdAdapter(inner=inner)
    for name, kind in (("nobody", "(SessionId|Recording)"), ("__nobody__", "SessionId")):
        problem = rf"'{kind}Adapter' object has no attribute '{name}'"
        with pytest.raises(AttributeError, match=problem):
            getattr(adapter, name)


def test_close_closes_the_inner_adapter_or_its_own_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    SessionIdAdapter(inner=(inner := RecordingAdapter())).close()
    assert inner.closed == 1
    adapter, cleared = SessionIdAdapter(), list[bool]()
    monkeypatch.setattr(adapter.poolmanager, "clear", lambda: cleared.append(True))
    adapter.close()
    assert cleared == [True]


def test_a_subclass_may_override_methods_of_the_http_adapter() -> None:
    """For example, SDKs and users set TLS contexts in init_poolmanager."""

    class Pinned(SessionIdAdapter):
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, **kwargs, assert_hostname="gw.example")

    for adapter in (Pinned(), copy.deepcopy(Pinned())):
        assert adapter.poolmanager.connection_pool_kw["assert_hostname"] == "gw.example"


@pytest.mark.parametrize(
    ("inner", "parameters", "problem"),
    [
        *((i, {}, "must be a transport adapter of requests, got ") for i in (object(), "a", 7)),
        (HTTPAdapter(), {"max_retries": 3, "pool_maxsize": 3}, "set max_retries, pool_maxsize on "),
    ],
)
def test_a_wrong_inner_adapter_is_refused(inner: Any, parameters: Any, problem: str) -> None:
    kind = "the inner adapter, not here" if parameters else type(inner).__name__
    with pytest.raises(TypeError, match=f"{problem}{kind}$"):
        SessionIdAdapter(inner=inner, **parameters)


# Copies


def pickle_round_trip(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing))


COPIES: list[Callable[[Any], Any]] = [copy.copy, copy.deepcopy, pickle_round_trip]


class TeamAdapter(SessionIdAdapter):
    """A user's subclass. requests pickles only the attributes in ``__attrs__``."""

    __attrs__ = [*HTTPAdapter.__attrs__, "team"]  # noqa: RUF012 - as in requests

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.team = "red"  # the first attribute of all
        super().__init__(*args, **kwargs)


@pytest.mark.parametrize("duplicate", COPIES)
@pytest.mark.parametrize("wraps", [False, True])
def test_a_copied_adapter_keeps_its_class_settings_and_inner_adapter(
    duplicate: Any, wraps: bool
) -> None:
    options: dict[str, Any] = {"max_retries": 4, "pool_maxsize": 3}
    inner = HTTPAdapter(**options) if wraps else None
    adapter = TeamAdapter(GATEWAY, missing="raise", **({"inner": inner} if wraps else options))
    copied = duplicate(adapter)
    assert (type(copied), copied.team) == (TeamAdapter, "red")
    assert copied.gateway == Gateway(GATEWAY, missing="raise")
    assert (copied.max_retries.total, copied._pool_maxsize) == (4, 3)
    assert type(copied.inner) is type(inner)
    assert (copied.inner is inner) is (not wraps or duplicate is copy.copy)
    with responses.RequestsMock() as mock:
        mock.post(GATEWAY)
        mock.post("https://other.example/")
        assert sent_id(copied) == "sess-1"
        assert sent_id(copied, prepared("https://other.example/")) is None


@pytest.mark.parametrize("duplicate", COPIES)
def test_a_copied_session_stays_mounted_and_unmounts(duplicate: Any) -> None:
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


def test_mount_wraps_and_unmount_restores_the_same_objects() -> None:
    session = requests.Session()
    session.mount("https://gw.example/v1/", longer := RecordingAdapter())
    session.mount("file://", RecordingAdapter())
    before = list(session.adapters.items())
    for _ in range(2):  # the second call does not wrap again
        assert mount(session, GATEWAY) is session
        adapters: list[Any] = list(session.adapters.values())
        assert all(isinstance(adapter, SessionIdAdapter) for adapter in adapters)
        assert [adapter.inner for adapter in adapters] == [adapter for _, adapter in before]
    with session_scope("sess-1"):
        session.post("https://gw.example/v1/chat", headers=MARKED)
    assert longer.sent[0].headers["X-Cagent-Session-Id"] == "sess-1"
    for _ in range(2):
        assert unmount(session) is session
        assert list(session.adapters.items()) == before


def test_mounting_again_wraps_new_adapters_and_applies_the_new_settings() -> None:
    session = mount(requests.Session())
    session.mount("https://new.example/", new := RecordingAdapter())
    mount(session, GATEWAY, missing="raise")
    gateways = {a.gateway for a in session.adapters.values() if isinstance(a, SessionIdAdapter)}
    assert gateways == {Gateway(GATEWAY, missing="raise")}
    unmount(session)
    assert session.adapters["https://new.example/"] is new
    assert not any(isinstance(adapter, SessionIdAdapter) for adapter in session.adapters.values())


@pytest.mark.parametrize("inner", [None, HTTPAdapter()])
def test_an_adapter_that_the_caller_mounted_stays_unchanged(inner: HTTPAdapter | None) -> None:
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
        ({}, TypeError),  # one of the adapters is not an adapter
    ],
)
@pytest.mark.parametrize("mounted", [False, True])
def test_a_failed_mount_leaves_the_session_unchanged(
    arguments: dict[str, Any], error: type[Exception], mounted: bool
) -> None:
    session = requests.Session()
    if mounted:
        mount(session, "https://other.example")
    if error is TypeError:
        session.mount("https://odd.example/", object())  # type: ignore[arg-type]
    before = list(session.adapters.items())
    with pytest.raises(error) as failed:
        mount(session, **arguments)
    assert "hunter2" not in str(failed.value)
    assert list(session.adapters.items()) == before


@pytest.mark.parametrize(
    ("thing", "kind"),
    [
        (None, "builtins.NoneType"),
        (requests, "builtins.module"),
        (requests.Session, "builtins.type"),
        (HTTPAdapter(), "requests.adapters.HTTPAdapter"),
        (type("Session", (), {"__module__": "niquests.sessions"})(), "niquests.sessions.Session"),
        (
            httpx.Client(verify=False),
            r"httpx.Client; use session_id_hook\(\) for a client of httpx",
        ),
    ],
)
@pytest.mark.parametrize("function", [mount, unmount])
def test_other_objects_than_sessions_are_refused(
    function: Callable[[Any], Any], thing: Any, kind: str
) -> None:
    with pytest.raises(TypeError, match=rf"expected a requests\.Session, got {kind}$"):
        function(thing)


# session_factory


class ProviderSession(requests.Session):
    """A session of a provider's SDK. It mounts its own adapter."""

    def __init__(self, retries: int = 0) -> None:
        super().__init__()
        self.mount("https://", HTTPAdapter(max_retries=retries))


def test_a_gateway_may_be_a_url_or_a_gateway() -> None:
    expected = Gateway(GATEWAY, missing="raise")
    for gateway, missing in ((GATEWAY, "raise"), (expected, None)):
        options: dict[str, Any] = {"gateway": gateway, "missing": missing}
        factory: Any = session_factory(**options)
        first, second = factory(), factory()
        assert first is not second
        adapters: list[Any] = [SessionIdAdapter(**options), first.get_adapter(GATEWAY)]
        adapters += [mount(requests.Session(), **options).get_adapter(GATEWAY)]
        assert [adapter.gateway for adapter in adapters] == [expected] * 3
    assert SessionIdAdapter(expected, missing="omit").gateway == Gateway(GATEWAY)


def test_factory_keeps_the_class_and_the_adapters_of_the_sessions_it_makes() -> None:
    make_session = session_factory(ProviderSession, GATEWAY)
    pickled = pickle_round_trip(make_session)
    for session in (make_session(retries=5), make_session(5), pickled(5)):
        assert isinstance(session, ProviderSession)
        assert isinstance(session.get_adapter(GATEWAY), SessionIdAdapter)
        assert max_retries_of(session) == 5


def test_factory_gives_its_sessions_retries() -> None:
    """An SDK that takes a factory does not mount its own adapters."""
    factory = pickle_round_trip(session_factory(gateway=GATEWAY, max_retries=2, pool_maxsize=3))
    for url in (GATEWAY, "http://gateway.example"):
        adapter: Any = factory().get_adapter(url)
        assert isinstance(adapter, SessionIdAdapter)
        assert (adapter.max_retries.total, adapter._pool_maxsize) == (2, 3)


def test_factory_gives_its_sessions_headers() -> None:
    """A later change of the caller's dict has no effect."""
    headers = dict(MARKED)
    factory = session_factory(gateway=GATEWAY, headers=headers)
    headers["X-Cagent-Forward"] = "elsewhere"
    session = pickle_round_trip(factory)()
    assert session.headers["X-Cagent-Forward"] == MARKED["X-Cagent-Forward"]
    assert session.headers["User-Agent"] == requests.Session().headers["User-Agent"]
    assert isinstance(session.get_adapter(GATEWAY), SessionIdAdapter)


NOT_A_VALUE = (
    "^the value of X-Cagent-Model must be visible ASCII characters, with spaces only inside$"
)


@pytest.mark.parametrize(
    ("arguments", "error", "problem"),
    [
        ({"gateway": "gw.example"}, InvalidGatewayURL, "absolute"),
        ({"missing": "explode"}, ValueError, "missing must be"),
        ({"make": requests.Session()}, TypeError, "takes a callable that makes sessions, got Sess"),
        ({"max_retrys": 2}, TypeError, "unexpected keyword argument 'max_retrys'"),
        (
            {"make": ProviderSession, "max_retries": 2, "pool_maxsize": 2},
            TypeError,
            "set max_retries, pool_maxsize on the adapters that <class .*> mounts, not here$",
        ),
        *(({"headers": headers}, TypeError, "must be a mapping") for headers in ("https://h", 0)),
        *(
            ({"headers": {name: "text"}}, ValueError, "a header's name must be letters, digits, ")
            for name in ("X Cagent", b"X-Cagent-Forward")
        ),
        *(
            ({"headers": {"X-Cagent-Model": value}}, ValueError, NOT_A_VALUE)
            for value in (None, 1, b"text", "", " text", "a\r\nb", "é", "sk-secret\n")
        ),
    ],
)
def test_factory_refuses_bad_arguments_at_once(
    arguments: Any, error: type[Exception], problem: str
) -> None:
    with pytest.raises(error, match=problem):
        session_factory(**arguments)


def test_a_session_of_another_class_is_refused_when_it_is_made() -> None:
    with pytest.raises(TypeError, match=r"expected a requests\.Session"):
        session_factory(dict, headers=MARKED)()  # type: ignore[type-var]


# What an inner adapter changes


class WritingAdapter(RecordingAdapter):
    """Changes the request that it sends, by calling *write*."""

    def __init__(self, write: Callable[[Any], None]) -> None:
        super().__init__()
        self.write = write

    def send(self, request: Any, **options: Any) -> requests.Response:  # type: ignore[override]
        self.write(request)
        return super().send(request, **options)


@pytest.mark.parametrize("has_store", [True, False])
def test_headers_set_by_an_inner_adapter_stay_on_the_callers_request(
    has_store: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a request that is sent again keeps the Idempotency-Key of its first sending."""
    monkeypatch.setattr(sent_headers, "_HAS_STORE", has_store)
    keys: list[str] = []

    def set_key(sent: Any) -> None:
        keys.append(sent.headers.setdefault("Idempotency-Key", str(len(keys))))

    request = prepared()
    adapter = SessionIdAdapter(inner=WritingAdapter(set_key))
    assert (sent_id(adapter, request), sent_id(adapter, request)) == ("sess-1", "sess-1")
    assert keys == ["0", "0"]
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
def test_an_inner_adapter_can_change_headers_in_every_way(
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


def test_attributes_set_by_an_inner_adapter_stay_on_the_callers_request() -> None:
    def sign(request: Any) -> None:
        request.url += "?signature=1"
        request.signed = True

    request: Any = prepared(GATEWAY + "/")
    assert sent_id(SessionIdAdapter(inner=WritingAdapter(sign)), request) == "sess-1"
    assert (request.url, request.signed) == (GATEWAY + "/?signature=1", True)


def test_headers_set_by_an_inner_adapter_before_an_error_stay() -> None:
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
def test_an_inner_adapter_may_replace_or_remove_the_session_id(
    write: Callable[[Any], Any], left: str | None
) -> None:
    request = prepared()
    adapter = SessionIdAdapter(inner=WritingAdapter(lambda sent: write(sent.headers)))
    assert sent_id(adapter, request) == left
    assert request.headers.get("X-Cagent-Session-Id") == left


def test_later_changes_of_the_sent_request_do_not_reach_the_callers_request() -> None:
    request = prepared()
    with session_scope("sess-1"):
        sent = SessionIdAdapter(inner=RecordingAdapter()).send(request).request
    sent.headers["X-Note"] = "later"
    del sent.headers["X-Cagent-Forward"]
    assert request.headers == prepared().headers


class TLSAdapter(HTTPAdapter):
    """A third party's adapter that overrides a method of HTTPAdapter, and adds a property."""

    timeout = 7
    _level = 1

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, ca_certs="private.pem")

    @property
    def level(self) -> int:
        return self._level

    @level.setter
    def level(self, value: int) -> None:
        self._level = value * 10


def methods_of_http_adapter() -> list[str]:
    return [name for name, value in vars(HTTPAdapter).items() if callable(value) and name[0] != "_"]


@pytest.mark.parametrize("name", [n for n in methods_of_http_adapter() if n != "send"])
def test_methods_that_the_inner_adapter_overrides_are_called(name: str) -> None:
    inner = type("Own", (HTTPAdapter,), {name: lambda self, *args, **_: ("own", args)})()
    adapter = SessionIdAdapter(inner=inner)
    for outer in (adapter, SessionIdAdapter(GATEWAY, inner=adapter)):
        assert getattr(outer, name)(1) == ("own", (1,))
    assert callable(getattr(SessionIdAdapter, name))


def test_properties_and_class_attributes_belong_to_the_inner_adapter() -> None:
    adapter: Any = SessionIdAdapter(inner=(inner := TLSAdapter()))
    adapter.level = 2
    adapter.timeout = 8
    assert (adapter.level, inner.level, inner.timeout, TLSAdapter.timeout) == (20, 20, 8, 7)
    del adapter.timeout
    assert (adapter.timeout, vars(adapter).keys()) == (7, {"gateway", "inner"})


def test_a_method_of_the_inner_adapter_can_be_patched() -> None:
    adapter = SessionIdAdapter(inner=(inner := TLSAdapter()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapter, "proxy_headers", lambda proxy: {"patched": proxy})
        assert inner.proxy_headers("p") == adapter.proxy_headers("p") == {"patched": "p"}
    with mock.patch.object(adapter, "proxy_headers", lambda proxy: {"patched": proxy}):
        assert inner.proxy_headers("p") == {"patched": "p"}
    assert inner.proxy_headers("p") == adapter.proxy_headers("p")
    assert "patched" not in inner.proxy_headers("p")


def test_an_attribute_in_slots_is_set_on_the_inner_adapter() -> None:
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
    assert not hasattr(inner, "note")
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


def test_two_adapters_can_serve_two_gateways() -> None:
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


A: Any = Gateway("https://a.example", session_header="x-a", marker="x-mark")
B: Any = Gateway("https://b.example", session_header="x-b", marker=None)


@pytest.mark.parametrize(("outer", "inner"), [(A, B), (B, A)])
def test_two_adapters_can_serve_gateways_with_other_headers(outer: Any, inner: Any) -> None:
    adapter = SessionIdAdapter(outer, inner=SessionIdAdapter(inner, inner=RecordingAdapter()))
    ours = {"x-a": "callers", "x-b": "callers", "x-mark": "1", "X-Cagent-Model": "m"}
    sent = {}
    with session_scope("sess-1"):
        for url in ("https://a.example/", "https://b.example/", "https://c.example/"):
            request = requests.Request("POST", url, ours).prepare()
            adapter.send(request)
            headers = adapter.send(request).request.headers
            sent[url] = {name: headers[name] for name in ours if name in headers}
            assert request.headers.items() >= ours.items()
    assert list(sent.values()) == [
        {"x-a": "sess-1", "x-mark": "1", "X-Cagent-Model": "m"},
        {"x-b": "sess-1", "X-Cagent-Model": "m"},
        {},
    ]


def test_a_redirect_is_one_for_each_of_two_adapters() -> None:
    unknown = Gateway(session_header="x-s", marker="x-route")
    inner = RecordingAdapter()
    adapter = SessionIdAdapter(None, inner=SessionIdAdapter(unknown, inner=inner))
    request = requests.Request("POST", "https://old.example", {**MARKED, "x-route": "1"}).prepare()
    with session_scope("sess-1"):
        adapter.send(request)
        redirected = request.copy()
        redirected.url = "https://new.example/"
        adapter.send(redirected)
    sent, after = inner.sent
    assert (sent.headers["x-s"], sent.headers["x-route"]) == ("sess-1", "1")
    assert after.headers == {"Content-Length": "0"}


def test_a_copy_as_plain_headers_still_knows_another_marker_was_sent_elsewhere() -> None:
    """This is for a Session that follows redirects in its own way, where no URL is known."""
    inner = RecordingAdapter()
    adapter = SessionIdAdapter(Gateway(session_header="x-s", marker="X-Route"), inner=inner)
    request = requests.Request("POST", "https://old.example", {"x-route": "1"}).prepare()
    with session_scope("sess-1"):
        adapter.send(request)
        redirected = request.copy()
        redirected.url = "https://new.example/"
        redirected.headers = CaseInsensitiveDict(redirected.headers)
        adapter.send(redirected)
    assert inner.sent[0].headers["x-s"] == "sess-1"
    assert inner.sent[1].headers == {"Content-Length": "0"}


def test_what_the_caller_changes_while_a_request_is_sent_stays() -> None:
    class CallerChanges(RecordingAdapter):
        def send(self, sent: Any, **options: Any) -> requests.Response:  # type: ignore[override]
            request.url, request.headers = "https://other.example/", own_headers
            sent.signed = True
            return super().send(sent, **options)

    request: Any = prepared()
    own_headers = CaseInsensitiveDict({"X-Own": "1"})
    assert sent_id(SessionIdAdapter(inner=CallerChanges()), request) == "sess-1"
    assert (request.url, request.headers, request.signed) == (
        "https://other.example/",
        {"X-Own": "1"},
        True,
    )


def test_an_inner_adapter_can_send_a_copy() -> None:
    """The copy knows which headers are not the caller's, too."""

    class Copying(RecordingAdapter):
        def send(self, request: Any, **options: Any) -> requests.Response:  # type: ignore[override]
            return super().send(request.copy(), **options)

    names: Any = {"root_header": "X-Cagent-Root", "parent_header": "X-Parent"}
    adapter = SessionIdAdapter(Gateway(GATEWAY, **names), inner=Copying())
    with session_scope("root"), sub_session("sub"), compacting():
        sent = adapter.send(prepared()).request
    assert {"X-Cagent-Compacting", *names.values()} <= sent.headers.keys()
    assert adapter.send(sent).request.headers == prepared().headers


def test_a_purpose_that_the_caller_set_comes_back_when_the_response_is_sent_again() -> None:
    adapter = SessionIdAdapter(inner=RecordingAdapter())
    request = prepared(**{"X-Cagent-Compacting": "callers"})
    with session_scope("sess-1"), compacting():
        sent = adapter.send(request).request
    assert sent.headers["X-Cagent-Compacting"] == "1"
    assert adapter.send(sent).request.headers == request.headers


def test_the_names_that_are_sent_can_be_looked_up_even_if_they_were_bytes() -> None:
    request: Any = prepared()
    request.headers.update({b"X-Cagent-Model": "gpt-4o", b"X-Other": "1"})
    with session_scope("sess-1"):
        sent = SessionIdAdapter(inner=RecordingAdapter()).send(request).request.headers
    expected = {**MARKED, "X-Cagent-Model": "gpt-4o", "X-Other": "1", "Content-Length": "0"}
    assert dict(sent.items()) == {**expected, "X-Cagent-Session-Id": "sess-1"}


def test_an_outer_adapter_does_not_hide_a_missing_session() -> None:
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
    """A program can set such headers after the request is prepared."""
    here, elsewhere = prepared(), prepared("https://other.example")
    for request in (here, elsewhere):
        request.headers = kind({**headers, b"X-Other": b"1"})
    adapter = SessionIdAdapter(GATEWAY, inner=(inner := RecordingAdapter()))
    sent_id(adapter, here)
    sent_id(adapter, elsewhere)
    names = [sorted(as_text(name).lower() for name in request.headers) for request in inner.sent]
    assert names == [["x-cagent-forward", "x-cagent-session-id", "x-other"], ["x-other"]]
    assert inner.sent[0].headers["X-Cagent-Session-Id"] == "sess-1"


def test_a_missing_session_is_noticed_if_the_marker_is_bytes() -> None:
    request = prepared()
    headers: Any = {b"X-Cagent-Forward": b"x"}
    request.headers = CaseInsensitiveDict(headers)
    with pytest.raises(MissingSessionId):
        SessionIdAdapter(inner=RecordingAdapter(), missing="raise").send(request)


@pytest.mark.parametrize("names", [None, {b"X-Other": b"1"}])
def test_other_names_in_bytes_and_headers_of_none_stay_unchanged(names: Any) -> None:
    headers: Any = names and CaseInsensitiveDict(names)
    request = requests.Request("GET", GATEWAY).prepare()
    request.headers = headers
    SessionIdAdapter(inner=(inner := RecordingAdapter())).send(request)
    assert inner.sent[0] is request
    assert request.headers is headers


@pytest.mark.parametrize("callers", [None, "callers"])
@pytest.mark.parametrize("converted", [CaseInsensitiveDict, dict, lambda headers: headers.items()])
def test_headers_reused_from_a_sent_request_have_no_old_session_id(
    converted: Callable[[Any], Any], callers: str | None
) -> None:
    session = requests.Session()
    session.mount("https://", SessionIdAdapter(inner=(inner := RecordingAdapter())))
    own = {} if callers is None else {"X-Cagent-Session-Id": callers}
    with session_scope("sess-1"):
        response = session.post(GATEWAY, headers={**MARKED, **own})
    session.post(GATEWAY, headers=dict(converted(response.request.headers)))
    assert [r.headers.get("X-Cagent-Session-Id") for r in inner.sent] == ["sess-1", callers]


def test_the_id_that_is_sent_is_a_plain_str() -> None:
    """Programs that record requests as YAML write a subclass of str in another form."""
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
    """It can be loaded without this library. If it is sent again, it has no old session ID."""
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
    assert type(pickle.loads(pickle.dumps(sent.copy().headers["X-Cagent-Forward"]))) is str


def test_repr_shows_gateway_missing_and_inner_but_no_query() -> None:
    inner = RecordingAdapter()
    adapter = SessionIdAdapter("https://gw.example/models?key=hunter2", inner=inner, missing="warn")
    known = "Gateway('https://gw.example/models', missing='warn')"
    assert repr(adapter) == f"SessionIdAdapter({known}, inner={inner!r})"
    assert repr(SessionIdAdapter()) == "SessionIdAdapter(Gateway(missing='omit'))"
