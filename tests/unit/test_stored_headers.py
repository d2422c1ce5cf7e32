"""Tests of ``SentHeaders`` with the private attribute of requests, and with public methods."""

from __future__ import annotations

import importlib.util
from collections import UserDict
from collections.abc import Callable
from typing import Any

import pytest
import requests
import responses

from cagent_session import SESSION_ID_HEADER, SessionIdAdapter, session_scope
from cagent_session.transports import sent_headers

GATEWAY = "https://gateway.example"
MARKER = {"x-CAGENT-forward": "https://api.example"}
CALLERS = {"x-cagent-SESSION-id": "callers"}
OTHER = {"X-Other": "1"}
Send = Callable[[requests.PreparedRequest], Any]


@pytest.fixture(params=[True, False], ids=["private attribute", "public methods"])
def send(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Send:
    """Return a function that sends a request and returns the headers that were sent."""
    monkeypatch.setattr(sent_headers, "_HAS_STORE", request.param)
    mounted = SessionIdAdapter(GATEWAY)

    def send_and_look(prepared: requests.PreparedRequest) -> Any:
        with responses.RequestsMock() as mock:
            mock.get(GATEWAY)
            return mounted.send(prepared).request.headers

    return send_and_look


def prepared(headers: dict[str, str]) -> requests.PreparedRequest:
    return requests.Request("GET", f"{GATEWAY}/", headers={**OTHER, **headers}).prepare()


def test_this_release_of_requests_has_the_private_attribute() -> None:
    assert sent_headers._HAS_STORE


class OtherStore(UserDict[str, Any]):
    """Headers with an attribute of the same name and other contents."""

    def __init__(self, headers: Any = (), **more: Any) -> None:
        super().__init__(headers, **more)
        self._store = [*self.items()]


@pytest.mark.parametrize("kind", [OtherStore, dict], ids=["another store", "no store"])
def test_the_public_methods_are_used_if_requests_keeps_headers_in_another_way(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("requests.structures.CaseInsensitiveDict", kind)
        assert not load_again(sent_headers)._HAS_STORE
    assert load_again(sent_headers)._HAS_STORE


def load_again(module: Any) -> Any:
    """Return a new copy of *module*, which no other code uses."""
    copied = importlib.util.module_from_spec(module.__spec__)
    module.__spec__.loader.exec_module(copied)
    return copied


@pytest.mark.parametrize("kind", [dict, OtherStore])
@pytest.mark.parametrize(
    ("callers", "expected"),
    [(MARKER, {**MARKER, SESSION_ID_HEADER: "sess-1"}), (CALLERS, {}), ({}, {})],
)
def test_headers_of_another_class_follow_the_rule(
    send: Send, kind: Any, callers: dict[str, str], expected: dict[str, str]
) -> None:
    """A program can replace a request's headers. The case of names does not matter then, too."""
    request = prepared({})
    request.headers = kind({**OTHER, **callers})
    with session_scope("sess-1"):
        assert dict(send(request)) == {**OTHER, **expected}
    assert dict(request.headers) == {**OTHER, **callers}


@pytest.mark.parametrize(
    ("callers", "session_id", "expected"),
    [
        (MARKER, "sess-1", {**MARKER, SESSION_ID_HEADER: "sess-1"}),
        ({**MARKER, **CALLERS}, "sess-1", {**MARKER, SESSION_ID_HEADER: "sess-1"}),
        ({**MARKER, **CALLERS}, None, {**MARKER, **CALLERS}),
        (MARKER, None, MARKER),
        (CALLERS, "sess-1", {}),
        ({}, "sess-1", {}),
    ],
)
def test_headers_follow_the_rule_and_the_callers_request_stays_unchanged(
    send: Send, callers: dict[str, str], session_id: str | None, expected: dict[str, str]
) -> None:
    request = prepared(callers)
    with session_scope(session_id):
        assert dict(send(request)) == {**OTHER, **expected}
    assert dict(request.headers) == {**OTHER, **callers}


def test_sent_headers_can_be_sent_again(send: Send) -> None:
    with session_scope("sess-1"):
        sent = send(prepared(MARKER))
    again = prepared({})
    again.headers = sent
    with session_scope("sess-2"):
        assert send(again)[SESSION_ID_HEADER] == "sess-2"
    assert SESSION_ID_HEADER not in send(again)
    assert sent[SESSION_ID_HEADER] == "sess-1"
