"""Tests of the bytes sent: the library adds one valid session ID and changes nothing else.

The tests compare the bytes that arrive with and without the library:

- h11, a strict server, refuses a request only if it also refuses it without the library
- a request that the transport refuses fails with the same error as without the library
- h11 always accepts the session ID that the library sets

httpx sends nothing that h11 refuses. requests does, and the library does not change that. Its
``prepare()`` accepts a NUL in a value, a vertical tab or a form feed after a value's first
character, and a name that is not a token (RFC 9110, section 5.6.2). In headers that are set after
``prepare()``, requests also sends a vertical tab or a form feed as the first character, and a
carriage return before a space. The caller's marker is sent unchanged. So is the caller's own
``X-Cagent-Session-Id`` where the library keeps it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import httpx
import pytest
import requests
from hostile import (
    ANY_TEXT,
    ANY_VALUES,
    FORWARD_NAMES,
    LONG,
    NAMES,
    PATHS,
    QUERIES,
    SESSION_ID_NAMES,
    VALID_IDS,
    VALUES,
    mutated,
)
from hypothesis import given
from hypothesis import strategies as st
from requests.adapters import HTTPAdapter
from wire import Wire, h11_accepts, header_lines

from cagent_session import (
    SESSION_ID_HEADER,
    MissingSessionId,
    MissingSessionIdWarning,
    SessionIdAdapter,
    session_id_hook,
    session_scope,
)
from cagent_session.headers import as_text

Outcome = bytes | type[Exception]


@dataclass(frozen=True)
class Call:
    """A request. With *by_hand*, its URL and headers are set after it is prepared."""

    path: str
    headers: Any
    by_hand: bool
    body: bytes | None


class Transport(Protocol):
    def prepare(self, call: Call) -> Any: ...
    def send(self, request: Any, ours: tuple[str | None, Any] | None) -> Any:
        """Send *request*. *ours* has the gateway and ``missing``; ``None``: without the library."""


class Requests:
    def __init__(self, url: str) -> None:
        self.url = url
        self.adapters: dict[Any, HTTPAdapter] = {None: HTTPAdapter()}

    def prepare(self, call: Call) -> requests.PreparedRequest:
        if not call.by_hand:
            return requests.Request(
                "POST", self.url + call.path, dict(call.headers), data=call.body
            ).prepare()
        request = requests.Request("POST", self.url, data=call.body).prepare()
        request.url = self.url + call.path
        request.headers.update(dict(call.headers))
        return request

    def send(self, request: requests.PreparedRequest, ours: tuple[str | None, Any] | None) -> Any:
        if ours is not None and ours not in self.adapters:
            self.adapters[ours] = SessionIdAdapter(ours[0], missing=ours[1])
        before = dict(request.headers)
        try:
            return self.adapters[ours].send(request, timeout=10).content
        finally:
            assert dict(request.headers) == before

    def close(self) -> None:
        for adapter in self.adapters.values():
            adapter.close()


class Httpx:
    def __init__(self, url: str) -> None:
        self.url = url
        self.client = httpx.Client(trust_env=False)
        self.close = self.client.close

    def prepare(self, call: Call) -> httpx.Request:
        url = self.url + call.path
        if not call.by_hand:
            return self.client.build_request("POST", url, headers=call.headers, content=call.body)
        request = self.client.build_request("POST", self.url, content=call.body)
        request.url = httpx.URL(url)
        request.headers = httpx.Headers([*request.headers.raw, *call.headers])
        return request

    def send(self, request: httpx.Request, ours: tuple[str | None, Any] | None) -> Any:
        hooks = [] if ours is None else [session_id_hook(ours[0], missing=ours[1])]
        self.client.event_hooks = {"request": hooks}
        return self.client.send(request)


@pytest.fixture(scope="module", params=[Requests, Httpx])
def transport(request: pytest.FixtureRequest, wire: Wire) -> Iterator[Transport]:
    transport = request.param(wire.url)
    yield transport
    transport.close()


def outcome(wire: Wire, send: Callable[[], object]) -> Outcome:
    """Return the bytes of the one request that arrived. If none was sent, return the error."""
    wire.log.clear()
    try:
        send()
    except Exception as error:  # noqa: BLE001 - the test compares which errors come
        assert wire.log == []
        return type(error)
    ((_, raw),) = wire.log
    return raw


def remove_our_headers(request: Any) -> None:
    """Remove every ``X-Cagent-*`` header. Names may be ``bytes``."""
    raw = getattr(request.headers, "raw", None) or list(request.headers.items())
    kept = [(n, v) for n, v in raw if not as_text(n).lower().startswith("x-cagent-")]
    request.headers = type(request.headers)(kept)


SCOPES = st.one_of(
    VALID_IDS, VALID_IDS, LONG.filter(lambda text: len(text) <= 256), st.uuids(), st.none()
)
HEADERS = st.tuples(
    st.lists(st.tuples(FORWARD_NAMES, VALUES | ANY_VALUES), min_size=0, max_size=1),
    st.lists(st.tuples(SESSION_ID_NAMES, VALUES | ANY_VALUES), max_size=1),
    st.lists(
        st.tuples(NAMES | NAMES.map(lambda name: name.encode("utf-8", "replace")), ANY_VALUES),
        max_size=1,
    ),
).map(lambda parts: [*parts[0], *parts[1], *parts[2]])
CALLS = st.builds(
    Call,
    st.builds(
        "/{}{}".format,
        PATHS.map(lambda path: path.lstrip("/")) | mutated(PATHS) | ANY_TEXT,
        QUERIES,
    ),
    HEADERS,
    st.booleans(),
    st.sampled_from([None, b"{}"]),
)


@given(CALLS, SCOPES, st.sampled_from(["omit", "warn", "raise"]), st.booleans())
def test_the_library_only_adds_one_valid_session_id(
    transport: Transport, wire: Wire, call: Call, session_id: Any, missing: str, pinned: bool
) -> None:
    try:
        request, reference = transport.prepare(call), transport.prepare(call)
    except Exception:  # noqa: BLE001 - requests or httpx refuses it
        return
    marker, callers = (
        request.headers.get(name) for name in ("X-Cagent-Forward", SESSION_ID_HEADER)
    )
    bound = bool(marker) and not (marker.isspace() and marker.isascii())
    if not bound or session_id is not None or not callers:
        reference.headers.pop(SESSION_ID_HEADER, None)
    if not bound and pinned:
        remove_our_headers(reference)
    with session_scope(session_id), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", MissingSessionIdWarning)
        ours = outcome(
            wire, lambda: transport.send(request, (wire.url if pinned else None, missing))
        )
    is_missing = bound and session_id is None and not callers
    assert len(warned) == (is_missing and missing == "warn")
    if is_missing and missing == "raise":
        assert ours is MissingSessionId
        return
    bare = outcome(wire, lambda: transport.send(reference, None))
    if isinstance(bare, bytes) and bound and session_id is not None:
        assert isinstance(ours, bytes)
        (stamp,) = (
            line for line in header_lines(ours) if line.lower().startswith(b"x-cagent-session-id:")
        )
        assert stamp.partition(b": ")[2] == str(session_id).encode()
        assert ours.replace(stamp + b"\r\n", b"") == bare
    else:
        assert ours == bare
    if isinstance(ours, bytes):
        assert h11_accepts(ours) == h11_accepts(bare)  # type: ignore[arg-type]
