"""Helpers that call a gateway as an agent or as an attacker."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import pytest
import requests
from programs import CLIENT_KEY, Edits, Gateway, NotInstalledError, executable
from provider import Providers

import cagent_session
from cagent_session import SESSION_ID_HEADER, gateway_headers, mount, session_scope

OPENAI = "https://api.openai.com/v1"
CHAT = "/v1/chat/completions"
MODEL = "gpt-4o-mini"
TIMEOUT = 30
ROOT_HEADER = "X-Cagent-Root-Session"
CALLS_AT_ONCE = 20  # the recipes' limit for one session
COUNT_TOKENS = ("haproxy", "envoy", "litellm")  # nginx doesn't read bodies


def price_of(words: int) -> float:
    """Return the price in US dollars of a prompt of *words* and its echo of two more words."""
    return words * 0.15e-6 + (words + 2) * 0.60e-6  # gpt-4o-mini


STRICT_LITELLM: Edits = {  # a session's budget: 5 calls, or the cost of 2.5 calls with 10 words
    "max_iterations: 1000": "max_iterations: 5",
    "max_budget_per_session: 5.00": f"max_budget_per_session: {2.5 * price_of(10):.10f}",
    "KEY_RPM = 600": "KEY_RPM = 60",
}

Header = tuple[str, str | bytes]


class Start(Protocol):
    """A function that starts a gateway, with edits of its recipe. The fixture stops it."""

    def __call__(
        self, name: str, edits: Edits | None = None, behind: Providers | None = None
    ) -> Gateway: ...


def must_be_installed(name: str) -> None:
    """Skip the test if the program is missing, but fail in CI."""
    try:
        executable(name)
    except NotInstalledError as error:
        if "CI" in os.environ:
            raise
        pytest.skip(str(error))


def question(text: str = "Hello, you!", **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **more}


def agent_headers(forward: str = OPENAI, key: str = CLIENT_KEY) -> dict[str, str]:
    headers = gateway_headers(forward, provider="openai", model=MODEL)
    return {**headers, "Authorization": f"Bearer {key}"}


@contextmanager
def agent(
    gateway: Gateway, missing: Any = "omit", key: str = CLIENT_KEY
) -> Iterator[requests.Session]:
    """Return a mounted requests.Session with the marker and the API key. It sends root IDs, too."""
    bound_for = cagent_session.Gateway(gateway.url, missing=missing, root_header=ROOT_HEADER)
    with mount(requests.Session(), bound_for) as session:
        session.trust_env = False
        session.headers.update(agent_headers(key=key))
        yield session


def call(
    http: requests.Session, gateway: Gateway, session_id: str | None, **more: Any
) -> requests.Response:
    """Ask a question in a session, or outside of any session."""
    with session_scope(session_id):
        return http.post(gateway.url + CHAT, json=question(), timeout=TIMEOUT, **more)


def statuses(
    gateway: Gateway, session_id: str | None, calls: int, key: str = CLIENT_KEY
) -> list[int]:
    """Make that many calls, one after the other. Return the status of each."""
    with agent(gateway, key=key) as http:
        return [call(http, gateway, session_id).status_code for _ in range(calls)]


def first_refusal(gateway: Gateway, session_id: str, most: int = 150) -> requests.Response:
    """Call in a session until a call is refused, or *most* times. Return the last answer."""
    with agent(gateway) as http:
        answer = call(http, gateway, session_id)
        while answer.ok and most > 1:
            answer, most = call(http, gateway, session_id), most - 1
        return answer


def answer_to(
    gateway: Gateway,
    headers: Iterable[Header],
    path: str = CHAT,
    body: bytes = b"",
    method: str = "POST",
) -> tuple[int, bytes]:
    """Send just these headers, even if they are malformed. Return the status and the body."""
    body = body or json.dumps(question()).encode()
    connection = http.client.HTTPConnection("127.0.0.1", gateway.place.port, timeout=TIMEOUT)
    try:
        connection.putrequest(method, path)
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(len(body)))
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def raw_call(gateway: Gateway, session_id: str, version: str) -> bytes:
    """Return the bytes of a call."""
    body = json.dumps(question()).encode()
    headers = {
        **agent_headers(),
        "Host": "gateway",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        SESSION_ID_HEADER: session_id,
    }
    lines = [
        f"POST {CHAT} {version}",
        *(f"{name}: {value}" for name, value in headers.items()),
        "",
        "",
    ]
    return "\r\n".join(lines).encode() + body


Error = tuple[int, str, str]  # the status, and the type and the code in the body
UNKNOWN_FORWARD: Error = (421, "invalid_request_error", "unknown_forward")
BAD_REQUEST: Error = (400, "invalid_request_error", "bad_request")
NO_SESSION: Error = (400, "invalid_request_error", "missing_session_id")
TOO_FAST: Error = (429, "rate_limit_error", "rate_limit_exceeded")
SPENT: Error = (403, "insufficient_quota", "session_budget_exceeded")


def error_of(status: int, body: bytes) -> Error:
    """Return what a gateway's answer says about an error."""
    error = json.loads(body).get("error", {})
    return status, error.get("type", ""), error.get("code", "")


def wait_until(condition: Callable[[], object], seconds: float = TIMEOUT) -> None:
    """Wait until *condition* is true, but not for more than *seconds*."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def fingerprint_of(key: str) -> str:
    """Return what the audits have instead of an API key."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def status_for(gateway: Gateway, *session_ids: str | bytes) -> int:
    """Send a marked call with one header for each of the session IDs. Return the status."""
    ids: list[Header] = [(SESSION_ID_HEADER, session_id) for session_id in session_ids]
    return answer_to(gateway, [*agent_headers().items(), *ids])[0]


def run_query(query: str, gateway: Gateway) -> list[str]:
    """Run a command of a guide on the gateway's audit. Return the lines of its output."""
    if shutil.which("jq") is None:
        reason = "there is no jq: apt-get install jq"
        raise RuntimeError(reason) if "CI" in os.environ else pytest.skip.Exception(reason)
    query = query.replace("audit.log", shlex.quote(str(gateway.audit_file)))
    command = ["bash", "-o", "pipefail", "-c", query]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=60
    ).stdout.splitlines()
