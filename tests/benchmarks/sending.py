"""Measurements of what this library adds to one call, without a network.

The unit is the floor: a ``PreparedRequest.copy()`` and one header. No adapter can add a header with
less work, if it must not change the caller's request.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests
from requests.adapters import BaseAdapter
from turns import Case, Turns, in_turns

from cagent_session import (
    SESSION_ID_HEADER,
    SessionExecutor,
    SessionIdAdapter,
    gateway_headers,
    in_session,
    session_scope,
)

URL = "http://gateway.example/v1/chat/completions"
MARKER = gateway_headers("https://api.openai.com/v1", provider="openai", model="gpt-4o")
ARGUMENTS: Any = {"stream": False, "timeout": None, "verify": True, "cert": None, "proxies": {}}
BODY: Any = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello!"}]}
SESSION_ID = "8e1e7ea5-d687-455f-b4e0-386a0f820f94"


class NullAdapter(BaseAdapter):
    """A transport that sends nothing. It always returns the same answer."""

    answer = requests.Response()
    answer.status_code, answer.url = 200, URL

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        return self.answer


def prepared(headers: dict[str, str]) -> requests.PreparedRequest:
    return requests.Session().prepare_request(requests.Request("POST", URL, headers, json=BODY))


def sending(adapter: BaseAdapter, headers: dict[str, str], *, again: bool = True) -> Case:
    """Return a function that sends the same request *again* or, like a Session, a new one."""
    send, request = adapter.send, prepared(headers)
    return lambda: send(request if again else request.copy(), **ARGUMENTS)


def copy_and_set() -> None:
    never_sent.copy().headers[SESSION_ID_HEADER] = SESSION_ID


def enter_and_leave() -> None:
    with session_scope(SESSION_ID):
        pass


def items(session_id: str) -> Iterator[int]:
    yield from range(1000)


NULL, never_sent, pool = NullAdapter(), prepared(MARKER), ThreadPoolExecutor(1)
carrying_pool, items_in_session = SessionExecutor(pool), in_session("session_id")(items)
CASES: dict[str, Case] = {
    "floor": copy_and_set,
    "null": sending(NULL, MARKER),
    "null, new": sending(NULL, MARKER, again=False),
    "unmarked": sending(SessionIdAdapter(inner=NULL), {}),
    "marked": sending(SessionIdAdapter(inner=NULL), MARKER),
    "marked, new": sending(SessionIdAdapter(inner=NULL), MARKER, again=False),
    "pinned": sending(SessionIdAdapter(URL, inner=NULL), MARKER),
    "nothing": lambda: None,
    "scope": enter_and_leave,
    "items": lambda: sum(items(SESSION_ID)),
    "own items": lambda: sum(items_in_session(SESSION_ID)),
    "pool": lambda: pool.submit(int).result(),
    "SessionExecutor": lambda: carrying_pool.submit(int).result(),
}


def turns(*names: str) -> Turns:
    with session_scope(SESSION_ID):
        return in_turns(CASES, names, by_cpu=True)
