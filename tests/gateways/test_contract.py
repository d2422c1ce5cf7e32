"""Tests of what every recipe promises. The same tests run on all gateways, as real programs."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import requests
from calling import (
    BAD_REQUEST,
    CALLS_AT_ONCE,
    CHAT,
    COUNT_TOKENS,
    MODEL,
    NO_SESSION,
    OPENAI,
    ROOT_HEADER,
    SPENT,
    STRICT_LITELLM,
    TIMEOUT,
    TOO_FAST,
    UNKNOWN_FORWARD,
    Header,
    Start,
    agent,
    agent_headers,
    answer_to,
    call,
    error_of,
    fingerprint_of,
    first_refusal,
    question,
    raw_call,
    status_for,
    statuses,
)
from programs import CLIENT_KEY, OTHER_KEYS, Edits, Gateway
from provider import HOSTS, Providers, running_providers
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from cagent_session import (
    SESSION_ID_HEADER,
    MissingSessionId,
    gateway_headers,
    new_session_id,
    session_scope,
    sub_session,
)
from cagent_session.testing.answers import default_answer

SESSIONS, CALLS_EACH = 10, 20
OTHER_SESSIONS = 30  # the number of sessions: more than Envoy remembers by default
STREAM_TIMEOUT = 5  # seconds until a part of a stream must arrive
KEY = "sk-secret-0123456789"
# Formatted with different numbers, each pattern gives different IDs.
MALFORMED = {
    "a comma": "session-{},session-{}",
    "a space": "sess 000{}",
    "too short": "{}",
    "too long": "{:065}",
    "a quote": 'sess-"{}"-sess',
    "a dot": "sess.000.{}",
    "other bytes": "sess-\xfc\xff-{}",
    "kilobytes": "{:05000}",
}
HOSTILE = (
    b'"},{"',
    b"\\",
    b"\t",
    b"\x7f" * 128,
    b"\xff\xfe",
    b"x" * 6000,
    b"%s%00%22",
    "\u2028".encode(),
)
# With these edits, a gateway refuses calls in no session. LiteLLM's recipe needs no edit for that.
REFUSALS: dict[str, Edits] = {
    "nginx": {'"~^\\("  0;': '"~^\\("  1;'},
    "haproxy": {"#http-request return status 400": "http-request return status 400"},
    "envoy": {"shadow_rules:": "rules:"},
    "litellm": {},
}
# An address may make 40 calls at once and then one a second, not 400 and ten. A slow machine can't
# make ten calls a second.
FORTY_FOR_A_CLIENT: dict[str, Edits] = {
    "nginx": {"burst=399": "burst=39", "rate=10r/s": "rate=1r/s"},
    "haproxy": {"var(txn.client_owes),add(1)": "var(txn.client_owes),add(10)"},
    "envoy": {"max_tokens: 400, tokens_per_fill: 10": "max_tokens: 40, tokens_per_fill: 1"},
}
CALLS_IN_ALL: dict[str, Edits] = {  # edits that limit a session to five calls in all
    "haproxy": {"table_http_req_cnt(sessions) ge 1000": "table_http_req_cnt(sessions) ge 5"},
    "envoy": {"max_tokens: 1000,": "max_tokens: 5,"},
    "litellm": STRICT_LITELLM,
}
PROXIES = pytest.mark.parametrize("name", ["nginx", "haproxy", "envoy"])
"""The gateways that pass a client's headers on and limit its address. LiteLLM does neither."""
CREDENTIALS = {"Authorization": f"Bearer {KEY}", "X-Api-Key": KEY, "X-Goog-Api-Key": KEY}
OTHER_HEADERS = {"Anthropic-Version": "2023-06-01", "User-Agent": "an agent"}
BALANCERS = dict.fromkeys(
    ("X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Forwarded"), "203.0.113.7"
)
# For each marker: the provider's host, the provider's name, and a path to call.
FORWARDS = {
    "https://api.openai.com/v1": ("api.openai.com", "openai", CHAT),
    "https://api.openai.com/v1/": ("api.openai.com", "openai", "/v1/embeddings"),
    "https://api.anthropic.com": ("api.anthropic.com", "anthropic", "/v1/messages"),
    "https://api.anthropic.com/": ("api.anthropic.com", "anthropic", "/v1/messages"),
    "https://generativelanguage.googleapis.com/": (
        "generativelanguage.googleapis.com",
        "google",
        "/v1beta/models/gemini-2.5-flash:generateContent",
    ),
}
REQUESTS = {  # a body for each of the paths
    CHAT: question(),
    "/v1/embeddings": {"model": "text-embedding-3-small", "input": "Hello, you!"},
    "/v1/messages": question(max_tokens=99),
    "/v1beta/models/gemini-2.5-flash:generateContent": {
        "contents": [{"role": "user", "parts": [{"text": "Hello"}]}]
    },
}


def arrived(providers: Providers) -> dict[str, list[Request]]:
    """Return the requests that each provider got."""
    return {host: [request for request, _ in providers[host].log] for host in HOSTS}


def test_each_session_has_its_own_limit(name: str, gateway: Gateway) -> None:
    """LiteLLM allows 60 calls a minute, the others 20 at once and then one a second."""
    one, other, began, allowed = new_session_id(), new_session_id(), time.monotonic(), 0
    with agent(gateway) as http:
        while (answer := call(http, gateway, one)).ok:
            allowed += 1
            assert allowed < 150
    limit, refilled = (60, 0) if name == "litellm" else (20, time.monotonic() - began + 1)
    assert limit <= allowed <= limit + refilled
    assert error_of(answer.status_code, answer.content) == TOO_FAST
    assert int(answer.headers["Retry-After"]) >= 1
    assert statuses(gateway, other, CALLS_AT_ONCE) == [200] * CALLS_AT_ONCE


@PROXIES
def test_new_session_ids_do_not_avoid_the_limit_of_the_clients_address(
    name: str, start: Start
) -> None:
    gateway = start(name, FORTY_FOR_A_CLIENT[name])  # with 400 calls, the test is ten times as long
    with agent(gateway) as http:
        answered = [call(http, gateway, new_session_id()).status_code for _ in range(40)]
        while answered[-1] == 200 and len(answered) < 400:
            answered.append(call(http, gateway, new_session_id()).status_code)
    assert (answered[:40], answered[-1]) == ([200] * 40, 429)


@PROXIES  # LiteLLM counts by the minute, which takes too long for a test
def test_a_refused_session_may_soon_call_again(gateway: Gateway) -> None:
    """It may even try many times before that."""
    session_id = new_session_id()
    assert first_refusal(gateway, session_id).status_code == 429
    deadline = time.monotonic() + 5
    while statuses(gateway, session_id, 1) == [429]:
        assert time.monotonic() < deadline


def test_calls_in_no_session_are_limited(gateway: Gateway, providers: Providers) -> None:
    before = len(gateway.audit())
    answered = statuses(gateway, None, 3 * CALLS_AT_ONCE)
    assert sum(status in (400, 429) for status in answered) > CALLS_AT_ONCE
    assert len(providers["api.openai.com"].log) == answered.count(200) <= 2 * CALLS_AT_ONCE
    assert {line["session"] for line in gateway.audit(before + len(answered))[before:]} == {
        "(none)"
    }


@pytest.mark.parametrize("malformed", MALFORMED.values(), ids=MALFORMED)
def test_calls_with_malformed_ids_are_limited(
    malformed: str, gateway: Gateway, providers: Providers
) -> None:
    before = len(gateway.audit())
    invented = [
        malformed.format(number, number).encode("latin-1") for number in range(3 * CALLS_AT_ONCE)
    ]
    answered = [status_for(gateway, session_id) for session_id in invented]
    assert sum(status in (400, 429) for status in answered) > CALLS_AT_ONCE
    assert len(providers["api.openai.com"].log) == answered.count(200) <= 2 * CALLS_AT_ONCE
    assert {line["session"] for line in gateway.audit(before + len(answered))[before:]} == {
        "(malformed)"
    }


def test_calls_of_many_other_sessions_do_not_reset_a_sessions_limit(gateway: Gateway) -> None:
    session_id = new_session_id()
    assert first_refusal(gateway, session_id).status_code == 429
    for _ in range(OTHER_SESSIONS):
        statuses(gateway, new_session_id(), 1)
    assert 429 in statuses(gateway, session_id, CALLS_AT_ONCE)


def test_a_session_is_limited_by_the_id_in_the_audit(gateway: Gateway) -> None:
    """A second ID on each call neither avoids the limit nor uses up another session's limit."""
    before, one = len(gateway.audit()), new_session_id()
    answered = [status_for(gateway, one, new_session_id()) for _ in range(3 * CALLS_AT_ONCE)]
    assert sum(status in (400, 429) for status in answered) > CALLS_AT_ONCE
    lines = gateway.audit(before + len(answered))[before:]
    assert len({line["session"] for line in lines}) == 1
    assert lines[0]["session"] in (one, "(malformed)")


def test_the_audit_has_the_session_and_the_status_of_each_call(gateway: Gateway) -> None:
    before, session_id = len(gateway.audit()), new_session_id()
    with agent(gateway) as http:
        assert call(http, gateway, session_id, headers=BALANCERS).status_code == 200
        call(http, gateway, session_id, headers={"X-Cagent-Forward": "https://elsewhere.example"})
    good, refused = gateway.audit(before + 2)[before:]
    assert (good["session"], good["provider"], good["model"]) == (session_id, "openai", MODEL)
    assert (good["method"], good["path"], good["status"]) == ("POST", CHAT, 200)
    assert (refused["session"], refused["provider"], refused["status"]) == (session_id, "", 421)
    assert good["client"] == refused["client"] == "127.0.0.1"
    assert good["key"] == refused["key"] == fingerprint_of(CLIENT_KEY)
    assert good["root"] == session_id


def test_the_duration_includes_the_whole_answer(gateway: Gateway, providers: Providers) -> None:
    before, seconds = len(gateway.audit()), 0.6

    def slow(_: Request) -> Response:
        def pieces() -> Iterator[bytes]:
            yield b"data: {}\n\n"
            threading.Event().wait(seconds)
            yield b"data: [DONE]\n\n"

        return Response(pieces(), mimetype="text/event-stream")

    providers["api.openai.com"].expect_request(CHAT).respond_with_handler(slow)
    with agent(gateway) as http:
        call(http, gateway, new_session_id())
    assert gateway.audit(before + 1)[-1]["duration_ms"] >= seconds * 1000


def test_the_provider_gets_none_of_our_headers(gateway: Gateway, providers: Providers) -> None:
    every = gateway_headers(
        OPENAI,
        provider="openai",
        model=MODEL,
        model_name="mini",
        install_id="install-1",
        generating_title=True,
        compacting=True,
    )
    with agent(gateway) as http:
        answer = call(http, gateway, new_session_id(), headers={**every, **BALANCERS})
    assert SESSION_ID_HEADER in answer.request.headers
    (request,) = arrived(providers)["api.openai.com"]
    names = {name.lower() for name in request.headers.keys()}  # noqa: SIM118 - pairs, otherwise
    assert not {
        name
        for name in names
        if name.startswith(("x-cagent-", "x-envoy-", "x-request-id", "x-forwarded-"))
    }
    assert not names & {"x-real-ip", "forwarded", "via"}
    assert request.headers["Host"] in ("api.openai.com", providers["api.openai.com"].address)
    assert request.json == question()


@PROXIES
@pytest.mark.parametrize("header", CREDENTIALS)
def test_the_provider_gets_its_key_and_the_clients_other_headers(
    header: str, gateway: Gateway, providers: Providers
) -> None:
    sent = {**OTHER_HEADERS, header: CREDENTIALS[header]}
    headers = {**gateway_headers(OPENAI), SESSION_ID_HEADER: new_session_id(), **sent}
    assert answer_to(gateway, headers.items())[0] == 200
    (request,) = arrived(providers)["api.openai.com"]
    assert {name: request.headers[name] for name in sent} == sent


# A key in each place, and other keys in some: as headers, and as a query.
SEVERAL_KEYS: list[tuple[list[Header], str]] = [
    ([("Authorization", "Bearer one"), ("X-Api-Key", "other")], ""),
    ([("Authorization", "Bearer one"), ("X-Goog-Api-Key", "other")], ""),
    ([("X-Api-Key", "one"), ("X-Goog-Api-Key", "other")], ""),
    ([("X-Api-Key", "one"), ("X-Api-Key", "other")], ""),
    ([("X-Goog-Api-Key", "one"), ("x-goog-api-key", "other")], ""),
    ([("Authorization", "Bearer one")], "?key=other"),
    ([("X-Api-Key", "one")], "?alt=sse&key=other"),
    ([("X-Goog-Api-Key", "one")], "?key=other"),
    ([], "?key=one&key=other"),
    ([], "?$key=one"),
    ([], "?%6bey=one"),
    ([("X-Goog-Api-Key", "one")], "?alt=json&%24key=other"),
]


@PROXIES  # LiteLLM gives providers a key of its own
@pytest.mark.parametrize(("keys", "query"), SEVERAL_KEYS)
def test_a_call_with_several_keys_is_refused(
    keys: list[Header], query: str, gateway: Gateway, providers: Providers
) -> None:
    """The provider may take another one than the gateway, and then the bill would be wrong."""
    before = len(gateway.audit())
    headers = [*gateway_headers(OPENAI).items(), (SESSION_ID_HEADER, new_session_id()), *keys]
    status, body = answer_to(gateway, headers, CHAT + query)
    assert error_of(status, body) == BAD_REQUEST
    assert not any(arrived(providers).values())
    (line,) = gateway.audit(before + 1)[before:]
    assert line["key"] == "(several)" or "$" in query or "%" in query


def test_an_empty_key_is_no_key(gateway: Gateway) -> None:
    """SDKs send it if a variable is empty. With two different keys, these are two sessions."""
    before, session_id = len(gateway.audit()), new_session_id()
    headers = {**gateway_headers(OPENAI), SESSION_ID_HEADER: session_id, "X-Goog-Api-Key": ""}
    for key in OTHER_KEYS:
        keys = {"Authorization": "Bearer ", "X-Api-Key": key}
        assert answer_to(gateway, {**headers, **keys}.items())[0] == 200
    lines = gateway.audit(before + len(OTHER_KEYS))[before:]
    assert [line["key"] for line in lines] == [fingerprint_of(key) for key in OTHER_KEYS]


@pytest.mark.parametrize("forward", FORWARDS)
def test_a_call_with_a_listed_marker_reaches_its_provider(
    forward: str, gateway: Gateway, providers: Providers
) -> None:
    host, provider, path = FORWARDS[forward]
    before = len(gateway.audit())
    headers = {**agent_headers(forward), SESSION_ID_HEADER: new_session_id()}
    status, body = answer_to(gateway, headers.items(), path, json.dumps(REQUESTS[path]).encode())
    assert (
        status,
        {where: len(found) for where, found in arrived(providers).items() if found},
    ) == (200, {host: 1})
    assert arrived(providers)[host][0].path == path
    assert json.loads(body)
    assert gateway.audit(before + 1)[-1]["provider"] == provider


@pytest.mark.parametrize(
    "forward", ["", "https://elsewhere.example/v1", "https://api.openai.com", "openai", "{live}"]
)
def test_a_call_with_an_unlisted_marker_is_refused(
    forward: str, gateway: Gateway, providers: Providers, httpserver: HTTPServer
) -> None:
    marker = forward.format(live=f"http://127.0.0.1:{httpserver.port}/v1")
    headers = {
        **agent_headers(),
        SESSION_ID_HEADER: new_session_id(),
        "X-Cagent-Forward": marker,
    }
    status, body = answer_to(gateway, headers.items())
    assert error_of(status, body) == UNKNOWN_FORWARD
    assert not any(arrived(providers).values())
    assert not httpserver.log


# Not nginx: before 1.23 it takes the first of the two markers, which is in the list.
@pytest.mark.parametrize("name", ["haproxy", "envoy", "litellm"])
def test_a_call_with_two_markers_is_refused(gateway: Gateway, providers: Providers) -> None:
    headers = {**agent_headers(), SESSION_ID_HEADER: new_session_id()}
    assert (
        answer_to(gateway, [*headers.items(), ("X-Cagent-Forward", "https://api.anthropic.com")])[0]
        == 421
    )
    assert not any(arrived(providers).values())


def test_the_same_id_with_another_key_is_another_session(gateway: Gateway) -> None:
    """Whoever knows an ID can't use up its limit, and is not on its bill."""
    before, session_id, (attacker, *_) = len(gateway.audit()), new_session_id(), OTHER_KEYS
    refused = statuses(gateway, session_id, 4 * CALLS_AT_ONCE, attacker)
    assert 429 in refused
    assert statuses(gateway, session_id, CALLS_AT_ONCE) == [200] * CALLS_AT_ONCE
    lines = gateway.audit(before + len(refused) + CALLS_AT_ONCE)[before:]
    assert {line["session"] for line in lines} == {session_id}
    assert Counter(line["key"] for line in lines) == {
        fingerprint_of(attacker): len(refused),
        fingerprint_of(CLIENT_KEY): CALLS_AT_ONCE,
    }


@pytest.mark.parametrize(
    ("header", "path"),
    [
        ({"Authorization": "Bearer {}"}, CHAT),
        ({"Authorization": "bearer {}"}, CHAT),
        ({"X-Api-Key": "{}"}, CHAT),
        ({"X-Goog-Api-Key": "{}"}, CHAT),
        ({}, CHAT + "?key={}"),
        ({}, CHAT + "?alt=sse&key={}"),
        ({}, CHAT),
    ],
    ids=str,
)
@pytest.mark.parametrize("key", [OTHER_KEYS[0], "k" * 5000], ids=["short", "long"])
def test_the_audit_has_the_fingerprint_of_the_key(
    key: str, header: dict[str, str], path: str, gateway: Gateway
) -> None:
    before = len(gateway.audit())
    headers = {**gateway_headers(OPENAI), SESSION_ID_HEADER: new_session_id()}
    headers |= {name: value.format(key) for name, value in header.items()}
    answer_to(gateway, headers.items(), path.format(key))
    (line,) = gateway.audit(before + 1)[before:]
    sent = any("{}" in value for value in (*header.values(), path))
    assert line["key"] == (fingerprint_of(key) if sent else "")


def delegate(http: requests.Session, gateway: Gateway, root: str) -> requests.Response:
    """Call in a new sub-session of *root*."""
    with session_scope(root), sub_session(new_session_id()):
        return http.post(gateway.url + CHAT, json=question(), timeout=TIMEOUT)


def test_a_new_sub_session_for_each_call_does_not_avoid_the_limit(gateway: Gateway) -> None:
    before, root = len(gateway.audit()), new_session_id()
    with agent(gateway) as http:
        answered = [delegate(http, gateway, root).status_code for _ in range(4 * CALLS_AT_ONCE)]
    assert answered[:CALLS_AT_ONCE] == [200] * CALLS_AT_ONCE
    assert 429 in answered
    lines = gateway.audit(before + len(answered))[before:]
    assert {line["root"] for line in lines} == {root}
    assert len({line["session"] for line in lines} - {root}) == len(answered)
    assert 429 in statuses(gateway, root, CALLS_AT_ONCE)


@pytest.mark.parametrize("name", CALLS_IN_ALL)
def test_a_new_sub_session_for_each_call_does_not_avoid_the_budget(name: str, start: Start) -> None:
    gateway, root = start(name, CALLS_IN_ALL[name]), new_session_id()
    with agent(gateway) as http:
        assert call(http, gateway, root).ok
        answered = [delegate(http, gateway, root).status_code for _ in range(6)]
    assert answered == [200] * 4 + [403] * 2
    assert statuses(gateway, new_session_id(), 1) == [200]


@pytest.mark.parametrize("name", CALLS_IN_ALL)
def test_another_key_does_not_spend_a_sessions_budget(name: str, start: Start) -> None:
    gateway, session_id = start(name, CALLS_IN_ALL[name]), new_session_id()
    assert statuses(gateway, session_id, 6, OTHER_KEYS[0]) == [200] * 5 + [403]
    assert statuses(gateway, session_id, 6) == [200] * 5 + [403]


def test_a_root_is_empty_or_missing_if_a_session_is_its_own_root(gateway: Gateway) -> None:
    before, session_id = len(gateway.audit()), new_session_id()
    headers: list[Header] = [*agent_headers().items(), (SESSION_ID_HEADER, session_id)]
    assert answer_to(gateway, headers)[0] == 200
    assert answer_to(gateway, [*headers, (ROOT_HEADER, "")])[0] == 200
    lines = gateway.audit(before + 2)[before:]
    assert [(line["session"], line["root"]) for line in lines] == [(session_id, session_id)] * 2


@pytest.mark.parametrize("malformed", MALFORMED.values(), ids=MALFORMED)
def test_calls_with_malformed_roots_are_limited(
    malformed: str, gateway: Gateway, providers: Providers
) -> None:
    before = len(gateway.audit())
    answered, session_ids = list[int](), [new_session_id() for _ in range(3 * CALLS_AT_ONCE)]
    for number, session_id in enumerate(session_ids):
        root = malformed.format(number, number).encode("latin-1")
        ids: list[Header] = [(SESSION_ID_HEADER, session_id), (ROOT_HEADER, root)]
        answered.append(answer_to(gateway, [*agent_headers().items(), *ids])[0])
    assert sum(status in (400, 429) for status in answered) > CALLS_AT_ONCE
    assert len(providers["api.openai.com"].log) == answered.count(200) <= 2 * CALLS_AT_ONCE
    lines = gateway.audit(before + len(answered))[before:]
    assert {line["root"] for line in lines} == {"(malformed)"}
    assert {line["session"] for line in lines} == {*session_ids}


@pytest.mark.parametrize("session_ids", [[], [""], ["short"]], ids=str)
def test_a_root_without_a_session_is_no_session(session_ids: list[str], gateway: Gateway) -> None:
    """Otherwise a call with a root alone would spend that root's budget, and be on no bill."""
    before, root = len(gateway.audit()), new_session_id()
    ids: list[Header] = [(SESSION_ID_HEADER, session_id) for session_id in session_ids]
    answer_to(gateway, [*agent_headers().items(), *ids, (ROOT_HEADER, root)])
    (line,) = gateway.audit(before + 1)[before:]
    word = "(malformed)" if "short" in session_ids else "(none)"
    assert (line["session"], line["root"]) == (word, word)


@pytest.mark.parametrize("name", CALLS_IN_ALL)
def test_a_refused_call_costs_its_session_nothing(name: str, start: Start) -> None:
    gateway, session_id = start(name, CALLS_IN_ALL[name]), new_session_id()
    headers = {**agent_headers("https://elsewhere.example/v1"), SESSION_ID_HEADER: session_id}
    answered = [answer_to(gateway, headers.items())[0] for _ in range(3 * CALLS_AT_ONCE)]
    assert answered == [421] * len(answered)
    assert statuses(gateway, session_id, 6) == [200] * 5 + [403]


def test_calls_with_an_unknown_marker_do_not_use_up_a_sessions_limit(gateway: Gateway) -> None:
    session_id = new_session_id()
    headers = {**agent_headers("https://elsewhere.example/v1"), SESSION_ID_HEADER: session_id}
    answered = [answer_to(gateway, headers.items())[0] for _ in range(CALLS_AT_ONCE)]
    assert answered == [421] * CALLS_AT_ONCE
    assert statuses(gateway, session_id, CALLS_AT_ONCE) == [200] * CALLS_AT_ONCE


@PROXIES
def test_calls_with_an_unknown_marker_are_limited(name: str, start: Start) -> None:
    gateway, session_id = start(name, FORTY_FOR_A_CLIENT[name]), new_session_id()
    headers = {**agent_headers("https://elsewhere.example/v1"), SESSION_ID_HEADER: session_id}
    answered = list[int]()
    while 429 not in answered and len(answered) < 400:
        answered.append(answer_to(gateway, headers.items())[0])
    assert set(answered) == {421, 429}
    lines = gateway.audit(len(answered))
    assert {(line["session"], line["provider"]) for line in lines} == {(session_id, "")}


def event(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    chunk = {
        "id": "1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": MODEL,
        "choices": [choice],
    }
    return f"data: {json.dumps(chunk)}\n\n".encode()


def test_a_stream_arrives_in_pieces(gateway: Gateway, providers: Providers) -> None:
    """The provider sends the second part only after the client has seen the first one."""
    seen = threading.Event()

    def answer(_: Request) -> Response:
        def pieces() -> Iterator[bytes]:
            for text in ("first", "second"):
                yield event({"role": "assistant", "content": text})
                if not seen.wait(STREAM_TIMEOUT):
                    return
            yield event({}, "stop") + b"data: [DONE]\n\n"

        return Response(pieces(), mimetype="text/event-stream")

    providers["api.openai.com"].expect_request(CHAT).respond_with_handler(answer)
    with agent(gateway) as http:
        headers = {SESSION_ID_HEADER: new_session_id()}
        url = gateway.url + CHAT
        with http.post(
            url, json=question(stream=True), headers=headers, stream=True, timeout=TIMEOUT
        ) as response:
            lines = response.iter_lines()
            first = next(line for line in lines if line)
            assert b"first" in first
            seen.set()
            assert b"second" in b"".join(lines)


def test_the_calls_of_concurrent_sessions_add_up_exactly(
    gateway: Gateway, providers: Providers
) -> None:
    before = len(gateway.audit())
    together = threading.Barrier(SESSIONS)

    def work(session_id: str) -> None:
        together.wait(TIMEOUT)
        assert statuses(gateway, session_id, CALLS_EACH) == [200] * CALLS_EACH

    session_ids = [new_session_id() for _ in range(SESSIONS)]
    with ThreadPoolExecutor(SESSIONS) as pool:
        list(pool.map(work, session_ids))
    lines = gateway.audit(before + SESSIONS * CALLS_EACH)[before:]
    counted = Counter((line["session"], line["status"]) for line in lines)
    assert counted == {(session_id, 200): CALLS_EACH for session_id in session_ids}
    assert len(providers["api.openai.com"].log) == SESSIONS * CALLS_EACH


def test_a_required_session_is_checked_by_the_gateway_and_by_the_adapter(
    name: str, start: Start, providers: Providers
) -> None:
    gateway = start(name, REFUSALS[name])
    before = len(gateway.audit())
    with agent(gateway, missing="omit") as http:
        refused = call(http, gateway, None)
        assert error_of(refused.status_code, refused.content) == NO_SESSION
    assert status_for(gateway, "sess 0001") == 400
    gateway.audit(before + 2)
    with agent(gateway, missing="raise") as http:
        with pytest.raises(MissingSessionId):
            call(http, gateway, None)
        assert call(http, gateway, new_session_id()).status_code == 200
    assert [line["status"] for line in gateway.audit(before + 3)[before:]] == [400, 400, 200]
    assert len(providers["api.openai.com"].log) == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", COUNT_TOKENS)
def test_the_audit_has_the_tokens_that_the_provider_reports(stream: bool, gateway: Gateway) -> None:
    before, session_id = len(gateway.audit()), new_session_id()
    more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    with agent(gateway) as http:
        for text in ("One.", "One, two and three."):
            body, headers = question(text, **more), {SESSION_ID_HEADER: session_id}
            assert http.post(gateway.url + CHAT, json=body, headers=headers, timeout=TIMEOUT).ok
    lines = gateway.audit(before + 2)[before:]
    assert [(line["prompt_tokens"], line["completion_tokens"]) for line in lines] == [
        (1, 3),
        (4, 6),
    ]


@pytest.mark.parametrize("name", COUNT_TOKENS)
def test_the_audit_has_the_tokens_of_a_provider_that_compresses(
    gateway: Gateway, providers: Providers
) -> None:
    def compressed(request: Request) -> Response:
        answer = default_answer(request)
        assert answer is not None
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            answer.set_data(gzip.compress(answer.get_data()))
            answer.headers["Content-Encoding"] = "gzip"
        return answer

    providers["api.openai.com"].expect_request(CHAT).respond_with_handler(compressed)
    before = len(gateway.audit())
    with agent(gateway) as http:
        answer = call(http, gateway, new_session_id())
    assert answer.json()["usage"]["total_tokens"] == 6
    line = gateway.audit(before + 1)[-1]
    assert (line.get("prompt_tokens"), line.get("completion_tokens")) == (2, 4)


@pytest.mark.parametrize(
    "path", ["/v1/messages", "/v1beta/models/gemini-2.5-flash:generateContent"]
)
@pytest.mark.parametrize("name", COUNT_TOKENS)
def test_the_audit_has_the_tokens_of_every_provider(path: str, gateway: Gateway) -> None:
    before = len(gateway.audit())
    forward = next(forward for forward, (_, _, called) in FORWARDS.items() if called == path)
    headers = {**agent_headers(forward), SESSION_ID_HEADER: new_session_id()}
    assert answer_to(gateway, headers.items(), path, json.dumps(REQUESTS[path]).encode())[0] == 200
    line = gateway.audit(before + 1)[-1]
    prompt = {"/v1/messages": "Hello, you!"}.get(path, "Hello").split()
    assert (line["prompt_tokens"], line["completion_tokens"]) == (len(prompt), 2 + len(prompt))


@pytest.mark.parametrize("name", CALLS_IN_ALL)
def test_a_session_that_has_used_up_its_calls_is_refused_and_others_are_not(
    name: str, start: Start
) -> None:
    gateway, one = start(name, CALLS_IN_ALL[name]), new_session_id()
    before = len(gateway.audit())
    assert statuses(gateway, one, 8) == [200] * 5 + [403] * 3
    assert statuses(gateway, new_session_id(), 5) == [200] * 5
    status, body = answer_to(gateway, {**agent_headers(), SESSION_ID_HEADER: one}.items())
    assert error_of(status, body) == SPENT
    lines = gateway.audit(before + 14)[before:]
    assert [line["status"] for line in lines if line["session"] == one] == [200] * 5 + [403] * 4


@pytest.mark.parametrize(
    "header", ["X-Cagent-Model", "X-Cagent-Forward", "User-Agent", SESSION_ID_HEADER]
)
def test_the_audit_stays_json_whatever_is_in_a_header(header: str, gateway: Gateway) -> None:
    before = len(gateway.audit())
    for value in HOSTILE:
        headers: dict[str, str | bytes] = {
            **agent_headers(),
            SESSION_ID_HEADER: new_session_id(),
            header: value,
        }
        answer_to(gateway, headers.items())
    assert len(gateway.audit(before + len(HOSTILE))) == before + len(HOSTILE)


@pytest.mark.parametrize(
    "line",
    [b'POST /"\\\xff%22?" HTTP/1.1', b"no HTTP", b'"} {" / HTTP/1.1', b"GET /" + b"x" * 70000],
)
def test_the_audit_stays_json_whatever_is_in_the_request_line(
    line: bytes, gateway: Gateway
) -> None:
    before = len(gateway.audit())
    with (
        socket.create_connection(("127.0.0.1", gateway.place.port), TIMEOUT) as client,
        suppress(ConnectionError),
    ):
        client.sendall(line + b"\r\nHost: gateway\r\nConnection: close\r\n\r\n")
        while client.recv(65536):
            pass
    after, deadline = new_session_id(), time.monotonic() + TIMEOUT
    statuses(gateway, after, 1)
    # A request that is not HTTP may have no line. So wait for the line of the call after it.
    while gateway.audit(before + 1)[-1]["session"] != after:
        assert time.monotonic() < deadline
    assert {line["status"] for line in gateway.audit()[before:]} <= {200, 400, 404, 414, 421, 431}


@pytest.mark.parametrize("query", ["?key={}", "#key={}", "#?key={}", "?#{}", "?key=x#{}"])
def test_no_log_has_a_key(query: str, name: str, gateway: Gateway, providers: Providers) -> None:
    """Google takes a key in the query. By mistake, a marker may have a key. A prompt is secret."""
    before, path = len(gateway.audit()), CHAT + query.format(KEY)
    headers = {**gateway_headers(OPENAI), SESSION_ID_HEADER: new_session_id()}
    if name == "litellm":  # it calls nobody without a known key
        headers["Authorization"] = f"Bearer {CLIENT_KEY}"
    bad = {**headers, "X-Cagent-Forward": f"https://me:{KEY}@api.openai.com/v1"}
    body = json.dumps(question(KEY)).encode()
    # The limit refuses some calls, and the provider does not answer the last ones.
    for number in range(2 * CALLS_AT_ONCE):
        if number == 2 * CALLS_AT_ONCE - 2:
            headers[SESSION_ID_HEADER] = new_session_id()
            providers["api.openai.com"].expect_request(CHAT).respond_with_handler(hang_up)
        answer_to(gateway, headers.items(), path, body)
        answer_to(gateway, bad.items(), path, body)
    for header, key in CREDENTIALS.items():
        answer_to(gateway, {**headers, header: key}.items(), CHAT, body)
    gateway.audit(before + 4 * CALLS_AT_ONCE + len(CREDENTIALS))
    logs = [file for file in gateway.place.folder.rglob("*") if file.is_file()]
    assert gateway.audit_file in logs
    assert [file.name for file in logs if KEY.encode() in file.read_bytes()] == []


def hang_up(request: Request) -> Response:
    request.environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    return Response()


def test_long_prompts_and_long_answers_are_passed_on(
    gateway: Gateway, providers: Providers
) -> None:
    long = "x" * 2_000_000
    headers = {SESSION_ID_HEADER: new_session_id()}
    with agent(gateway) as http:
        answer = http.post(
            gateway.url + CHAT, json=question(long), headers=headers, timeout=TIMEOUT
        )
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == f"You said: {long}"
    assert arrived(providers)["api.openai.com"][0].json == question(long)


def test_a_call_that_fails_at_the_provider_is_not_sent_again(
    gateway: Gateway, providers: Providers
) -> None:
    """The provider may have billed it."""
    before, session_id, tries = len(gateway.audit()), new_session_id(), list[Request]()

    def fail(request: Request) -> Response:
        tries.append(request)
        return hang_up(request)

    with agent(gateway) as http:
        assert call(http, gateway, session_id).status_code == 200
        providers["api.openai.com"].expect_request(CHAT).respond_with_handler(fail)
        answer = call(http, gateway, session_id)
    assert len(tries) == 1
    status, *error = error_of(answer.status_code, answer.content)
    assert (status in (502, 503), error) == (True, ["api_error", "provider_unreachable"])
    line = gateway.audit(before + 2)[-1]
    assert (line["session"], line["status"]) == (session_id, answer.status_code)


def test_a_server_with_a_wrong_certificate_gets_no_call(
    name: str, start: Start, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One certificate has another name, and the other comes from an unknown authority."""
    folders = [tmp_path_factory.mktemp("impostors") for _ in range(2)]
    with (
        running_providers(folders[0], ["elsewhere.example"]) as other_name,
        running_providers(folders[1]) as other_authority,
    ):
        hosts = {**other_name.by_host, "api.anthropic.com": other_authority["api.anthropic.com"]}
        gateway = start(name, behind=Providers(hosts, other_name.authority))
        for forward in (OPENAI, "https://api.anthropic.com"):
            path = FORWARDS[forward][2]
            headers = {**agent_headers(forward), SESSION_ID_HEADER: new_session_id()}
            body = json.dumps(REQUESTS[path]).encode()
            assert answer_to(gateway, headers.items(), path, body)[0] in (502, 503)
        assert not any(provider.log for provider in hosts.values())


def test_a_stream_that_breaks_off_does_not_look_complete(
    name: str, gateway: Gateway, providers: Providers
) -> None:
    seen = threading.Event()

    def answer(request: Request) -> Response:
        def pieces() -> Iterator[bytes]:
            yield event({"role": "assistant", "content": "first"})
            seen.wait(STREAM_TIMEOUT)
            hang_up(request)

        return Response(pieces(), mimetype="text/event-stream")

    before, session_id = len(gateway.audit()), new_session_id()
    providers["api.openai.com"].expect_request(CHAT).respond_with_handler(answer)
    got, body, headers = b"", question(stream=True), {SESSION_ID_HEADER: session_id}
    with (
        agent(gateway) as http,
        http.post(
            gateway.url + CHAT, json=body, headers=headers, stream=True, timeout=TIMEOUT
        ) as response,
        suppress(requests.RequestException),
    ):
        for piece in response.iter_content(None):
            got += piece
            seen.set()
    assert b"first" in got
    assert b"[DONE]" not in got
    # LiteLLM reports the error in the stream. The other gateways break the stream off.
    assert (b'"error"' in got) == (name == "litellm")
    (line,) = gateway.audit(before + 1)[before:]
    assert line["session"] == session_id


@PROXIES  # not LiteLLM: it reads and charges the whole answer
def test_a_client_that_hangs_up_ends_its_call(gateway: Gateway, providers: Providers) -> None:
    asked, gone, session_id = threading.Event(), threading.Event(), new_session_id()

    def think(request: Request) -> Response:
        connection = request.environ["werkzeug.socket"]
        connection.settimeout(STREAM_TIMEOUT)
        asked.set()
        try:
            connection.recv(1)
        except TimeoutError:
            return Response()
        except OSError:
            pass  # the connection has ended, too
        gone.set()
        return Response()

    providers["api.openai.com"].expect_request(CHAT).respond_with_handler(think)
    with socket.create_connection(("127.0.0.1", gateway.place.port), TIMEOUT) as client:
        client.sendall(raw_call(gateway, session_id, "HTTP/1.1"))
        assert asked.wait(TIMEOUT)
    assert gone.wait(STREAM_TIMEOUT)
    (line,) = gateway.audit(1)
    assert line["session"] == session_id
    assert line["status"] != 200


def test_a_balancer_may_speak_http_1_0(gateway: Gateway) -> None:
    """A balancer with nginx does so by default."""
    before, session_id = len(gateway.audit()), new_session_id()
    with socket.create_connection(("127.0.0.1", gateway.place.port), TIMEOUT) as client:
        client.sendall(raw_call(gateway, session_id, "HTTP/1.0"))
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert b" 200 " in answer.splitlines()[0]
    assert b"You said" in answer
    assert gateway.audit(before + 1)[-1]["session"] == session_id


@pytest.mark.parametrize("status", [401, 429, 500, 503])
def test_a_providers_error_is_passed_on(
    status: int, gateway: Gateway, providers: Providers
) -> None:
    refusal = {"error": {"message": "not now", "type": "some_error", "code": "some_code"}}
    providers["api.openai.com"].expect_request(CHAT).respond_with_json(refusal, status=status)
    with agent(gateway) as http:
        answer = call(http, gateway, new_session_id())
    assert answer.status_code == status
    assert "not now" in answer.json()["error"]["message"]
    assert len(providers["api.openai.com"].log) == 1
