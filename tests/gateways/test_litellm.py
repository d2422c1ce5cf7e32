"""Tests of LiteLLM's recipe alone: its costs and keys, and several LiteLLM on one Redis."""

from __future__ import annotations

import http.client
import json
import os
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import cycle
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import requests
from calling import (
    CHAT,
    MODEL,
    ROOT_HEADER,
    SPENT,
    STRICT_LITELLM,
    TIMEOUT,
    Error,
    Start,
    agent_headers,
    answer_to,
    error_of,
    fingerprint_of,
    must_be_installed,
    price_of,
    question,
    statuses,
)
from programs import (
    CLIENT_KEY,
    OTHER_KEYS,
    Edits,
    Gateway,
    ended,
    free_port,
    listens,
    running,
    started,
)
from provider import Providers
from pytest_httpserver import HTTPServer
from test_contract import hang_up
from test_tokens import places_of, stating
from token_answers import COMPACTION, LAST
from werkzeug import Request, Response

from cagent_session import SESSION_ID_HEADER, new_session_id
from cagent_session.testing.answers import default_answer

OPENAI_HOST, ANTHROPIC = "api.openai.com", "https://api.anthropic.com"
FIRST, SECOND, THIRD = CLIENT_KEY, *OTHER_KEYS
OPEN: Edits = {  # calls without a session are allowed, and a client must send its body in a second
    **STRICT_LITELLM,
    "SESSION_REQUIRED = True": "SESSION_REQUIRED = False",
    "BODY_SECONDS = 120": "BODY_SECONDS = 1",
}
WITH_REDIS: Edits = {  # a session may also make 7 calls a minute, and a key 30
    **STRICT_LITELLM,
    "session_rpm_limit: 60": "session_rpm_limit: 7",
    "KEY_RPM = 600": "KEY_RPM = 30",
}


@pytest.fixture
def litellm(start: Start) -> Gateway:
    return start("litellm")


@pytest.fixture
def strict_litellm(start: Start) -> Gateway:
    return start("litellm", STRICT_LITELLM)


@pytest.fixture
def open_litellm(start: Start) -> Gateway:
    return start("litellm", OPEN)


def ask(
    gateway: Gateway, session_id: str, key: str, text: str = "Hello, you!", **more: Any
) -> tuple[int, dict[str, Any]]:
    headers = {
        **agent_headers(),
        SESSION_ID_HEADER: session_id,
        "Authorization": f"Bearer {key}",
    }
    body = json.dumps(question(text, **more)).encode()
    status, answer = answer_to(gateway, headers.items(), CHAT, body)
    return status, json.loads(answer)


def test_the_audit_has_the_cost_of_each_session(litellm: Gateway) -> None:
    before, session_id = len(litellm.audit()), new_session_id()
    statuses(litellm, session_id, 3)
    lines = litellm.audit(before + 3)[before:]
    assert [(line["session"], line["model"]) for line in lines] == [(session_id, MODEL)] * 3
    assert sum(line["cost_usd"] for line in lines) == pytest.approx(3 * price_of(2))


def test_each_session_has_its_own_budget(strict_litellm: Gateway, providers: Providers) -> None:
    """The same ID with another key is another session, because an ID is not a secret."""
    session_id, text = new_session_id(), "word " * 10
    answered = [ask(strict_litellm, session_id, FIRST, text)[0] for _ in range(5)]
    # The third call began while the session was below its budget.
    assert answered == [200, 200, 200, 403, 403]
    assert len(providers[OPENAI_HOST].log) == 3
    status, body = ask(strict_litellm, session_id, FIRST)
    assert error_of(status, json.dumps(body).encode()) == SPENT
    assert ask(strict_litellm, new_session_id(), FIRST)[0] == 200
    assert ask(strict_litellm, session_id, SECOND)[0] == 200


def test_new_session_ids_do_not_avoid_the_limit_of_the_clients_key(
    strict_litellm: Gateway,
) -> None:
    answered = [ask(strict_litellm, new_session_id(), THIRD)[0] for _ in range(62)]
    assert answered == [200] * 60 + [429] * 2


def test_a_session_that_has_made_all_its_calls_does_not_use_up_its_keys_calls(
    open_litellm: Gateway,
) -> None:
    """A key may make 60 calls a minute. Those that get 403 do not count."""
    session_id = new_session_id()
    answered = [ask(open_litellm, session_id, SECOND)[0] for _ in range(75)]
    assert answered == [200] * 5 + [403] * 70
    assert ask(open_litellm, new_session_id(), SECOND)[0] == 200


def status_from(address: str, gateway: Gateway, key: str, ids: dict[str, str]) -> int:
    """Make a call from an address of this machine. Return the status."""
    port, headers = gateway.place.port, {**agent_headers(key=key), **ids}
    with closing(
        http.client.HTTPConnection("127.0.0.1", port, TIMEOUT, source_address=(address, 0))
    ) as connection:
        connection.request("POST", CHAT, json.dumps(question()), headers)
        answer = connection.getresponse()
        answer.read()  # the call is in the audit when its answer has ended
        return answer.status


def test_all_malformed_calls_share_a_limit(open_litellm: Gateway) -> None:
    """Otherwise a client could invent an ID for each call."""
    ids = [{SESSION_ID_HEADER: f"sess.{number}"} for number in range(4)]
    ids += [{SESSION_ID_HEADER: new_session_id(), ROOT_HEADER: f"{each}"} for each in range(4)]
    answered = [
        status_from(f"127.0.0.{2 + number}", open_litellm, (FIRST, THIRD)[number % 2], each)
        for number, each in enumerate(ids)
    ]
    assert answered == [200] * 5 + [403] * 3


def test_calls_without_an_id_share_a_limit_for_each_address(open_litellm: Gateway) -> None:
    keys = [FIRST, THIRD] * 4
    answered = [status_from("127.0.0.2", open_litellm, key, {}) for key in keys]
    assert answered == [200] * 5 + [403] * 3
    assert status_from("127.0.0.3", open_litellm, FIRST, {}) == 200


def test_a_client_that_sends_its_body_slowly_is_refused(open_litellm: Gateway) -> None:
    """Its connection is closed. Otherwise such clients could use up all connections."""
    before, session_id = len(open_litellm.audit()), new_session_id()
    headers = {**agent_headers(), SESSION_ID_HEADER: session_id, "Content-Length": "1000"}
    with closing(
        http.client.HTTPConnection("127.0.0.1", open_litellm.place.port, TIMEOUT)
    ) as client:
        client.request("POST", CHAT, b"{", headers)
        assert isinstance(client.sock, socket.socket)
        while not select.select([client.sock], [], [], 0.1)[0]:
            client.send(b" ")
        answer = client.getresponse()
        refused: Error = (408, "invalid_request_error", "request_timeout")
        assert error_of(answer.status, answer.read()) == refused
        assert answer.getheader("Connection") == "close"
    (line,) = open_litellm.audit(before + 1)[before:]
    assert (line["session"], line["status"]) == (session_id, 408)


def test_only_known_keys_are_accepted_and_the_provider_gets_its_own_key(
    litellm: Gateway, providers: Providers
) -> None:
    assert ask(litellm, new_session_id(), "sk-unknown")[0] == 401
    for key in (FIRST, SECOND, THIRD):
        assert ask(litellm, new_session_id(), key)[0] == 200
    keys = {request.headers["Authorization"] for request, _ in providers[OPENAI_HOST].log}
    assert keys == {f"Bearer {litellm.program.variables['OPENAI_API_KEY']}"}


@pytest.mark.parametrize(
    "more",
    [
        {"api_base": "{live}"},
        {"base_url": "{live}"},
        {"custom_llm_provider": "anthropic"},
        {"extra_headers": {"X-Cagent-Forward": "here"}},
        {"fallbacks": ["gpt-4o"]},
        {"mock_response": "for nothing"},
    ],
    ids=lambda more: next(iter(more)),
)
def test_a_client_can_not_change_settings_of_the_gateway(
    more: dict[str, Any], litellm: Gateway, providers: Providers, httpserver: HTTPServer
) -> None:
    """LiteLLM takes settings from the body. One of these settings makes a call free."""
    more = json.loads(json.dumps(more).replace("{live}", httpserver.url_for("/v1")))
    assert ask(litellm, new_session_id(), FIRST, **more)[0] == 400
    assert not httpserver.log
    assert not providers[OPENAI_HOST].log


def test_a_client_can_not_ask_for_answers_that_have_no_price(
    litellm: Gateway, providers: Providers
) -> None:
    """LiteLLM charges fast answers of some models like slow ones."""
    headers = {**agent_headers(ANTHROPIC), SESSION_ID_HEADER: new_session_id()}
    body = json.dumps(question(max_tokens=99, speed="fast")).encode()
    refused: Error = (400, "invalid_request_error", "unknown_parameter")
    assert error_of(*answer_to(litellm, headers.items(), "/v1/messages", body)) == refused
    assert not providers["api.anthropic.com"].log


@pytest.mark.parametrize(
    "path", ["/v1/completions", "/openai/v1/chat/completions", "/key/generate", "/ui", "/chat"]
)
def test_all_other_paths_are_closed(path: str, litellm: Gateway, providers: Providers) -> None:
    headers = {**agent_headers(), SESSION_ID_HEADER: new_session_id()}
    assert answer_to(litellm, headers.items(), path)[0] in (401, 403, 404, 405)
    assert not providers[OPENAI_HOST].log


@pytest.mark.parametrize(
    ("target", "path"),
    [
        *((CHAT + end, CHAT) for end in ("%3Fkey={}", "%23key={}", ";key={}", "&key={}")),
        (f"http://me:{{}}@gateway{CHAT}", ""),
    ],
)
def test_a_key_that_is_in_the_path_by_mistake_is_not_in_the_audit(
    target: str, path: str, litellm: Gateway
) -> None:
    before, headers = len(litellm.audit()), agent_headers()
    answer_to(litellm, headers.items(), target.format("sk-secret"))
    assert litellm.audit(before + 1)[before]["path"] == path
    assert "sk-secret" not in litellm.audit_file.read_text(encoding="utf-8")


# The tokens beside the iterations cost cents. The compaction costs more than the budget.
LONG, BEGUN = {**COMPACTION, "input_tokens": 2_000_000}, {**LAST, "output_tokens": 1}
ITERATED = [{"usage": {**LAST, "iterations": [LONG, LAST]}}]
ITERATED_FIRST = [
    {"message": {"usage": {**BEGUN, "iterations": [LONG, BEGUN]}}},
    {"usage": {"output_tokens": LAST["output_tokens"]}},
]


@pytest.mark.parametrize(
    ("stream", "events"),
    [(False, ITERATED), (True, ITERATED), (True, ITERATED_FIRST)],
    ids=["plain", "in the last event", "in the first event"],
)
def test_a_session_is_charged_for_all_iterations_of_a_compacted_message(
    stream: bool, events: list[dict[str, Any]], start: Start, providers: Providers
) -> None:
    litellm = start("litellm")
    providers["api.anthropic.com"].expect_request("/v1/messages").respond_with_handler(
        lambda request: stating(request, places_of(events))
    )
    headers = {**agent_headers(ANTHROPIC), SESSION_ID_HEADER: new_session_id()}
    body = json.dumps(question(model="claude-sonnet-4-5", max_tokens=99, stream=stream)).encode()
    before = len(litellm.audit())
    answered = [answer_to(litellm, headers.items(), "/v1/messages", body)[0] for _ in range(70)]
    assert answered == [200] + [403] * 69  # the calls that get 403 are not calls of the minute
    cost = litellm.audit(before + 1)[before]["cost_usd"]
    assert cost == pytest.approx(2_023_000 * 3.00e-6 + 4_500 * 15.00e-6)


def test_a_client_does_not_wait_for_the_cost_of_a_stream_that_broke_off(
    litellm: Gateway, providers: Providers
) -> None:
    """LiteLLM never reports a cost for it."""
    seen = Event()

    def answer(request: Request) -> Response:
        def pieces() -> Iterator[bytes]:
            yield b'data: {"candidates": []}\n\n'
            seen.wait(TIMEOUT)
            hang_up(request)

        return Response(pieces(), mimetype="text/event-stream")

    google, path = "generativelanguage.googleapis.com", "/v1beta/models/g:streamGenerateContent"
    providers[google].expect_request(path).respond_with_handler(answer)
    before, headers = len(litellm.audit()), {SESSION_ID_HEADER: new_session_id()}
    headers |= agent_headers(f"https://{google}")
    body = {"contents": [{"parts": [{"text": "Hello"}]}]}
    with requests.post(litellm.url + path, json=body, headers=headers, stream=True) as response:
        for _ in response.iter_content(None):
            seen.set()
    line = litellm.audit(before + 1)[before]
    assert (line["status"], line["duration_ms"] < 20_000) == (200, True)  # the time-out


class Redis:
    """A Redis on loopback. It keeps its data when it is stopped and started again."""

    def __init__(self, program: str, folder: Path) -> None:
        self.port, self.running = free_port(), ExitStack()
        options = f"--bind 127.0.0.1 --port {self.port} --appendonly yes".split()
        self.command = [program, *options, "--dir", str(folder)]

    def start(self) -> None:
        process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL)
        self.running.enter_context(ended(process))
        deadline = time.monotonic() + TIMEOUT
        # It listens before it has read its data. Until then, it answers LOADING.
        while not listens(self.port) or self.ask("PING") != b"+PONG":
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def stop(self) -> None:
        self.running.close()

    def ask(self, command: str) -> bytes:
        """Send a command. Return the last line of the answer."""
        with socket.create_connection(("127.0.0.1", self.port), TIMEOUT) as client:
            client.sendall(f"{command}\r\n".encode())
            return client.recv(65536).splitlines()[-1]


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """If there is no redis-server, the tests skip. In CI they fail."""
    program = shutil.which("redis-server")
    if program is None:
        reason = "there is no redis-server: apt-get install redis-server"
        raise RuntimeError(reason) if "CI" in os.environ else pytest.skip.Exception(reason)
    server = Redis(program, tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def programs() -> Iterator[ExitStack]:
    """Return a stack that ends the programs of this module."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def two_litellm(
    redis: Redis,
    programs: ExitStack,
    session_providers: Providers,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[Gateway]:
    """Start two LiteLLM at the same time, as the README says."""
    must_be_installed("litellm")
    url = f"redis://127.0.0.1:{redis.port}/0"
    edits = {
        **WITH_REDIS,
        "#coordination_redis": "coordination_redis",
        "os.environ/REDIS_URL": f'"{url}"',
    }
    with ThreadPoolExecutor() as pool:
        return list(
            pool.map(
                programs.enter_context,
                [
                    running("litellm", tmp_path_factory.mktemp("litellm"), session_providers, edits)
                    for _ in range(2)
                ],
            )
        )


def ask_in_turn(
    gateways: list[Gateway], calls: int, key: str, session_id: str = "", text: str = "Hello, you!"
) -> list[int]:
    """Make each call through another one of the gateways, in one session or each in its own."""
    return [
        ask(gateway, session_id or new_session_id(), key, text)[0]
        for gateway, _ in zip(cycle(gateways), range(calls), strict=False)
    ]


def test_two_litellm_share_a_sessions_calls_and_its_calls_in_a_minute(
    two_litellm: list[Gateway], redis: Redis
) -> None:
    """A session that has made all its calls does not use up the calls of its key."""
    session_id = new_session_id()
    made = f"{{session_iterations:{fingerprint_of(FIRST)}.{session_id}}}:count"
    assert ask_in_turn(two_litellm, 40, FIRST, session_id) == [200] * 5 + [403] * 35
    assert redis.ask(f"DEL {made}") == b":1"  # so that only the limit of the minute is left
    assert ask_in_turn(two_litellm, 4, FIRST, session_id) == [200] * 2 + [429] * 2


def test_two_litellm_share_a_sessions_budget(two_litellm: list[Gateway]) -> None:
    session_id = new_session_id()
    answered = ask_in_turn(two_litellm, 5, SECOND, session_id, "word " * 10)
    assert answered == [200, 200, 200, 403, 403]
    lines = [line for gateway in two_litellm for line in gateway.audit(2)]
    costs = [line.get("cost_usd", 0) for line in lines if line["session"] == session_id]
    assert sum(costs) == pytest.approx(3 * price_of(10))


def test_a_session_is_charged_before_its_answer_ends(
    two_litellm: list[Gateway], redis: Redis, providers: Providers
) -> None:
    """Otherwise the next call of the session, through another LiteLLM, may come too early."""
    session_id = new_session_id()

    def answer(request: Request) -> Response:
        redis.ask("CLIENT PAUSE 500 WRITE")  # so the charge comes late
        return default_answer(request) or Response()

    providers[OPENAI_HOST].expect_request(CHAT).respond_with_handler(answer)
    assert ask(two_litellm[0], session_id, FIRST)[0] == 200
    spent = redis.ask(f"GET {{session_budget:{fingerprint_of(FIRST)}.{session_id}}}:spend")
    assert float(spent) == pytest.approx(price_of(2))


def test_two_litellm_share_the_limit_of_a_key(two_litellm: list[Gateway]) -> None:
    assert ask_in_turn(two_litellm, 32, THIRD) == [200] * 30 + [429] * 2


def test_a_litellm_that_is_killed_forgets_nothing(
    two_litellm: list[Gateway], programs: ExitStack
) -> None:
    """A killed program writes nothing before it ends."""
    session_id, (_, killed) = new_session_id(), two_litellm
    assert ask_in_turn([killed], 3, FIRST, session_id, "word " * 10) == [200] * 3
    assert killed.process is not None
    killed.process.kill()
    killed.process.wait()
    programs.enter_context(started("litellm", killed.place))
    assert ask_in_turn(two_litellm, 2, FIRST, session_id) == [403] * 2
    assert ask_in_turn(two_litellm, 2, FIRST) == [200] * 2


def test_without_redis_no_call_reaches_a_provider(
    two_litellm: list[Gateway], redis: Redis, providers: Providers
) -> None:
    """The limits are unknown then. When Redis is back, it has forgotten nothing."""
    session_id = new_session_id()
    assert ask_in_turn(two_litellm, 4, SECOND, session_id) == [200] * 4
    redis.stop()
    assert ask_in_turn(two_litellm, 2, SECOND, session_id) == [503] * 2
    assert len(providers[OPENAI_HOST].log) == 4
    redis.start()
    assert ask_in_turn(two_litellm, 3, SECOND, session_id) == [200, 403, 403]


def test_a_call_that_ends_without_redis_is_not_charged_but_its_cost_is_in_the_audit(
    two_litellm: list[Gateway], redis: Redis, providers: Providers
) -> None:
    session_id, (litellm, _) = new_session_id(), two_litellm

    def answer(request: Request) -> Response:
        redis.stop()
        return default_answer(request) or Response()

    providers[OPENAI_HOST].expect_request(CHAT).respond_with_handler(answer)
    before = len(litellm.audit())
    assert ask(litellm, session_id, FIRST)[0] == 200
    (line,) = litellm.audit(before + 1)[before:]
    assert line["cost_usd"] == pytest.approx(price_of(2))
    redis.start()
    spent = redis.ask(f"GET {{session_budget:{fingerprint_of(FIRST)}.{session_id}}}:spend")
    assert spent == b"$-1"  # none
