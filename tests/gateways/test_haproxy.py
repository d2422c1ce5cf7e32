"""Tests of HAProxy's recipe alone: its tables, the tokens of a session, and several instances."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import requests
import test_contract as contract
from calling import (
    CALLS_AT_ONCE,
    CHAT,
    ROOT_HEADER,
    TIMEOUT,
    Start,
    agent,
    agent_headers,
    answer_to,
    call,
    fingerprint_of,
    raw_call,
    statuses,
    wait_until,
)
from programs import (
    CLIENT_KEY,
    HERE,
    OTHER_KEYS,
    PATH,
    Edits,
    Gateway,
    free_port,
    listens,
    started,
)
from provider import Providers
from werkzeug import Request, Response

from cagent_session import SESSION_ID_HEADER, new_session_id

TOKENS_EACH = 6  # of the providers' default answer
TWO_CALLS = {"table_http_req_cnt(sessions) ge 1000": "table_http_req_cnt(sessions) ge 2"}
TOKENS_OF_TWO_CALLS = {
    "table_gpt(0,tokens) ge 10000000": f"table_gpt(0,tokens) ge {2 * TOKENS_EACH}"
}
MOST = 2**32 - 1  # the largest number in HAProxy's table
README = (HERE / "haproxy" / "README.rst").read_text(encoding="utf-8")


def ask(gateway: Gateway, command: str) -> str:
    """Send a command to HAProxy's socket, as the README does with socat. Return the answer."""
    with socket.socket(socket.AF_UNIX) as admin:
        admin.settimeout(10)
        admin.connect(gateway.place.file("haproxy.sock"))
        admin.sendall(f"{command}\n".encode())
        return b"".join(iter(lambda: admin.recv(65536), b"")).decode()


def bucket(session_id: str, key: str = CLIENT_KEY) -> str:
    """Return the key of a session in the tables."""
    return f"{fingerprint_of(key)}.{session_id}"


def table(gateway: Gateway, name: str, column: str) -> dict[str, int]:
    entries = re.findall(rf"key=(\S+) .*{column}=(\d+)", ask(gateway, f"show table {name}"))
    return {session: int(number) for session, number in entries}


def calls(gateway: Gateway) -> dict[str, int]:
    return table(gateway, "sessions", "http_req_cnt")


def tokens(gateway: Gateway) -> dict[str, int]:
    return table(gateway, "tokens", "gpt0")


def wait_for_tokens(wanted: dict[str, int], *gateways: Gateway) -> None:
    """Wait until the tables of all *gateways* have just these tokens."""
    wait_until(lambda: all(tokens(each) == wanted for each in gateways))


def test_the_table_has_the_calls_of_each_key_and_session(start: Start) -> None:
    gateway, one, other = start("haproxy"), new_session_id(), "x" * 63
    statuses(gateway, one, 25)
    statuses(gateway, one, 4, OTHER_KEYS[0])
    for last in "ab":  # the longest IDs
        statuses(gateway, other + last, 3)
    audit = gateway.audit(35)
    served = [line for line in audit if line["status"] == 200 and line["session"] == one]
    assert calls(gateway) == {
        bucket(one): sum(line["key"] == fingerprint_of(CLIENT_KEY) for line in served),
        bucket(one, OTHER_KEYS[0]): 4,
        bucket(other + "a"): 3,
        bucket(other + "b"): 3,
    }
    assert len(served) >= CALLS_AT_ONCE + 4


def counted_call(gateway: Gateway, session_id: str, key: str = CLIENT_KEY) -> int:
    """Make a call, and wait until its tokens are in the table. Return its status."""
    session = bucket(session_id, key)
    before = tokens(gateway).get(session, 0)
    (status,) = statuses(gateway, session_id, 1, key)
    spent = TOKENS_EACH if status == 200 else 0
    wait_until(lambda: tokens(gateway).get(session, 0) == before + spent)
    return status


def test_a_session_that_has_used_up_its_tokens_is_refused_until_it_is_cleared(start: Start) -> None:
    gateway = start("haproxy", TOKENS_OF_TWO_CALLS)
    one, other = new_session_id(), new_session_id()
    assert [counted_call(gateway, one) for _ in range(4)] == [200, 200, 403, 403]
    assert [counted_call(gateway, one, OTHER_KEYS[0]) for _ in range(3)] == [200, 200, 403]
    assert [counted_call(gateway, other) for _ in range(2)] == [200, 200]
    session = bucket(one)
    ask(gateway, f"clear table sessions key {session}; clear table tokens key {session}")
    assert session not in {*calls(gateway), *tokens(gateway)}
    assert [counted_call(gateway, one) for _ in range(3)] == [200, 200, 403]
    assert statuses(gateway, one, 1, OTHER_KEYS[0]) == statuses(gateway, other, 1) == [403]


def test_a_new_sub_session_for_each_call_does_not_avoid_the_budget_of_tokens(start: Start) -> None:
    gateway, root = start("haproxy", TOKENS_OF_TWO_CALLS), new_session_id()
    with agent(gateway) as http:
        for number in (1, 2):
            assert contract.delegate(http, gateway, root).status_code == 200
            wait_for_tokens({bucket(root): number * TOKENS_EACH}, gateway)
        assert contract.delegate(http, gateway, root).status_code == 403


def test_without_the_lines_for_tokens_it_still_counts_calls(start: Start) -> None:
    recipe = (HERE / "haproxy" / "haproxy.cfg").read_text(encoding="utf-8")
    # The README's sed deletes the same lines.
    without = {line: "" for line in recipe.splitlines() if "tokens.lua" in line}
    gateway, one = start("haproxy", {**without, **TWO_CALLS}), new_session_id()
    assert statuses(gateway, one, 3) == [200, 200, 403]
    assert {line["prompt_tokens"] for line in gateway.audit(3)} == {0}


def test_the_tokens_of_calls_that_end_together_add_up(start: Start, providers: Providers) -> None:
    gateway, session_id = start("haproxy"), new_session_id()
    together = threading.Barrier(CALLS_AT_ONCE)

    def answer(request: Request) -> Response:
        together.wait(TIMEOUT)
        return providers["api.openai.com"].respond_nohandler(request)

    providers["api.openai.com"].expect_request(CHAT).respond_with_handler(answer)
    with ThreadPoolExecutor(CALLS_AT_ONCE) as pool:
        answered = pool.map(lambda _: statuses(gateway, session_id, 1), range(CALLS_AT_ONCE))
        assert list(answered) == [[200]] * CALLS_AT_ONCE
    wait_for_tokens({bucket(session_id): CALLS_AT_ONCE * TOKENS_EACH}, gateway)


def test_tokens_are_kept_while_their_session_makes_calls_without_tokens(start: Start) -> None:
    gateway, session_id = start("haproxy"), new_session_id()

    def kept_for() -> int:
        return table(gateway, "tokens", "exp").get(bucket(session_id), 0)

    statuses(gateway, session_id, 1)
    wait_until(lambda: 0 < kept_for() < 24 * 60 * 60 * 1000 - 1000)
    before, headers = kept_for(), {**agent_headers(), SESSION_ID_HEADER: session_id}
    assert answer_to(gateway, headers.items(), "/v1/models", method="GET")[0] == 200
    wait_until(lambda: kept_for() > before)
    assert tokens(gateway) == {bucket(session_id): TOKENS_EACH}


def test_a_full_table_forgets_the_session_that_has_called_least_recently(start: Start) -> None:
    small = "size 2 expire 24h store gpt(1) peers gateways # tokens.lua"
    gateway = start("haproxy", {small.replace("size 2", "size 1m"): small})
    session_ids = [new_session_id() for _ in range(3)]
    for number, session_id in enumerate(session_ids):
        statuses(gateway, session_id, 1)
        latest = session_ids[max(number - 1, 0) : number + 1]
        wait_for_tokens({bucket(each): TOKENS_EACH for each in latest}, gateway)


@pytest.mark.parametrize("split", [1, 30, 57])
def test_a_number_of_tokens_that_is_too_large_for_the_table_is_the_largest(
    split: int, start: Start
) -> None:
    """A number of 32 bits would begin again at 0. Lua's message may come in two parts."""
    gateway, session = start("haproxy"), bucket(new_session_id())
    statuses(gateway, new_session_id(), 1)  # then all sockets are there
    for more in (MOST - 1, 1000):
        message = f"{session}={more}".encode()
        message = bytes([len(message)]) + message
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(TIMEOUT)
            client.connect(gateway.place.file("tokens.sock"))
            client.sendall(message[:split])
            wait_until(lambda: re.search(rf"fe=tokens .*,i={split},", ask(gateway, "show sess")))
            client.sendall(message[split:])
            assert client.recv(1) == b""
    assert tokens(gateway)[session] == MOST


USAGE = {"prompt_tokens": 2, "completion_tokens": 4}
FOUND = (2, 4)
HOSTILE_ANSWERS: dict[str, tuple[str, tuple[int, int]]] = {
    "a text that looks like tokens": (
        json.dumps({"usage": USAGE, "text": json.dumps({"usage": {"prompt_tokens": 900}})}),
        FOUND,
    ),
    "a tool's arguments": (
        json.dumps(
            {"usage": USAGE, "content": [{"input": {"usage": {"prompt_tokens": 900}}}]},
        ),
        FOUND,
    ),
    "numbers with 30 digits": (
        json.dumps({"usage": {"prompt_tokens": 10**29, "completion_tokens": 4}}),
        (0, 4),
    ),
    "negative numbers": (
        json.dumps({"usage": {"prompt_tokens": -2, "completion_tokens": 4}}),
        (0, 4),
    ),
    "no numbers": (
        json.dumps({"usage": {"prompt_tokens": [[2]], "completion_tokens": "4"}}),
        (0, 0),
    ),
    "iterations that are no list": (
        json.dumps({"usage": {**USAGE, "iterations": {"one": {"prompt_tokens": 900}}}}),
        FOUND,
    ),
    "lists in lists": ("[" * 300_000 + "]" * 300_000 + json.dumps({"usage": USAGE}), FOUND),
    "objects in objects": ('{"usage":' * 100_000 + "0" + "}" * 100_000, (0, 0)),
    "brackets that were never opened": ("}]" * 1000 + json.dumps({"usage": USAGE}), FOUND),
    "backslashes": (json.dumps({"text": '\\"' * 499_999, "usage": USAGE}), FOUND),
    "spaces": (json.dumps({"usage": USAGE}).replace(" ", " " * 500_000), FOUND),
    "a name of a megabyte": (json.dumps({"u" * 1_000_000: 1, "usage": USAGE}), FOUND),
    "no JSON": ("usage: prompt_tokens" * 10_000, (0, 0)),
}


@pytest.mark.parametrize(("text", "found"), HOSTILE_ANSWERS.values(), ids=HOSTILE_ANSWERS)
def test_tokens_are_read_where_they_are_stated_whatever_the_answer_has(
    text: str, found: tuple[int, int], start: Start, providers: Providers
) -> None:
    gateway, session_id = start("haproxy"), new_session_id()
    providers["api.openai.com"].expect_request(CHAT).respond_with_data(
        text, mimetype="application/json"
    )
    with agent(gateway) as http:
        assert call(http, gateway, session_id).text == text
    (line,) = gateway.audit(1)
    assert (line["prompt_tokens"], line["completion_tokens"]) == found
    wait_for_tokens({bucket(session_id): sum(found)}, gateway)


@pytest.mark.parametrize("size", [1, 7])
def test_tokens_are_read_from_an_answer_in_pieces(
    size: int, start: Start, providers: Providers
) -> None:
    """Each event has several lines of data, and lines end with CR LF. The first event is broken."""
    usage = {"output_tokens": 40, "cache_read_input_tokens": 300}
    events = [
        {"text": 'a "\\ \u20ac', "message": {"usage": {"input_tokens": 20, "output_tokens": 1}}},
        {"text": 'a "', "usage": usage},
    ]
    text = ': {\r\n\r\ndata: {"broken": ["\r\n\r\n'
    for event in events:
        lines = json.dumps(event, indent=1, ensure_ascii=False).splitlines()
        text += "".join(f"data: {line}\r\n" for line in lines) + "\r\n"
    body, next_piece = text.encode(), threading.Semaphore(1)

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(body), size):
            assert next_piece.acquire(timeout=TIMEOUT)
            yield body[at : at + size]

    providers["api.openai.com"].expect_request(CHAT).respond_with_handler(
        lambda _: Response(pieces(), mimetype="text/event-stream")
    )
    gateway, got = start("haproxy"), b""
    with agent(gateway) as http:
        for piece in call(http, gateway, new_session_id(), stream=True).iter_content(None):
            got += piece
            next_piece.release()
    assert got == body
    (line,) = gateway.audit(1)
    assert line["prompt_tokens"] == 320
    assert (line["completion_tokens"], line["cached_tokens"]) == (40, 300)


def test_a_stored_answer_costs_nothing(start: Start, providers: Providers) -> None:
    gateway, session_id = start("haproxy"), new_session_id()
    path = f"{CHAT}/chatcmpl-1"
    providers["api.openai.com"].expect_request(path).respond_with_json({"usage": USAGE})
    headers = {**agent_headers(), SESSION_ID_HEADER: session_id}
    for path_of_call in (path, CHAT):
        assert answer_to(gateway, headers.items(), path_of_call)[0] == 200
    lines = gateway.audit(2)
    assert [line["completion_tokens"] for line in lines] == [0, 4]
    wait_for_tokens({bucket(session_id): TOKENS_EACH}, gateway)


def test_a_client_that_hangs_up_pays_for_the_tokens_so_far(
    start: Start, providers: Providers
) -> None:
    gateway, session_id, gone = start("haproxy"), new_session_id(), threading.Event()

    def answer(_: Request) -> Response:
        def pieces() -> Iterator[bytes]:
            yield b'data: {"message": {"usage": {"input_tokens": 20, "output_tokens": 1}}}\n\n'
            gone.wait(TIMEOUT)

        return Response(pieces(), mimetype="text/event-stream")

    providers["api.openai.com"].expect_request(CHAT).respond_with_handler(answer)
    with socket.create_connection(("127.0.0.1", gateway.place.port), TIMEOUT) as client:
        client.sendall(raw_call(gateway, session_id, "HTTP/1.1"))
        got = b""
        while b"output_tokens" not in got:
            got += client.recv(65536)
    wait_for_tokens({bucket(session_id): 21}, gateway)
    gone.set()


@pytest.mark.parametrize("target", [";key={}", "%3Fkey={}", "&key={}", "%23{}", "\\{}", "={}"])
def test_the_path_ends_where_a_key_may_stand(target: str, start: Start) -> None:
    gateway, key = start("haproxy"), "sk-secret-0123456789"
    headers = {**agent_headers(), SESSION_ID_HEADER: new_session_id()}
    answer_to(gateway, headers.items(), CHAT + target.format(key))
    (line,) = gateway.audit(1)
    assert line["path"] == CHAT


def test_a_tunnel_is_refused(start: Start, providers: Providers) -> None:
    gateway = start("haproxy")
    request, host = raw_call(gateway, new_session_id(), "HTTP/1.1"), b"api.openai.com:443"
    request = request.replace(f"POST {CHAT}".encode(), b"CONNECT " + host)
    with socket.create_connection(("127.0.0.1", gateway.place.port), TIMEOUT) as client:
        client.sendall(request.replace(b"Host: gateway", b"Host: " + host))
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert b" 405 " in answer.partition(b"\r\n")[0]
    assert b'"code": "method_not_allowed"' in answer
    assert not any(contract.arrived(providers).values())


def test_the_provider_gets_no_header_that_opens_a_tunnel_or_is_ours(start: Start) -> None:
    """Servers such as the provider's stand-in ignore names with underscores. Others take them."""
    with socket.create_server(("127.0.0.1", 0)) as provider:
        port = provider.getsockname()[1]
        backend = f"default_backend raw\nbackend raw\nserver raw 127.0.0.1:{port} no-ssl"
        gateway = start("haproxy", {"use_backend %[var(txn.provider)]": backend})
        lines = [
            "GET /v1/models HTTP/1.1",
            *(f"{name}: {value}" for name, value in agent_headers().items()),
            "Host: gateway",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "X_Cagent_Session_Id: another-session",
            "X-Cagent_Root_Session: another-session",
        ]
        with socket.create_connection(("127.0.0.1", gateway.place.port), TIMEOUT) as client:
            client.sendall("\r\n".join([*lines, "", ""]).encode())
            provider.settimeout(TIMEOUT)
            connection, _ = provider.accept()
            with connection:
                request = b""
                while b"\r\n\r\n" not in request:
                    request += connection.recv(65536)
    assert b"authorization" in request.lower()
    assert not re.findall(rb"(?im)^(?:upgrade|x.cagent.*):", request)


def get_models(gateway: Gateway) -> int:
    headers = {**agent_headers(), SESSION_ID_HEADER: new_session_id()}
    return requests.get(f"{gateway.url}/v1/models", headers=headers, timeout=8).status_code


@pytest.mark.parametrize("half", ["half a header", "half a body"])
def test_an_address_that_sends_halves_of_calls_does_not_lock_others_out(
    half: str, start: Start
) -> None:
    gateway = start("haproxy", {"maxconn 4000": "maxconn 40", "conn_cur gt 400": "conn_cur gt 20"})
    with ExitStack() as stack:
        for _ in range(60):
            client = socket.create_connection(
                ("127.0.0.1", gateway.place.port), TIMEOUT, source_address=("127.0.0.2", 0)
            )
            request = raw_call(gateway, new_session_id(), "HTTP/1.1")
            with suppress(OSError):  # HAProxy may have closed it
                stack.enter_context(client).sendall(
                    request[: 20 if half == "half a header" else -5]
                )
        assert get_models(gateway) == 200


BEHIND_A_BALANCER: dict[str, Edits] = {
    "accept-proxy": {"proto h1": "proto h1 accept-proxy", "conn_cur gt 400": "conn_cur gt 2"},
    "set-src": {
        "    tcp-request session track-sc2 src table connections\n": "",
        "    tcp-request session reject if { sc2_conn_cur gt 400 }\n": "",
        "    option dontlognull\n": (
            "    option dontlognull\n    http-request set-src req.hdr(X-Forwarded-For,-1)\n"
        ),
    },
}


@pytest.mark.parametrize("way", BEHIND_A_BALANCER)
def test_behind_a_balancer_each_client_is_limited_by_its_own_address(
    way: str, start: Start
) -> None:
    """The README says how, in both ways."""
    gateway = start("haproxy", BEHIND_A_BALANCER[way])
    with ExitStack() as stack:

        def connect(address: str) -> socket.socket:
            client = socket.create_connection(("127.0.0.1", gateway.place.port), TIMEOUT)
            if way == "accept-proxy":
                client.sendall(f"PROXY TCP4 {address} 127.0.0.1 4000 8080\r\n".encode())
            return stack.enter_context(client)

        for _ in range(5):
            connect("203.0.113.7")
        client, request = connect("203.0.113.8"), raw_call(gateway, new_session_id(), "HTTP/1.1")
        header = b"X-Forwarded-For: 203.0.113.7, 203.0.113.8"
        client.sendall(request.replace(b"\r\n\r\n", b"\r\n" + header + b"\r\n\r\n"))
        assert b" 200 " in client.recv(65536).partition(b"\r\n")[0]
        assert [line["client"] for line in gateway.audit(1)] == ["203.0.113.8"]
        assert "203.0.113.8" in ask(gateway, "show table clients")


def test_the_limits_in_the_readme_are_those_of_the_recipe(start: Start) -> None:
    recipe = (HERE / "haproxy" / "haproxy.cfg").read_text(encoding="utf-8")
    section = README.partition("Use it\n")[2].partition("\n3. ")[0]
    rows = re.findall(r"(?m)^ +\* - (.+)\n +- (.+)\n +- (.+)$", section)[1:]
    assert len(rows) == 5
    for _, _, texts in rows:
        assert all(text in recipe for text in re.findall(r"``(.+?)``", texts))
    old = re.findall(r"``(.+?)``", rows[0][2])
    (more,) = re.findall(r"For (30) calls\s+at once and then two a\s+second", section)
    new = re.findall(r"``(.+?)``", section.partition("then two a")[2])[:3]
    gateway, began = start("haproxy", dict(zip(old, new, strict=True))), time.monotonic()
    served = statuses(gateway, new_session_id(), 60).count(200)
    assert int(more) <= served <= int(more) + 2 * (time.monotonic() - began) + 1


def test_a_restart_keeps_the_audit(start: Start) -> None:
    (line,) = re.findall(r"(?m)^ +(haproxy -f .*audit\.log)$", README)
    gateway = start("haproxy")
    gateway.process.terminate()
    gateway.process.wait(TIMEOUT)
    for _ in range(2):
        with subprocess.Popen(
            ["bash", "-c", line],
            cwd=gateway.place.folder,
            env={"PATH": PATH},
            start_new_session=True,
        ) as shell:
            try:
                wait_until(lambda: listens(gateway.place.port))
                assert statuses(gateway, new_session_id(), 3) == [200] * 3
                os.kill(int(worker_of(gateway)), signal.SIGTERM)
                shell.wait(TIMEOUT)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(shell.pid, signal.SIGTERM)
    lines = Path(gateway.place.file("audit.log")).read_text(encoding="utf-8").splitlines()
    assert [json.loads(each)["status"] for each in lines] == [200] * 6


def test_where_sessions_are_required_a_malformed_root_is_refused(start: Start) -> None:
    gateway, session_id = start("haproxy", contract.REFUSALS["haproxy"]), new_session_id()
    headers = {**agent_headers(), SESSION_ID_HEADER: session_id}
    for root, status in (("short", 400), ("", 200), (session_id, 200)):
        assert answer_to(gateway, {**headers, ROOT_HEADER: root}.items())[0] == status
    assert [line["session"] for line in gateway.audit(3)] == [session_id] * 3


def worker_of(gateway: Gateway) -> str:
    """Return the ID of the process that serves calls."""
    (process,) = re.findall(r"(?m)^Pid: (.+)", ask(gateway, "show info"))
    return str(process)


def has_all_counts(gateway: Gateway) -> bool:
    """Return whether it has got, or no longer expects, what other processes know.

    The lowest two bits of the flags say so. Before that, a process teaches no others.
    """
    (flags,) = re.findall(r"id=gateways .*?flags=(\w+)", ask(gateway, "show peers"))
    return int(flags, 16) & 3 == 3


def test_a_reload_keeps_calls_and_tokens(start: Start, providers: Providers) -> None:
    """Even the tokens of a call that was under way."""
    service = {"    localpeer one\n": "    localpeer one\n    master-worker\n"}
    gateway, session_id = start("haproxy", service), new_session_id()
    asked, reloaded = threading.Event(), threading.Event()

    def answer(request: Request) -> Response:
        asked.set()
        reloaded.wait(TIMEOUT)
        return providers["api.openai.com"].respond_nohandler(request)

    statuses(gateway, session_id, 2)
    wait_until(lambda: has_all_counts(gateway))
    providers["api.openai.com"].expect_request(CHAT).respond_with_handler(answer)
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(statuses, gateway, session_id, 1)
        assert asked.wait(TIMEOUT)
        old = worker_of(gateway)
        gateway.process.send_signal(signal.SIGUSR2)
        wait_until(lambda: worker_of(gateway) != old and has_all_counts(gateway))
        try:
            assert tokens(gateway) == {bucket(session_id): 2 * TOKENS_EACH}
        finally:
            reloaded.set()
        assert under_way.result() == [200]
        wait_for_tokens({bucket(session_id): 3 * TOKENS_EACH}, gateway)
        assert calls(gateway) == {bucket(session_id): 3}


def edits_of_instance(name: str, ports: tuple[int, int]) -> Edits:
    """Return the edits that make an instance *name* one of two, as the README says."""
    section = README.partition("More than one instance")[2]
    peers, lines = re.findall(r"::\n\n((?:    .+\n)+)", section)[:2]
    for number, port in enumerate(ports, 1):
        peers = peers.replace(f"10.0.0.{number}:10000", f"127.0.0.1:{port}")
    load, wait = lines.splitlines(keepends=True)
    return {
        "    bind unix@peers.sock mode 600\n    server one\n": peers,
        "    localpeer one\n": f"    localpeer {name}\n{load}",
        "    option dontlognull\n": f"    option dontlognull\n{wait}",
    }


def start_two(start: Start, edits: Edits) -> list[Gateway]:
    ports, names = (free_port(), free_port()), ("one", "two")
    return [start("haproxy", {**edits_of_instance(name, ports), **edits}) for name in names]


def test_two_instances_share_limits_and_budgets(start: Start) -> None:
    edits = {
        "sessions) ge 1000": "sessions) ge 8",
        "tokens) ge 10000000": f"tokens) ge {5 * TOKENS_EACH}",
    }
    both = start_two(start, edits)
    for each in both:
        assert "WARNING" not in Path(each.place.file("stderr.log")).read_text(encoding="utf-8")

    def answers(session_id: str, number: int, method: str = "POST") -> list[int]:
        """Make calls at both instances in turn. Each call waits until both know the last one."""
        headers, answered = {**agent_headers(), SESSION_ID_HEADER: session_id}, list[int]()
        path = {"POST": CHAT, "GET": "/v1/models"}[method]
        for gateway in [*both] * (number // 2):
            answered.append(answer_to(gateway, headers.items(), path, method=method)[0])
            wait_until(lambda: calls(both[0]) == calls(both[1]))
            wait_until(lambda: tokens(both[0]) == tokens(both[1]))
        return answered

    one, other = new_session_id(), new_session_id()
    assert answers(one, 8) == [200] * 5 + [403] * 3
    assert answers(other, 10, "GET") == [200] * 8 + [403] * 2
    assert tokens(both[0]) == {bucket(one): 5 * TOKENS_EACH, bucket(other): 0}
    assert calls(both[0]) == {bucket(one): 5, bucket(other): 8}
    began, answered = time.monotonic(), answers("malformed ID", CALLS_AT_ONCE + 10)
    assert answered[:CALLS_AT_ONCE] == [200] * CALLS_AT_ONCE
    assert answered.count(200) <= CALLS_AT_ONCE + time.monotonic() - began + 1


def test_calls_wait_if_it_is_not_known_whether_the_counts_are_there(start: Start) -> None:
    """The README's line has a wrong path. So calls wait for as long as it may take.

    The time runs from HAProxy's start. On a slow machine, some of it is over before the first call.
    """
    edits = edits_of_instance("one", (free_port(), free_port()))
    wrong = {"await_peers unix@haproxy": "await_peers unix@nowhere", "LONGEST = 10": "LONGEST = 6"}
    gateway = start("haproxy", {**edits, **wrong})
    assert statuses(gateway, new_session_id(), 2) == [200, 200]
    first, second = (line["duration_ms"] for line in gateway.audit(2))
    assert first > 1000 > second


def test_a_call_to_an_instance_that_has_just_started_waits_for_the_counts(start: Start) -> None:
    """The other instance is stopped for a while, so the counts come after the call."""
    one, two = start_two(start, {"sessions) ge 1000": "sessions) ge 3"})
    session_id = new_session_id()
    assert statuses(two, session_id, 3) == [200] * 3
    wait_until(lambda: calls(one) == {bucket(session_id): 3})
    two.process.kill()
    two.process.wait(TIMEOUT)
    with ThreadPoolExecutor(1) as pool:
        one.process.send_signal(signal.SIGSTOP)
        try:
            with started("haproxy", two.place):
                answered = pool.submit(statuses, two, session_id, 1)
                wait_until(lambda: answered.done() or "fe=gateway" in ask(two, "show sess"))
                one.process.send_signal(signal.SIGCONT)
                assert answered.result(TIMEOUT) == [403]
        finally:
            one.process.send_signal(signal.SIGCONT)


def test_an_instance_that_was_killed_forgets_nothing(start: Start) -> None:
    """Its first calls come before it has got the counts back."""
    (one, two), session_id = start_two(start, {}), new_session_id()
    assert statuses(two, session_id, 3) == [200] * 3
    wait_for_tokens({bucket(session_id): 3 * TOKENS_EACH}, one)
    two.process.kill()
    two.process.wait(TIMEOUT)
    assert statuses(one, session_id, 2) == [200] * 2

    def first_answers() -> list[int]:
        while True:
            with suppress(requests.ConnectionError):
                return statuses(two, session_id, 3)

    with ThreadPoolExecutor(1) as pool:
        answered = pool.submit(first_answers)
        with started("haproxy", two.place):
            assert answered.result(TIMEOUT) == [200] * 3
            wait_for_tokens({bucket(session_id): 8 * TOKENS_EACH}, one, two)
            assert calls(one) == calls(two) == {bucket(session_id): 8}
