"""Tests of nginx's recipe alone: its refusals, its log, and what its README suggests."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path

import programs
import pytest
import requests
import test_contract as contract
from calling import (
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
    fingerprint_of,
    must_be_installed,
    raw_call,
    status_for,
    statuses,
    wait_until,
)
from programs import OTHER_KEYS, PROGRAMS, Gateway, Place, executable, free_port, listens
from provider import Providers
from test_contract import FORTY_FOR_A_CLIENT, KEY, REFUSALS, delegate
from werkzeug import Request, Response

from cagent_session import SESSION_ID_HEADER, gateway_headers, new_session_id

RECIPE = programs.HERE / "nginx" / "nginx.conf"
README = (programs.HERE / "nginx" / "README.rst").read_text(encoding="utf-8")
# Request targets with a key in a place where no key belongs. Some of them are not valid.
TARGETS = [
    *(f"{CHAT}{separator}key={KEY}" for separator in "?#;&\\=,+$|^!'\"*(<{@~:\t\x7f\0\xff"),
    *(f"{CHAT}{escaped}key={KEY}" for escaped in ("%3F", "%23", "%3b", "%00", "%", "/../?", "\\?")),
    *(f"http://{host}/v1?key={KEY}" for host in ("h", "h:80", f"me:{KEY}@h", f"{KEY}@h", KEY)),
    *(f"http://h{separator}key={KEY}" for separator in "?#;"),
    *(f"{start}key={KEY}" for start in ("", "?", "#", "*?", "/ ", "/ HTTP/1.1 ", "/../../?")),
    f"/{'x' * 40_000}?key={KEY}",
]


def answered(gateway: Gateway, forward: str, session_id: str) -> list[int]:
    """Make three times as many calls as are allowed. Return the status of each."""
    headers = {**agent_headers(forward), SESSION_ID_HEADER: session_id}
    return [answer_to(gateway, headers.items())[0] for _ in range(3 * CALLS_AT_ONCE)]


def test_calls_with_an_unknown_marker_are_limited_like_calls_in_no_session(start: Start) -> None:
    gateway, session_id, began = start("nginx"), new_session_id(), time.monotonic()
    refused = answered(gateway, "https://elsewhere.example/v1", session_id)
    assert refused[:CALLS_AT_ONCE] == [421] * CALLS_AT_ONCE
    assert set(refused) == {421, 429}
    assert refused.count(421) <= CALLS_AT_ONCE + time.monotonic() - began + 1
    assert 429 in statuses(gateway, None, 3)
    assert statuses(gateway, session_id, CALLS_AT_ONCE) == [200] * CALLS_AT_ONCE


def test_calls_that_are_refused_because_they_have_no_session_are_limited(start: Start) -> None:
    gateway, session_id = start("nginx", REFUSALS["nginx"]), new_session_id()
    headers = {**agent_headers(), SESSION_ID_HEADER: session_id, ROOT_HEADER: "malformed root"}
    assert answer_to(gateway, headers.items())[0] == 400
    refused = answered(gateway, OPENAI, "")
    assert refused[:CALLS_AT_ONCE] == [400] * CALLS_AT_ONCE
    assert set(refused) == {400, 429}
    assert set(answered(gateway, OPENAI, "malformed ID")) == {400, 429}
    assert statuses(gateway, session_id, CALLS_AT_ONCE) == [200] * CALLS_AT_ONCE


@pytest.mark.parametrize("session_id", ["", "malformed ID"])
def test_a_new_key_for_each_call_does_not_avoid_the_limit_of_calls_in_no_session(
    session_id: str, start: Start
) -> None:
    gateway = start("nginx")
    calls = [
        {**agent_headers(key=new_session_id()), SESSION_ID_HEADER: session_id}
        for _ in range(3 * CALLS_AT_ONCE)
    ]
    assert 429 in [answer_to(gateway, headers.items())[0] for headers in calls]


def test_the_first_of_two_roots_counts_or_they_are_malformed(start: Start) -> None:
    gateway, session_id, root = start("nginx"), new_session_id(), new_session_id()
    ids = [(SESSION_ID_HEADER, session_id), (ROOT_HEADER, root), (ROOT_HEADER, new_session_id())]
    answer_to(gateway, [*agent_headers().items(), *ids])
    (line,) = gateway.audit(1)
    assert (line["session"], line["root"]) in [(session_id, root), (session_id, "(malformed)")]


@pytest.mark.parametrize(
    ("keys", "query"),
    [
        ([("Authorization", b"Bearer sk-\xff")], ""),
        ([("X-Api-Key", b"sk-\xe9")], ""),
        ([], "?key=sk-%ff"),
    ],
    ids=str,
)
def test_a_key_that_is_not_ascii_is_refused(
    keys: list[Header], query: str, start: Start, providers: Providers
) -> None:
    """Two such keys may have the same fingerprint in njs. They would be one session."""
    gateway = start("nginx")
    headers = [*gateway_headers(OPENAI).items(), (SESSION_ID_HEADER, new_session_id())]
    status, body = answer_to(gateway, [*headers, *keys], CHAT + query)
    assert status == 400
    assert json.loads(body)["error"]["code"] == "bad_request"
    assert [line["key"] for line in gateway.audit(1)] == ["(malformed)"]
    assert not providers["api.openai.com"].log


def test_a_key_in_the_query_has_a_name_in_small_letters(start: Start) -> None:
    gateway = start("nginx")
    headers = {**gateway_headers(OPENAI), SESSION_ID_HEADER: new_session_id()}
    for more in ({}, {"X-Api-Key": KEY}):
        assert answer_to(gateway, {**headers, **more}.items(), CHAT + "?KEY=other")[0] == 200
    assert [line["key"] for line in gateway.audit(2)] == ["", fingerprint_of(KEY)]


def test_a_body_that_is_too_long_is_refused_in_json(start: Start) -> None:
    port = start("nginx").place.port
    with closing(HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)) as connection:
        connection.putrequest("POST", CHAT)
        connection.putheader("Content-Length", str(32 * 1024 * 1024 + 1))
        connection.endheaders()
        answer = connection.getresponse()
        assert answer.status == 413
        assert json.loads(answer.read())["error"]["code"] == "body_too_large"


def test_what_nginx_itself_refuses_is_in_the_audit(start: Start, providers: Providers) -> None:
    """It meets no limit, as the README says."""
    gateway = start("nginx", FORTY_FOR_A_CLIENT["nginx"])
    valid = raw_call(gateway, new_session_id(), "HTTP/1.0")
    head, authorization = valid.split(b"\r\n\r\n")[0], b"Authorization: Bearer other\r\n\r\n"
    refused = {
        valid.replace(b"POST", b"TRACE", 1): 405,
        valid.replace(b"POST", b"CONNECT", 1): 405,
        head + b"\r\n" + authorization: 400,
        head + b"\r\nX-Long: " + b"x" * 40_000 + b"\r\n\r\n": 400,
        valid.replace(CHAT.encode(), b"/" + b"x" * 40_000, 1): 414,
        b"no HTTP\r\n\r\n": 400,
    }
    for sent in refused:
        for _ in range(CALLS_AT_ONCE):
            send(gateway, sent)
    lines = gateway.audit(CALLS_AT_ONCE * len(refused))
    counted = Counter(line["status"] for line in lines)
    assert counted == {
        status: CALLS_AT_ONCE * calls for status, calls in Counter(refused.values()).items()
    }
    assert not providers["api.openai.com"].log


def send(gateway: Gateway, sent: bytes) -> None:
    """Send these bytes. Wait until nginx closes the connection."""
    with (
        socket.create_connection(("127.0.0.1", gateway.place.port), TIMEOUT) as client,
        suppress(ConnectionError),  # nginx may not read all of a long header
    ):
        client.sendall(sent)
        while client.recv(65536):
            pass


def test_no_log_has_a_key_whatever_the_request_line_is(start: Start) -> None:
    gateway = start("nginx", {"burst=19": "burst=999"})
    for target in TARGETS:
        line = f"POST {target} HTTP/1.1\r\n".encode("latin-1")
        headers = f"X-Cagent-Forward: {OPENAI}\r\nHost: gateway\r\nContent-Length: 0\r\n"
        with socket.create_connection(("127.0.0.1", gateway.place.port), TIMEOUT) as client:
            client.sendall(line + headers.encode() + b"Connection: close\r\n\r\n")
            assert client.recv(65536)
    lines = gateway.audit(len(TARGETS))
    assert {line["path"] for line in lines} >= {CHAT, "/v1", ""}
    logs = [file for file in gateway.place.folder.rglob("*") if file.is_file()]
    assert [file.name for file in logs if KEY.encode() in file.read_bytes()] == []


def test_without_its_module_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    must_be_installed("nginx")
    without = PROGRAMS["nginx"]._replace(module=str(tmp_path / "ngx_http_js_module.so"))
    monkeypatch.setitem(PROGRAMS, "nginx", without)
    with pytest.raises(programs.NotInstalledError, match=r"js_module\.so: .*libnginx-mod-http-js"):
        executable("nginx")


@pytest.fixture
def without_njs(start: Start, tmp_path: Path) -> Gateway:
    (command,) = re.findall(r"(?m)^    (sed -i (?:.|\n)+? nginx\.conf)$", README)
    recipe = RECIPE.read_text(encoding="utf-8")
    changed = Path(shutil.copy(RECIPE, tmp_path))
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True, timeout=60)
    assert "js_" not in changed.read_text(encoding="utf-8")
    return start("nginx", {recipe: changed.read_text(encoding="utf-8")})


@pytest.mark.parametrize("length", [10_000, 30_000])
def test_without_njs_long_keys_do_not_avoid_the_limit(length: int, without_njs: Gateway) -> None:
    keys = dict.fromkeys(("Authorization", "X-Api-Key", "X-Goog-Api-Key"), "x" * length)
    headers = {**agent_headers(), SESSION_ID_HEADER: new_session_id(), **keys}.items()
    answered = [answer_to(without_njs, headers)[0] for _ in range(3 * CALLS_AT_ONCE)]
    assert set(answered) == ({200, 429} if length == 10_000 else {400})


@pytest.mark.parametrize("header", ["Authorization", "X-Api-Key", "X-Goog-Api-Key", "?key="])
def test_without_njs_it_limits_by_the_keys_themselves(header: str, without_njs: Gateway) -> None:
    gateway = without_njs
    one, sub, headers = new_session_id(), new_session_id(), agent_headers(key="")

    def calls_with(key: str, session_id: str) -> list[int]:
        ids = {SESSION_ID_HEADER: session_id, ROOT_HEADER: one}
        path, more = (f"{CHAT}{header}{key}", {}) if "?" in header else (CHAT, {header: key})
        sent = {**headers, **ids, **more}.items()
        return [answer_to(gateway, sent, path)[0] for _ in range(CALLS_AT_ONCE)]

    assert calls_with("sk-attacker", one) == [200] * CALLS_AT_ONCE
    assert 429 in calls_with("sk-attacker", sub)
    assert calls_with("sk-owner", one) == [200] * CALLS_AT_ONCE
    assert 429 in calls_with("sk-owner", sub)
    assert {line["key"] for line in gateway.audit(4 * CALLS_AT_ONCE)} == {""}


@contextmanager
def balancing(folder: Path, instances: list[Gateway]) -> Iterator[Gateway]:
    """Run the README's balancer in front of the *instances*."""
    (block,) = re.findall(r"balancer::\n\n((?: +.*\n|\n)+)", README)
    place = Place(folder, free_port(), instances[0].place.providers)
    temporary = " ".join(f'{kind}_temp_path "{place.folder}";' for kind in programs.NGINX_TEMPORARY)
    servers = " ".join(f"server 127.0.0.1:{instance.place.port};" for instance in instances)
    edits = {
        "http {": f"http {{ {temporary}",
        "/var/log/nginx/error.log": f'"{place.file("error.log")}"',
        "listen 8080": f"listen 127.0.0.1:{place.port}",
        "server 10.0.0.11:8080;": servers,
        "server 10.0.0.12:8080;": "",
    }
    (config,) = programs.edited({folder: block}, edits).values()
    (folder / "nginx.conf").write_text(config, encoding="utf-8")
    with programs.started("nginx", place) as process:
        yield Gateway(place, PROGRAMS["nginx"], process)


def start_instance(start: Start) -> Gateway:
    """Run an instance that trusts the balancer."""
    (trust,) = re.findall(r"``(set_real_ip_from .+)``", README)
    trust = trust.replace("10.0.0.7", "127.0.0.1")
    edits = {"http {": f"http {{ {trust}", "worker_processes auto;": "worker_processes 1;"}
    return start("nginx", edits)


@pytest.fixture
def instances(start: Start) -> list[Gateway]:
    return [start_instance(start) for _ in range(2)]


@pytest.fixture
def balancer(instances: list[Gateway], tmp_path: Path) -> Iterator[Gateway]:
    with balancing(tmp_path, instances) as running:
        yield running


def kill(instance: Gateway) -> None:
    """Kill the instance, and wait until it does not listen."""
    master = instance.process.pid
    workers = Path(f"/proc/{master}/task/{master}/children").read_text(encoding="utf-8").split()
    for process in (master, *map(int, workers)):
        os.kill(process, signal.SIGKILL)
    wait_until(lambda: not listens(instance.place.port))


def roots_at(instances: list[Gateway], calls: int) -> list[Counter[str]]:
    """Wait until the audits have *calls* lines in all. Return each instance's calls by root."""
    wait_until(lambda: sum(len(instance.audit()) for instance in instances) >= calls)
    return [Counter(line["root"] for line in instance.audit()) for instance in instances]


def test_a_session_and_its_sub_sessions_have_one_limit_over_all_instances(
    balancer: Gateway, instances: list[Gateway]
) -> None:
    def calls_of(root: str) -> list[int]:
        with agent(balancer) as http:
            own = [call(http, balancer, root) for _ in range(CALLS_AT_ONCE // 2)]
            sub = [delegate(http, balancer, root) for _ in range(CALLS_AT_ONCE)]
        return [answer.status_code for answer in own + sub]

    roots = [new_session_id() for _ in range(6)]
    for root in roots:
        began = time.monotonic()
        answered = calls_of(root)
        assert answered[:CALLS_AT_ONCE] == [200] * CALLS_AT_ONCE
        assert 429 in answered
        assert answered.count(200) <= CALLS_AT_ONCE + time.monotonic() - began + 1
        assert statuses(balancer, root, 1, OTHER_KEYS[0]) == [200]
    calls = CALLS_AT_ONCE // 2 + CALLS_AT_ONCE + 1
    first, second = roots_at(instances, len(roots) * calls)
    assert not first.keys() & second.keys()
    assert first + second == dict.fromkeys(roots, calls)


def test_calls_without_a_valid_session_have_one_limit_over_all_instances(
    balancer: Gateway, instances: list[Gateway]
) -> None:
    calls = 3 * CALLS_AT_ONCE
    assert 429 in statuses(balancer, None, calls)
    assert 429 in [status_for(balancer, f"malformed.{number}") for number in range(calls)]
    first, second = roots_at(instances, 2 * calls)
    assert not first.keys() & second.keys()
    assert first + second == {"(none)": calls, "(malformed)": calls}


def test_sessions_spread_and_those_of_an_instance_stay_if_another_one_is_killed(
    balancer: Gateway, instances: list[Gateway]
) -> None:
    sessions = Counter(new_session_id() for _ in range(60))

    def call_in_all() -> None:
        assert [statuses(balancer, session_id, 1) for session_id in sessions] == [[200]] * 60

    call_in_all()
    first, second = roots_at(instances, 60)
    assert min(len(first), len(second)) >= 10
    assert first + second == sessions
    kill(instances[0])
    call_in_all()
    assert roots_at(instances, 120) == [first, second + sessions]


def test_a_new_instance_gets_some_of_the_sessions_and_the_others_stay(
    start: Start, instances: list[Gateway], tmp_path_factory: pytest.TempPathFactory
) -> None:
    sessions, more = [new_session_id() for _ in range(60)], [*instances, start_instance(start)]
    for behind in (instances, more):
        with balancing(tmp_path_factory.mktemp("balancer"), behind) as balancer:
            assert [statuses(balancer, session_id, 1) for session_id in sessions] == [[200]] * 60
    *old, new = roots_at(more, 120)
    assert len(new) >= 3  # a third of them on average, but ports and IDs are random
    assert all(calls[root] == 2 for calls in old for root in calls.keys() - new.keys())


def test_a_call_to_an_instance_that_is_killed_is_not_sent_again(
    balancer: Gateway, instances: list[Gateway], providers: Providers
) -> None:
    tries, session_id = list[Request](), new_session_id()
    assert statuses(balancer, session_id, 1) == [200]
    first, _ = roots_at(instances, 1)

    def kill_it(request: Request) -> Response:
        tries.append(request)
        kill(instances[0] if first else instances[1])
        return Response()

    providers["api.openai.com"].expect_request(CHAT).respond_with_handler(kill_it)
    assert statuses(balancer, session_id, 1) == [502]
    assert len(tries) == 1
    providers["api.openai.com"].clear()
    assert statuses(balancer, session_id, 1) == [200]


def test_behind_the_balancer_a_client_has_its_own_address(
    balancer: Gateway, instances: list[Gateway]
) -> None:
    with socket.create_connection(
        ("127.0.0.1", balancer.place.port), TIMEOUT, source_address=("127.0.0.2", 0)
    ) as client:
        client.sendall(b"GET /v1/models HTTP/1.0\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n")
        assert b" 421 " in client.recv(65536)
    roots_at(instances, 1)
    assert [line["client"] for each in instances for line in each.audit()] == ["127.0.0.2"]


def test_the_balancer_passes_on_a_long_header(balancer: Gateway) -> None:
    headers = {**agent_headers(key="x" * 30_000), SESSION_ID_HEADER: new_session_id()}
    assert answer_to(balancer, headers.items())[0] == 200


def test_the_balancer_logs_no_key_and_passes_on_a_stream(
    balancer: Gateway, providers: Providers
) -> None:
    answer_to(balancer, agent_headers().items(), f"{CHAT}?key={KEY}")
    contract.test_a_stream_arrives_in_pieces(balancer, providers)
    providers["api.openai.com"].clear()
    contract.test_long_prompts_and_long_answers_are_passed_on(balancer, providers)
    opened = [file.resolve() for file in Path(f"/proc/{balancer.process.pid}/fd").iterdir()]
    logs = [file for file in opened if file.is_file()]
    assert balancer.place.folder / "error.log" in logs
    assert [file for file in logs if KEY.encode() in file.read_bytes()] == []


def test_behind_the_balancer_a_stream_that_breaks_off_does_not_look_complete(
    balancer: Gateway, instances: list[Gateway], providers: Providers
) -> None:
    seen = threading.Event()

    def answer(_: Request) -> Response:
        def pieces() -> Iterator[bytes]:
            yield contract.event({"role": "assistant", "content": "first"})
            seen.wait(TIMEOUT)
            for instance in instances:
                kill(instance)

        return Response(pieces(), mimetype="text/event-stream")

    providers["api.openai.com"].expect_request(CHAT).respond_with_handler(answer)
    with agent(balancer) as http:
        pieces = call(http, balancer, new_session_id(), stream=True).iter_content(None)
        assert b"first" in next(pieces)
        seen.set()
        with pytest.raises(requests.RequestException):
            list(pieces)
