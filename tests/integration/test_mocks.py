"""Tests with mocks, recordings and caches: which of them see or store a session ID."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import responses
import vcr  # type: ignore[import-untyped]  # it has none
from pytest_httpserver import HTTPServer
from requests_cache import DEFAULT_IGNORED_PARAMS, CachedSession
from requests_mock import Adapter, Mocker, NoMockAddress
from responses.matchers import header_matcher

from cagent_session import (
    SESSION_ID_HEADER,
    MissingSessionId,
    SessionIdAdapter,
    gateway_headers,
    mount,
    session_scope,
)
from cagent_session.testing import Call, ModelsGateway

CHAT = "/v1/chat/completions"
GATEWAY, PROVIDER = "https://gateway.example", "https://api.openai.com"
QUESTION: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello!"}]}
CREDENTIALS = {"X-Cagent-Id": "install-secret", "Authorization": "Bearer key-secret"}
SECRETS = {
    SESSION_ID_HEADER: "sess-secret",
    "X-Cagent-Root-Session": "sess-secret",
    **CREDENTIALS,
}


@pytest.fixture
def http() -> Iterator[requests.Session]:
    """Return the client of the code under test. It is mounted, and its gateway does not exist."""
    with mount(requests.Session(), GATEWAY) as session:
        session.headers.update(gateway_headers(f"{PROVIDER}/v1"))
        yield session


def ask(session: requests.Session, origin: str) -> requests.Response:
    return session.post(origin + CHAT, json=QUESTION, timeout=10)


def cagent_headers(call: Call) -> list[str]:
    return [name for name in call.headers if name.lower().startswith("x-cagent-")]


@responses.activate
@pytest.mark.session_id("sess-1")
def test_responses_sees_the_session_id_of_calls_to_the_gateway(http: requests.Session) -> None:
    for origin in (GATEWAY, PROVIDER):
        responses.post(origin + CHAT)
        ask(http, origin)
    with session_scope("sub-session"):
        ask(http, GATEWAY)
    shown = [call.request.headers.get(SESSION_ID_HEADER) for call in responses.calls]
    assert shown == ["sess-1", None, "sub-session"]


@pytest.mark.parametrize(("other", "headers"), [("sess-2", "{.*sess-2'?}"), (None, "{}")], ids=str)
@responses.activate
def test_responses_does_not_match_a_call_in_another_session(
    http: requests.Session, other: str | None, headers: str
) -> None:
    responses.post(GATEWAY + CHAT, match=[header_matcher({SESSION_ID_HEADER: "sess-1"})])
    with session_scope("sess-1"):
        assert ask(http, GATEWAY).status_code == 200
    problem = f"Headers do not match: {headers} doesn't match {{.*sess-1'?}}"
    with session_scope(other), pytest.raises(requests.ConnectionError, match=problem):
        ask(http, GATEWAY)


@responses.activate
def test_responses_passes_calls_through_to_the_models_gateway(
    models_gateway: ModelsGateway, gateway_session: requests.Session, session_id: str
) -> None:
    responses.add_passthru(models_gateway.url)
    responses.get("https://tool.example/", json={"celsius": 20})
    assert gateway_session.get("https://tool.example/").json() == {"celsius": 20}
    assert ask(gateway_session, models_gateway.url).status_code == 200
    models_gateway.assert_attributed(session_id, calls=1)
    assert [call.request.headers.get(SESSION_ID_HEADER) for call in responses.calls] == [None]


@pytest.mark.session_id("sess-1")
def test_requests_mock_by_itself_sees_no_session_id(
    http: requests.Session, requests_mock: Mocker
) -> None:
    """A mocker replaces our adapter. If that changes, simplify the next test and the guide."""
    mockers = [requests_mock, Mocker(), Mocker(session=http)]
    for mocker in mockers:
        mocker.post(GATEWAY + CHAT)
    ask(http, GATEWAY)
    for mocker in mockers[1:]:
        with mocker:
            ask(http, GATEWAY)
    shown = [
        [SESSION_ID_HEADER in request.headers for request in mocker.request_history]
        for mocker in mockers
    ]
    assert shown == [[False], [False], [False]]


@contextmanager
def adapter_of_the_mock_mounted_first(http: requests.Session) -> Iterator[Adapter]:
    http.mount("https://", adapter := Adapter())
    mount(http, GATEWAY)
    yield adapter


def mocker_with_our_adapter(_: requests.Session) -> Mocker:
    """Return a mocker that works without access to the session.

    requests_mock does not document the parameter ``adapter``.
    """
    return Mocker(adapter=SessionIdAdapter(GATEWAY, inner=Adapter()))


@pytest.mark.parametrize("mocked", [adapter_of_the_mock_mounted_first, mocker_with_our_adapter])
def test_requests_mock_inside_our_adapter_matches_the_session_id(
    http: requests.Session, mocked: Callable[[requests.Session], AbstractContextManager[Any]]
) -> None:
    with mocked(http) as mock:
        mock.register_uri("POST", GATEWAY + CHAT, request_headers={SESSION_ID_HEADER: "sess-1"})
        mock.register_uri("POST", PROVIDER + CHAT)
        with session_scope("sess-1"):
            assert ask(http, GATEWAY).status_code == 200
            ask(http, PROVIDER)
        for other in ("sess-2", None):
            with session_scope(other), pytest.raises(NoMockAddress):
                ask(http, GATEWAY)
        shown = [request.headers.get(SESSION_ID_HEADER) for request in mock.request_history]
    assert shown == ["sess-1", None, "sess-2", None]


@pytest.mark.parametrize("filtered", [[], list(SECRETS)], ids=["unfiltered", "filtered"])
def test_a_cassette_stores_the_session_id_and_the_key_unless_they_are_filtered(
    models_gateway: ModelsGateway,
    gateway_session: requests.Session,
    tmp_path: Path,
    filtered: list[str],
) -> None:
    recorder, cassette = vcr.VCR(filter_headers=filtered), tmp_path / "cassette.yaml"
    gateway_session.headers.update(CREDENTIALS)
    with recorder.use_cassette(str(cassette)), session_scope("sess-secret"):
        recorded = ask(gateway_session, models_gateway.url)
    models_gateway.stop()
    with recorder.use_cassette(str(cassette), record_mode="none"), session_scope("sess-2"):
        replayed = ask(gateway_session, models_gateway.url)

    written = cassette.read_text(encoding="utf-8")
    assert {
        name for name, value in SECRETS.items() if value in written
    } == SECRETS.keys() - filtered
    assert all(kept in written for kept in ("X-Cagent-Forward", f"{PROVIDER}/v1", "Hello!"))
    assert replayed.content == recorded.content
    assert replayed.request.headers[SESSION_ID_HEADER] == "sess-2"
    models_gateway.assert_attributed("sess-secret", calls=1)


def test_a_replayed_call_in_no_session_is_found_by_missing_but_not_by_the_gateway(
    models_gateway: ModelsGateway, gateway_session: requests.Session, tmp_path: Path
) -> None:
    cassette = str(tmp_path / "cassette.yaml")
    with vcr.use_cassette(cassette), session_scope("sess-1"):
        ask(gateway_session, models_gateway.url)
    models_gateway.require_session()
    with vcr.use_cassette(cassette):
        assert ask(gateway_session, models_gateway.url).status_code == 200
        mount(gateway_session, models_gateway.url, missing="raise")
        with pytest.raises(MissingSessionId):
            ask(gateway_session, models_gateway.url)
    models_gateway.assert_attributed("sess-1", calls=1)


# The guide to testing shows this setting.
IGNORED = {"ignored_parameters": [*DEFAULT_IGNORED_PARAMS, SESSION_ID_HEADER]}


@contextmanager
def cached_session(
    gateway: ModelsGateway, database: Path, **settings: Any
) -> Iterator[CachedSession]:
    """Return a mounted session that stores all answers in a file, also those to POST."""
    settings |= {"backend": "sqlite", "allowable_methods": ["GET", "POST"]}
    with mount(CachedSession(str(database), **settings), gateway.url) as session:
        session.trust_env = False
        session.headers.update(gateway_headers(f"{PROVIDER}/v1"))
        yield session


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({}, "sess-secret"),
        ({"match_headers": True}, "sess-secret"),  # the cache compares headers before the ID is set
        (IGNORED, "REDACTED"),
        (IGNORED | {"match_headers": True}, "REDACTED"),
    ],
    ids=["by default", "match_headers", "ignored_parameters", "both"],
)
@pytest.mark.parametrize("serializer", ["pickle", "json"])
def test_a_cache_stores_and_shows_the_session_id_unless_the_header_is_ignored(
    models_gateway: ModelsGateway,
    tmp_path: Path,
    settings: dict[str, Any],
    shown: str,
    serializer: str,
) -> None:
    database = tmp_path / "cache.sqlite"
    with cached_session(models_gateway, database, serializer=serializer, **settings) as session:
        with session_scope("sess-secret"):
            sent = ask(session, models_gateway.url)
        cached = []
        for other in ("sess-2", None):
            with session_scope(other):
                cached.append(ask(session, models_gateway.url))

    assert [getattr(answer, "from_cache", None) for answer in [sent, *cached]] == [
        False,
        True,
        True,
    ]
    assert {answer.content for answer in cached} == {sent.content}
    models_gateway.assert_attributed("sess-secret", calls=1)
    assert sent.request.headers[SESSION_ID_HEADER] == "sess-secret"
    assert [answer.request.headers[SESSION_ID_HEADER] for answer in cached] == [shown] * 2
    assert (b"sess-secret" in database.read_bytes()) == (shown == "sess-secret")


def test_a_cache_stores_the_session_id_of_a_redirected_request_even_if_the_header_is_ignored(
    models_gateway: ModelsGateway, tmp_path: Path
) -> None:
    """requests-cache applies the setting only to the last request. The guide says so."""
    moved = {"Location": f"{models_gateway.url}/new"}
    models_gateway.expect_request("/old").respond_with_data(status=307, headers=moved)
    models_gateway.expect_request("/new").respond_with_data("moved")
    with cached_session(models_gateway, tmp_path / "cache.sqlite", **IGNORED) as session:
        with session_scope("sess-1"):
            session.get(f"{models_gateway.url}/old")
        cached = session.get(f"{models_gateway.url}/old")
    requests_of = [answer.request for answer in (*cached.history, cached)]
    shown = [request.headers[SESSION_ID_HEADER] for request in requests_of]
    assert shown == ["sess-1", "REDACTED"]


@pytest.mark.session_id("sess-1")
@pytest.mark.parametrize("cached", [False, True], ids=["plain session", "cached session"])
@pytest.mark.parametrize("pinned", [False, True], ids=["marker only", "pinned"])
def test_a_redirect_to_another_server_has_no_cagent_headers(
    models_gateway: ModelsGateway, cached: bool, pinned: bool
) -> None:
    session = CachedSession(backend="memory") if cached else requests.Session()
    with ModelsGateway() as elsewhere, mount(session, models_gateway.url if pinned else None):
        session.trust_env = False
        moved = {"Location": f"{elsewhere.url}/new"}
        models_gateway.expect_request(CHAT).respond_with_data(status=307, headers=moved)
        session.headers.update(gateway_headers(f"{PROVIDER}/v1"))
        ask(session, models_gateway.url)
    models_gateway.assert_attributed("sess-1", calls=1)
    (call,) = elsewhere.calls
    assert call.json == QUESTION
    assert cagent_headers(call) == []


RECORDED_TEST = f"""
import pytest

@pytest.fixture(scope="module")
def vcr_config():
    return %s

@pytest.mark.vcr
@pytest.mark.session_id("sess-secret")
def test_ask(models_gateway, gateway_session, session_id, record_mode):
    url = models_gateway.url + "{CHAT}"
    response = gateway_session.post(url, json={QUESTION}, headers={CREDENTIALS})
    assert response.json()["choices"][0]["message"]["content"] == "You said: Hello!"
    assert response.request.headers["{SESSION_ID_HEADER}"] == session_id
    assert len(models_gateway.calls) == (record_mode == "once")
"""


@pytest.mark.parametrize(
    ("match_on", "outcome", "line"),
    [
        ({}, {"failed": 1}, "E *port *"),
        ({"match_on": ["method", "path", "query", "body"]}, {"passed": 1}, "* 1 passed *"),
    ],
    ids=["by default", "at any port"],
)
def test_a_recording_can_be_replayed_with_another_port_if_match_on_omits_it(
    pytester: pytest.Pytester, match_on: dict[str, list[str]], outcome: dict[str, int], line: str
) -> None:
    pytester.makeini("[pytest]\naddopts = -pno:asyncio")
    pytester.makepyfile(test_inner=RECORDED_TEST % {"filter_headers": list(SECRETS), **match_on})
    pytester.runpytest_inprocess("--record-mode=once").assert_outcomes(passed=1)
    cassette = pytester.path / "cassettes" / "test_inner" / "test_ask.yaml"
    # The next gateway may get the same port again, but never port 1.
    recorded = cassette.read_text(encoding="utf-8")
    recorded, ports = re.subn(r"127\.0\.0\.1:\d+", "127.0.0.1:1", recorded)
    assert (ports, "Hello!" in recorded, "secret" in recorded) == (1, True, False)
    cassette.write_text(recorded, encoding="utf-8")
    replayed = pytester.runpytest_inprocess("--record-mode=none", "--block-network")
    replayed.assert_outcomes(**outcome)
    replayed.stdout.fnmatch_lines(line)


@pytest.fixture(scope="session")
def httpserver_listen_address() -> tuple[str, int]:
    return "127.0.0.1", 0


def test_httpserver_and_the_models_gateway_work_side_by_side(
    models_gateway: ModelsGateway,
    gateway_session: requests.Session,
    httpserver: HTTPServer,
    session_id: str,
) -> None:
    httpserver.expect_request("/v1/models").respond_with_json({"data": []})
    assert gateway_session.get(httpserver.url_for("/v1/models"), timeout=10).json() == {"data": []}
    assert ask(gateway_session, models_gateway.url).status_code == 200
    log = [(request.path, request.headers.get(SESSION_ID_HEADER)) for request, _ in httpserver.log]
    assert log == [("/v1/models", None)]
    assert [(call.path, call.session_id) for call in models_gateway.calls] == [(CHAT, session_id)]


XDIST_TESTS = f"""
import pytest
from cagent_session import current_session_id, mount, session_scope

def ask(session, url, path="{CHAT}"):
    return session.post(url + path, json={QUESTION}).status_code

marked = [pytest.param(n, marks=pytest.mark.session_id(f"{{__name__}}-{{n}}")) for n in range(3)]

@pytest.mark.parametrize("n", marked)
def test_fixtures(models_gateway, gateway_session, session_id, n):
    assert ask(gateway_session, models_gateway.url) == 200
    models_gateway.assert_attributed(session_id, calls=1)
    assert ask(mount(gateway_session, "%(shared)s"), "%(shared)s") == 200

def test_swallows(models_gateway, gateway_session):
    ask(gateway_session, models_gateway.url, "/v1/embeddings")

def test_leaves_open():
    session_scope(f"{{__name__}}-left").__enter__()

def test_next():
    assert current_session_id() is None
"""


def test_with_xdist_sessions_stay_separate_and_problems_are_reported(
    models_gateway: ModelsGateway, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # it is slow to load all plugins
    pytester.makeini("[pytest]\ncagent_require_session = true")
    modules = ["test_one", "test_two"]
    pytester.makepyfile(**dict.fromkeys(modules, XDIST_TESTS % {"shared": models_gateway.url}))
    plugins = ["-pcagent_session.pytest_entry_point", "-pxdist"]
    result = pytester.runpytest_subprocess(*plugins, "-v", "-n2", "--dist=loadfile")
    result.assert_outcomes(passed=10, failed=2)
    assert set(re.findall(r"\[gw\d\]", result.stdout.str())) == {"[gw0]", "[gw1]"}
    calls = {session_id: usage.calls for session_id, usage in models_gateway.usage().items()}
    assert calls == {f"{module}-{n}": 1 for module in modules for n in range(3)}
    failure = [
        "1 call reached the models gateway in no session:",
        f"  POST  /v1/embeddings  X-Cagent-Forward: {PROVIDER}/v1",
    ]
    left_open = [f"*SessionLeakWarning: *session_scope('{module}-left')*" for module in modules]
    result.stdout.fnmatch_lines(failure * 2)
    result.stdout.fnmatch_lines_random(left_open)
