"""Tests of HAProxy's recipe alone: it shows its counters, and limits a session's tokens."""

from __future__ import annotations

import re
import socket

from calling import Start, statuses
from programs import HERE, Gateway

from cagent_session import new_session_id

TWO_CALLS = {"table_http_req_cnt(sessions) ge 1000": "table_http_req_cnt(sessions) ge 2"}


def ask(gateway: Gateway, command: str) -> str:
    """Send a command to HAProxy's socket, as the README does with socat. Return the answer."""
    with socket.socket(socket.AF_UNIX) as admin:
        admin.settimeout(10)
        admin.connect(gateway.place.file("haproxy.sock"))
        admin.sendall(f"{command}\n".encode())
        return b"".join(iter(lambda: admin.recv(65536), b"")).decode()


def calls_in_table(gateway: Gateway) -> dict[str, int]:
    entries = re.findall(r"key=(\S+) .*http_req_cnt=(\d+)", ask(gateway, "show table sessions"))
    return {session_id: int(calls) for session_id, calls in entries}


def test_the_table_has_the_calls_of_each_session(start: Start) -> None:
    gateway, one, other = start("haproxy"), new_session_id(), new_session_id()
    statuses(gateway, one, 25)
    statuses(gateway, other, 3)
    served = [line["session"] for line in gateway.audit(28) if line["status"] == 200]
    assert calls_in_table(gateway) == {one: served.count(one), other: 3}
    assert served.count(one) >= 20


def test_a_session_that_has_used_up_its_tokens_is_refused_until_it_is_cleared(start: Start) -> None:
    gateway = start("haproxy", {"ge 10000000": "ge 12"})  # each call uses six tokens
    one, other = new_session_id(), new_session_id()
    assert statuses(gateway, one, 4) == [200, 200, 403, 403]
    assert statuses(gateway, other, 2) == [200, 200]
    ask(gateway, f"clear table sessions key {one}")
    assert statuses(gateway, one, 3) == [200, 200, 403]
    assert statuses(gateway, other, 1) == [403]


def test_without_the_lines_for_tokens_it_still_counts_calls(start: Start) -> None:
    recipe = (HERE / "haproxy" / "haproxy.cfg").read_text(encoding="utf-8")
    # The README's sed deletes the same lines.
    without = {line: "" for line in recipe.splitlines() if "tokens.lua" in line}
    assert len(without) == 4
    gateway, one = start("haproxy", {**without, **TWO_CALLS}), new_session_id()
    assert statuses(gateway, one, 3) == [200, 200, 403]
    assert {line["prompt_tokens"] for line in gateway.audit(3)} == {0}
