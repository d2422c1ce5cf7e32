"""Tests of Envoy's recipe alone: its Lua, its time limits, and several Envoys behind a balancer."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import string
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
import test_contract as contract
from calling import (
    BAD_REQUEST,
    CALLS_AT_ONCE,
    CHAT,
    OPENAI,
    ROOT_HEADER,
    TIMEOUT,
    Header,
    Start,
    agent,
    agent_headers,
    answer_to,
    call,
    error_of,
    fingerprint_of,
    must_be_installed,
    question,
    statuses,
    wait_until,
)
from programs import HERE, Edits, Gateway, edited, ended, executable, free_port, listens, running
from provider import Providers
from werkzeug import Request, Response

from cagent_session import SESSION_ID_HEADER, gateway_headers, new_session_id

UNKNOWN = {"X-Cagent-Forward": "https://elsewhere.example"}
BUDGET_OF_FIVE: Edits = {"max_tokens: 1000,": "max_tokens: 5,"}


def test_the_fingerprint_is_a_sha_256_for_keys_of_any_length(start: Start) -> None:
    gateway, letters = start("envoy"), string.ascii_letters * 100
    keys = [letters[:length] for length in [*range(1, 200), 5000]]
    with requests.Session() as http:
        http.trust_env = False
        for key in keys:
            http.get(gateway.url, headers={"X-Api-Key": key}, timeout=TIMEOUT)
    assert [line["key"] for line in gateway.audit(len(keys))] == [*map(fingerprint_of, keys)]


JOINED: tuple[list[Header], str] = (
    [("Authorization", "Bearer one"), ("Authorization", "Bearer other")],
    "",
)


@pytest.mark.parametrize(
    ("key", "query"),
    [
        JOINED,
        ([("Authorization", "Bearer one, Bearer other")], ""),
        ([("X-Api-Key", "one,other")], ""),
        ([], "?key=one%2Cother"),
    ],
)
def test_a_key_has_no_comma(key: list[Header], query: str, start: Start) -> None:
    """Envoy joins two headers named Authorization."""
    gateway, session_id = start("envoy"), (SESSION_ID_HEADER, new_session_id())
    headers = [*gateway_headers(OPENAI).items(), session_id, *key]
    status, body = answer_to(gateway, headers, CHAT + query)
    assert status == 400
    assert error_of(status, body) == BAD_REQUEST
    assert gateway.audit(1)[0]["key"] == "(several)"


def test_the_path_in_the_audit_may_have_an_at_sign(start: Start) -> None:
    gateway = start("envoy")
    answer_to(gateway, agent_headers().items(), "/v1/a@b?key=c")
    assert gateway.audit(1)[0]["path"] == "/v1/a@b"


def test_an_error_tells_what_to_change(start: Start) -> None:
    gateway = start("envoy", contract.REFUSALS["envoy"])
    with agent(gateway) as http:
        message = call(http, gateway, None).json()["error"]["message"]
    assert SESSION_ID_HEADER in message
    assert ROOT_HEADER in message


def test_an_error_tells_nothing_about_the_inside(start: Start, providers: Providers) -> None:
    gateway, openai = start("envoy"), providers["api.openai.com"]
    openai.expect_request(CHAT).respond_with_handler(contract.hang_up)
    with agent(gateway) as http:
        error = call(http, gateway, new_session_id()).json()["error"]
    assert error["message"] == "no answer from the provider"


def statuses_in_all(http: requests.Session, gateway: Gateway, session_id: str) -> Counter[int]:
    """Call in a session until it has used up its budget. Return how often it got each status."""
    found = Counter[int]()

    def has_used_up() -> bool:
        found[call(http, gateway, session_id).status_code] += 1
        return found[403] > 0

    wait_until(has_used_up)
    return found


TOO_FAST: dict[str, Edits] = {
    "for a session": {"max_tokens: 20, tokens_per_fill: 1,": "max_tokens: 2, tokens_per_fill: 2,"},
    "for a client": {"max_tokens: 400, tokens_per_fill: 10,": "max_tokens: 2, tokens_per_fill: 2,"},
}


@pytest.mark.parametrize("edits", TOO_FAST.values(), ids=TOO_FAST)
def test_a_call_that_is_too_fast_costs_its_session_nothing(edits: Edits, start: Start) -> None:
    gateway = start("envoy", {**BUDGET_OF_FIVE, **edits})
    with agent(gateway) as http:
        found = statuses_in_all(http, gateway, new_session_id())
    assert found[200] == 5
    assert found[429] > 0


def test_calls_with_an_unknown_forward_are_limited(start: Start) -> None:
    """They are refused as such before they are refused because they have no session."""
    gateway = start("envoy", {**contract.FORTY_FOR_A_CLIENT["envoy"], **contract.REFUSALS["envoy"]})
    with agent(gateway) as http:
        answered = [
            call(http, gateway, None, headers=UNKNOWN).status_code for _ in range(3 * CALLS_AT_ONCE)
        ]
    assert (answered[:40], set(answered)) == ([421] * 40, {421, 429})


def test_a_call_over_the_budget_counts_for_the_sessions_limit(start: Start) -> None:
    answered = statuses(start("envoy", BUDGET_OF_FIVE), new_session_id(), 3 * CALLS_AT_ONCE)
    assert answered[:CALLS_AT_ONCE] == [200] * 5 + [403] * (CALLS_AT_ONCE - 5)
    assert 429 in answered


def test_calls_of_many_other_sessions_do_not_reset_a_sessions_budget(start: Start) -> None:
    gateway, session_id = start("envoy", BUDGET_OF_FIVE), new_session_id()
    assert statuses(gateway, session_id, 6) == [200] * 5 + [403]
    for _ in range(contract.OTHER_SESSIONS):
        statuses(gateway, new_session_id(), 1)
    assert statuses(gateway, session_id, 1) == [403]


ONE_FOR_A_CLIENT: Edits = {
    "max_tokens: 400, tokens_per_fill: 10, fill_interval: 1s": "max_tokens: 1, fill_interval: 900s"
}


def test_calls_of_many_other_clients_do_not_reset_a_clients_limit(start: Start) -> None:
    gateway = start("envoy", ONE_FOR_A_CLIENT)
    clients = [f"127.0.0.{number}" for number in range(2, 2 + contract.OTHER_SESSIONS)]
    assert [call_from(client, gateway).status for client in clients] == [200] * len(clients)
    refused = call_from(clients[0], gateway)
    assert refused.status == 429
    assert int(refused.headers["Retry-After"]) > 1


ODD = [
    b"GET /a#b HTTP/1.1\r\nHost: gateway",
    b"OPTIONS * HTTP/1.1\r\nHost: gateway",
    b"POST * HTTP/1.1\r\nHost: gateway",
    b"CONNECT gateway:80 HTTP/1.1\r\nHost: gateway",
    b"POST / HTTP/1.0",
    b"POST / HTTP/1.1",
    b"HEAD / HTTP/1.1\r\nHost: gateway\r\nAuthorization:\r\nX-Cagent-Root-Session: \xff",
    b"GET / HTTP/1.1\r\nHost: gateway\r\nUpgrade: websocket\r\nConnection: Upgrade",
]


def test_the_scripts_have_no_errors(start: Start, providers: Providers) -> None:
    gateway = start("envoy")
    for odd in ODD:
        with socket.create_connection(("127.0.0.1", gateway.place.port), TIMEOUT) as client:
            client.sendall(odd + b"\r\nContent-Length: 0\r\n\r\n")
            assert client.recv(65536)
    for answer in (Response(status=204), Response("{}"), Response(content_type="")):
        providers["api.openai.com"].expect_oneshot_request(CHAT).respond_with_response(answer)
        answer_to(gateway, agent_headers().items())
    gateway.audit(len(ODD) + 3)
    assert "script log" not in Path(gateway.place.file("stderr.log")).read_text("utf-8")


def tokens_of(gateway: Gateway, providers: Providers, answer: Response) -> tuple[Any, ...]:
    """Make a call that gets this answer. Return the tokens in the audit."""
    before = len(gateway.audit())
    providers["api.openai.com"].expect_request(CHAT).respond_with_response(answer)
    assert answer_to(gateway, agent_headers().items())[0] == 200
    line = gateway.audit(before + 1)[-1]
    return line.get("prompt_tokens"), line.get("completion_tokens")


USAGE = {"prompt_tokens": 12, "completion_tokens": 34}
OTHER = {"usage": {"prompt_tokens": 777, "completion_tokens": 777}}
NOT_COUNTED: dict[str, Any] = {
    "in a text": {"text": json.dumps(OTHER) + '\\" \\'},
    "in the arguments of a tool": {"choices": [{"arguments": OTHER}], "arguments": OTHER},
    "in a list": {"usage": [OTHER["usage"]], "message": [OTHER]},
    "with a key that only looks like it": {"us\nage": OTHER["usage"], "\\usage": OTHER["usage"]},
    "in a deep list": {"deep": json.loads("[" * 900 + json.dumps(OTHER) + "]" * 900)},
}


@pytest.mark.parametrize("hidden", NOT_COUNTED.values(), ids=NOT_COUNTED)
@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_only_the_usage_of_the_answer_itself_is_counted(
    first: bool, hidden: dict[str, Any], start: Start, providers: Providers
) -> None:
    body = {**hidden, "usage": USAGE} if first else {"usage": USAGE, **hidden}
    if "usage" in hidden:
        body = {"usage": USAGE, **{name: hidden[name] for name in hidden if name != "usage"}}
    answer = Response(json.dumps(body), mimetype="application/json")
    assert tokens_of(start("envoy"), providers, answer) == (12, 34)


@pytest.mark.parametrize("number", ["-5", "1" * 10, "1e3", "1.5", '"7"', "true", "[7]", '{"n": 7}'])
def test_what_is_no_number_of_tokens_is_not_counted(
    number: str, start: Start, providers: Providers
) -> None:
    body = f'{{"usage": {{"prompt_tokens": {number}, "completion_tokens": 34}}}}'
    answer = Response(body, mimetype="application/json")
    assert tokens_of(start("envoy"), providers, answer) == (0, 34)


def test_a_number_of_tokens_has_up_to_nine_digits(start: Start, providers: Providers) -> None:
    answer = Response(
        json.dumps({"usage": {"prompt_tokens": 999_999_999}}), mimetype="application/json"
    )
    assert tokens_of(start("envoy"), providers, answer) == (999_999_999, 0)


@pytest.mark.parametrize("long", ['"{}": 1', '"prompt_tokens": {}'], ids=["name", "number"])
def test_a_name_or_a_number_of_any_length_needs_little_memory(
    long: str, start: Start, providers: Providers
) -> None:
    gateway, usage = start("envoy"), long.format("1" * 30_000_000)
    body = f'{{"usage": {{{usage}, "completion_tokens": 34}}}}'
    before = memory_of(gateway)
    assert tokens_of(gateway, providers, Response(body, mimetype="application/json")) == (0, 34)
    assert memory_of(gateway) - before < len(body)


def memory_of(gateway: Gateway) -> int:
    """Return how many bytes of memory the gateway had at most."""
    lines = Path(f"/proc/{gateway.process.pid}/status").read_text("ascii").splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(peak) * 1024


@pytest.mark.parametrize("mimetype", ["application/json", "text/event-stream"])
def test_the_pieces_of_an_answer_may_have_any_length(
    mimetype: str, start: Start, providers: Providers
) -> None:
    """The provider sends each byte by itself."""
    document = json.dumps({"text": 'a "quoted" \\ text', "usage": USAGE})
    body = f"data: {document}\n\ndata: [DONE]\n\n" if "stream" in mimetype else document
    pieces = (body[i : i + 1].encode() for i in range(len(body)))
    assert tokens_of(start("envoy"), providers, Response(pieces, mimetype=mimetype)) == (12, 34)


def test_an_answer_may_be_long(start: Start, providers: Providers) -> None:
    body = json.dumps({"text": 'He said: "\n" ' * 1_000_000, "usage": USAGE})
    answer = Response(body, mimetype="application/json")
    assert tokens_of(start("envoy"), providers, answer) == (12, 34)


def test_the_tokens_that_a_stream_has_stated_count_if_the_client_hangs_up(
    start: Start, providers: Providers
) -> None:
    gateway = start("envoy")

    def answer(_: Request) -> Response:
        def pieces() -> Iterator[bytes]:
            yield f"data: {json.dumps({'usage': USAGE})}\n\n".encode()
            while not gateway.audit():
                time.sleep(0.01)
                yield b": wait\n\n"

        return Response(pieces(), mimetype="text/event-stream")

    providers["api.openai.com"].expect_request(CHAT).respond_with_handler(answer)
    with (
        agent(gateway) as http,
        http.post(gateway.url + CHAT, json=question(), stream=True, timeout=TIMEOUT) as response,
    ):
        assert next(response.iter_lines())
    (line,) = gateway.audit(1)
    assert (line["prompt_tokens"], line["completion_tokens"]) == (12, 34)


MOST_CONNECTIONS = 10  # fewer than 20, the limit of an address for calls without a session
FEW_CONNECTIONS: Edits = {
    "_downstream_connections: 10000": f"_downstream_connections: {MOST_CONNECTIONS}"
}
# An idle connection ends after the drain_timeout, which is 5 seconds by default.
IDLE: Edits = {"{idle_timeout: 30s}  #": "{idle_timeout: 1s}\n          drain_timeout: 0.1s  #"}
HEADERS: Edits = {"request_headers_timeout: 10s": "request_headers_timeout: 1s"}
BODY: Edits = {"request_timeout: 120s": "request_timeout: 1s"}
CALL = "".join(f"{name}: {value}\r\n" for name, value in agent_headers().items())
HALF: dict[str, tuple[str, Edits]] = {
    "nothing": ("", IDLE),
    "nothing more": ("GET / HTTP/1.1\r\nHost: gateway\r\n\r\n", IDLE),
    "half a header": ("GET / HTTP/1.1\r\nHost: gate", HEADERS),
    "half a body": (
        f"POST {CHAT} HTTP/1.1\r\nHost: gateway\r\n{CALL}Content-Length: 9\r\n\r\n{{",
        BODY,
    ),
}
half_requests = pytest.mark.parametrize(("sent", "limit"), HALF.values(), ids=HALF)


def has_ended(client: socket.socket) -> bool:
    try:
        return client.recv(65536) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def others_are_served(gateway: Gateway, sent: str, seconds: float = TIMEOUT) -> None:
    """Hold all connections of a *gateway* with half requests. Wait until it serves others."""

    def served() -> bool:
        try:
            return statuses(gateway, new_session_id(), 1) == [200]
        except requests.ConnectionError:
            return False

    address = ("127.0.0.1", gateway.place.port)
    clients = list[socket.socket]()

    def full() -> bool:
        clients[:] = (client for client in clients if not has_ended(client))
        for _ in range(MOST_CONNECTIONS - len(clients)):
            client = stack.enter_context(socket.create_connection(address, TIMEOUT))
            with suppress(ConnectionError):
                client.sendall(sent.encode())
            client.setblocking(False)
            clients.append(client)
        return not served() and not any(map(has_ended, clients))

    with ExitStack() as stack:
        # A connection that ended just before, such as that of the check whether the gateway is
        # ready, may still count. It is gone when the gateway refuses calls and holds all of ours.
        wait_until(lambda: all(full() for _ in range(3)))
        wait_until(served, seconds)


@half_requests
def test_clients_that_send_half_a_request_do_not_lock_others_out(
    sent: str, limit: Edits, start: Start
) -> None:
    others_are_served(start("envoy", {**limit, **FEW_CONNECTIONS}), sent)


@half_requests
def test_clients_of_the_balancer_that_send_half_a_request_do_not_lock_others_out(
    sent: str, limit: Edits, start: Start, tmp_path: Path
) -> None:
    with balancer([start("envoy")] * 3, tmp_path, {**limit, **FEW_CONNECTIONS}) as front:
        others_are_served(front, sent)


def test_the_time_limits_of_a_request_do_not_limit_its_answer(
    start: Start, providers: Providers
) -> None:
    short = {**IDLE, **HEADERS, **BODY}
    gateway = start("envoy", {old: new.replace(": 1s", ": 0.3s") for old, new in short.items()})
    contract.test_the_duration_includes_the_whole_answer(gateway, providers)


@contextmanager
def balancer(
    gateways: list[Gateway], folder: Path, edits: Edits | None = None
) -> Iterator[Gateway]:
    """Run an Envoy with balancer.yaml in front of the three *gateways*."""
    file, port = HERE / "envoy" / "balancer.yaml", free_port()
    ports = [port, *(gateway.place.port for gateway in gateways)]
    addresses = {
        f"port_value: {8080 + number}": f"port_value: {each}" for number, each in enumerate(ports)
    }
    text = edited({file: file.read_text("utf-8")}, {**(edits or {}), **addresses})[file]
    (folder / file.name).write_text(text, "utf-8")
    shutil.copy(HERE / "envoy" / "call.lua", folder)
    command = [executable("envoy"), "-c", file.name, "--disable-hot-restart"]
    with (
        (folder / "stderr.log").open("wb") as log,
        subprocess.Popen(command, cwd=folder, stderr=log) as process,
        ended(process),
    ):
        wait_until(lambda: process.poll() is not None or listens(port))
        assert process.poll() is None
        place = replace(gateways[0].place, folder=folder, port=port)
        yield replace(gateways[0], place=place, process=process)


def sessions_at(gateways: list[Gateway], calls: int) -> list[Counter[str]]:
    """Wait until the audits have this many *calls*. Return those of each root, at each gateway."""
    wait_until(lambda: sum(len(gateway.audit()) for gateway in gateways) >= calls)
    return [Counter(line["root"] for line in gateway.audit()) for gateway in gateways]


def test_the_balancer_ends_idle_connections_itself(start: Start, tmp_path: Path) -> None:
    """A gateway that ends one may lose the call that is just on its way."""
    gateway = start("envoy")

    def is_connected() -> bool:
        remote_address_and_state = f"0100007F:{gateway.place.port:04X} 01 "
        return remote_address_and_state in Path("/proc/net/tcp").read_text("ascii")

    short = {"idle_timeout: 20s": "idle_timeout: 1s"}
    with balancer([gateway] * 3, tmp_path, short) as front, agent(front) as http:
        assert call(http, front, new_session_id()).ok
        assert is_connected()
        wait_until(lambda: not is_connected(), 10)  # the gateway would wait for 30 seconds


def test_behind_a_balancer_each_session_stays_at_one_gateway(
    providers: Providers, tmp_path_factory: pytest.TempPathFactory
) -> None:
    must_be_installed("envoy")
    roots, limited = [new_session_id() for _ in range(30)], new_session_id()
    behind: Edits = {"xff_num_trusted_hops: 0": "xff_num_trusted_hops: 1"}

    def folder() -> Path:
        return tmp_path_factory.mktemp("envoy")

    with ExitStack() as stack:
        programs = [running("envoy", folder(), providers, behind) for _ in range(3)]
        with programs[0] as first:
            gateways = [first, *(stack.enter_context(program) for program in programs[1:])]
            front = stack.enter_context(balancer(gateways, folder()))
            http = stack.enter_context(agent(front))
            for root in roots:
                assert call(http, front, root).ok
                assert contract.delegate(http, front, root).ok
                without_root = [*agent_headers().items(), (SESSION_ID_HEADER, root)]
                assert answer_to(front, without_root)[0] == 200
                assert answer_to(front, [*without_root, (ROOT_HEADER, "")])[0] == 200
            before = sessions_at(gateways, 4 * len(roots))
            assert sum(before, Counter[str]()) == dict.fromkeys(roots, 4)
            assert [set(found.values()) for found in before] == [{4}] * 3  # all have some

            answered = [call(http, front, limited).status_code for _ in range(3 * CALLS_AT_ONCE)]
            assert answered[:CALLS_AT_ONCE] == [200] * CALLS_AT_ONCE
            assert 429 in answered
            openai, tries = providers["api.openai.com"], list[Request]()

            def fail(request: Request) -> Response:
                tries.append(request)
                return contract.hang_up(request)

            openai.expect_request(CHAT).respond_with_handler(fail)
            assert call(http, front, new_session_id()).status_code in (502, 503)
            assert len(tries) == 1  # the balancer does not send it again
            openai.clear()
            for number in range(10):
                malformed = {**agent_headers(), SESSION_ID_HEADER: f"bad {number}"}
                answer_to(front, malformed.items())
            assert call_from("127.0.0.2", front).status == 200
            made = sessions_at(gateways, 4 * len(roots) + len(answered) + 12)
            assert sorted(found["(malformed)"] for found in made) == [0, 0, 10]
            clients = {line["client"] for gateway in gateways for line in gateway.audit()}
            assert "127.0.0.2" in clients  # not the balancer's address
        assert [call(http, front, root).status_code for root in roots] == [200] * len(roots)
        calls = sum(made[1].values()) + sum(made[2].values()) + len(roots)
        after = sessions_at(gateways[1:], calls)
        for found, now in zip(before[1:], after, strict=True):
            assert [now[root] for root in found] == [5] * len(found)


def call_from(address: str, gateway: Gateway) -> http.client.HTTPResponse:
    """Make a call in no session, from another address of this machine."""
    connection = http.client.HTTPConnection(
        "127.0.0.1", gateway.place.port, timeout=TIMEOUT, source_address=(address, 0)
    )
    headers = {**agent_headers(), "Content-Type": "application/json"}
    with closing(connection):
        connection.request("POST", CHAT, json.dumps(question()), headers)
        answer = connection.getresponse()
        answer.read()
        return answer


def test_both_recipes_with_lua_have_the_same_counter() -> None:
    """Each folder has a copy, so that it can be used alone."""
    one, other = ((HERE / name / "counter.lua").read_bytes() for name in ("envoy", "haproxy"))
    assert one == other
