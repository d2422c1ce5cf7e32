"""Must requests keep headers the way it does? No: where it does not, its public methods serve, at a higher cost."""

from __future__ import annotations

import importlib.util
from collections import UserDict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import responses
from requests.structures import CaseInsensitiveDict

from cagent_session import SESSION_ID_HEADER, SessionIdAdapter, session_scope
from cagent_session.transports import sent_headers as adapter

GATEWAY = "https://gateway.example"
MARKER = {"x-CAGENT-forward": "https://api.example"}
CALLERS = {"x-cagent-SESSION-id": "callers"}
OTHER = {"X-Other": "1"}
Send = Callable[[requests.PreparedRequest], Any]


@pytest.fixture(params=[True, False], ids=["stored as ever", "stored otherwise"])
def send(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Send:
    """Return what sends a request, and returns the headers that went out."""
    monkeypatch.setattr(adapter, "_HAS_STORE", request.param)
    mounted = SessionIdAdapter(GATEWAY)

    def send_and_look(prepared: requests.PreparedRequest) -> Any:
        with responses.RequestsMock() as mock:
            mock.get(GATEWAY)
            return mounted.send(prepared).request.headers

    return send_and_look


def prepared(headers: dict[str, str]) -> requests.PreparedRequest:
    return requests.Request("GET", f"{GATEWAY}/", headers={**OTHER, **headers}).prepare()


def test_the_quick_way_is_taken_with_this_release_of_requests() -> None:
    assert adapter._HAS_STORE


class Otherwise(CaseInsensitiveDict[Any]):
    """Headers that are kept otherwise, in what happens to have the same name."""

    def __init__(self, headers: Any = (), **more: Any) -> None:
        self._store: Any = [*dict(headers, **more).items()]

    def __getitem__(self, name: str) -> Any:
        for known, value in self._store:
            if known.lower() == name.lower():
                return value
        raise KeyError(name)

    def __setitem__(self, name: str, value: Any) -> None:
        self._store.append((name, value))

    def __iter__(self) -> Iterator[str]:
        return iter([name for name, _ in self._store])

    def __len__(self) -> int:
        return len(self._store)


@pytest.mark.parametrize("shape", [Otherwise, dict], ids=["another store", "no store"])
def test_the_quick_way_is_not_taken_where_requests_keeps_headers_otherwise(
    shape: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("requests.structures.CaseInsensitiveDict", shape)
        assert not load_anew(adapter)._HAS_STORE
    assert load_anew(adapter)._HAS_STORE


def load_anew(module: Any) -> Any:
    """Return another copy of *module*, which nobody else sees."""
    copied = importlib.util.module_from_spec(module.__spec__)
    module.__spec__.loader.exec_module(copied)
    return copied


@pytest.mark.parametrize("kind", [dict, Otherwise, UserDict])
@pytest.mark.parametrize(
    ("callers", "session_id", "expected"),
    [
        (MARKER, "sess-1", {**MARKER, SESSION_ID_HEADER: "sess-1"}),
        (CALLERS, "sess-1", {}),
        ({}, "sess-1", {}),
    ],
)
def test_the_rule_holds_for_headers_of_another_class(
    send: Send, kind: Any, callers: dict[str, str], session_id: str, expected: dict[str, str]
) -> None:
    """Set by hand, after preparation; names match without case there, too."""
    request = prepared({})
    request.headers = kind({**OTHER, **callers})
    with session_scope(session_id):
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
def test_the_rule_holds_and_the_callers_request_stays(
    send: Send, callers: dict[str, str], session_id: str | None, expected: dict[str, str]
) -> None:
    request = prepared(callers)
    with session_scope(session_id):
        assert dict(send(request)) == {**OTHER, **expected}
    assert dict(request.headers) == {**OTHER, **callers}


def test_what_went_out_is_a_request_to_be_sent_again(send: Send) -> None:
    with session_scope("sess-1"):
        sent = send(prepared(MARKER))
    again = prepared({})
    again.headers = sent
    with session_scope("sess-2"):
        assert send(again)[SESSION_ID_HEADER] == "sess-2"
    assert SESSION_ID_HEADER not in send(again)
    assert sent[SESSION_ID_HEADER] == "sess-1"
