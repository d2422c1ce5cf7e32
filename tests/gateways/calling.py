"""How do the tests call a gateway? As an agent does, and as whoever means it ill."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import pytest
import requests
from programs import Edits, Gateway, NotInstalled, executable
from provider import Providers

from cagent_session import SESSION_ID_HEADER, gateway_headers, mount, session_scope

OPENAI = "https://api.openai.com/v1"
CHAT = "/v1/chat/completions"
MODEL = "gpt-4o-mini"
TIMEOUT = 30
CALLS_AT_ONCE = 20  # of a session, by the recipes
COUNT_TOKENS = ("haproxy", "envoy", "litellm")  # nginx doesn't read bodies

Header = tuple[str, str | bytes]


class Start(Protocol):
    """Starts a gateway, which is stopped at the end of the test."""

    def __call__(
        self, name: str, edits: Edits | None = None, behind: Providers | None = None
    ) -> Gateway: ...


def must_be_installed(name: str) -> None:
    """Fail where CI lacks the program; elsewhere, skip."""
    try:
        executable(name)
    except NotInstalled as error:
        if "CI" in os.environ:
            raise
        pytest.skip(str(error))


def question(text: str = "Hello, you!", **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **more}


def agent_headers(gateway: Gateway, forward: str = OPENAI, **more: Any) -> dict[str, str]:
    headers = gateway_headers(forward, provider="openai", model=MODEL, **more)
    return {**headers, "Authorization": f"Bearer {gateway.key}"}


@contextmanager
def agent(gateway: Gateway, missing: Any = "omit") -> Iterator[requests.Session]:
    """Give a provider's session, mounted as the README says."""
    with mount(requests.Session(), gateway.url, missing=missing) as session:
        session.trust_env = False
        session.headers.update(agent_headers(gateway))
        yield session


def call(
    http: requests.Session, gateway: Gateway, session_id: str | None, **more: Any
) -> requests.Response:
    """Ask a question in a session, or in none."""
    with session_scope(session_id):
        return http.post(gateway.url + CHAT, json=question(), timeout=TIMEOUT, **more)


def statuses(gateway: Gateway, session_id: str | None, calls: int) -> list[int]:
    """Return what each of some calls in a row is answered."""
    with agent(gateway) as http:
        return [call(http, gateway, session_id).status_code for _ in range(calls)]


def first_refusal(gateway: Gateway, session_id: str, most: int = 150) -> requests.Response:
    """Call in a session until a call is refused, *most* times at most, and return the last answer.

    LiteLLM counts by the minute, and lets 60 calls through.
    """
    with agent(gateway) as http:
        answer = call(http, gateway, session_id)
        while answer.ok and most > 1:
            answer, most = call(http, gateway, session_id), most - 1
        return answer


def answer_to(
    gateway: Gateway, headers: Iterable[Header], path: str = CHAT, body: bytes = b""
) -> tuple[int, bytes]:
    """Send just these headers, which need not be fit for the wire, and return the status and the body."""
    body = body or json.dumps(question()).encode()
    connection = http.client.HTTPConnection("127.0.0.1", gateway.place.port, timeout=TIMEOUT)
    try:
        connection.putrequest("POST", path)
        for name, value in [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            *headers,
        ]:
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def raw_call(gateway: Gateway, session_id: str, version: str) -> bytes:
    """Return a question in a session as it is on the wire."""
    body = json.dumps(question()).encode()
    said = {"Host": "gateway", "Content-Type": "application/json", "Content-Length": str(len(body))}
    headers = {**agent_headers(gateway), **said, SESSION_ID_HEADER: session_id}
    lines = [
        f"POST {CHAT} {version}",
        *(f"{name}: {value}" for name, value in headers.items()),
        "",
        "",
    ]
    return "\r\n".join(lines).encode() + body


def status_for(gateway: Gateway, *session_ids: str | bytes) -> int:
    """Return what a marked call is answered whose session is said in these headers."""
    said: list[Header] = [(SESSION_ID_HEADER, session_id) for session_id in session_ids]
    return answer_to(gateway, [*agent_headers(gateway).items(), *said])[0]
