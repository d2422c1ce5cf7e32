"""Tests of the guide's table of gateways with other headers. The gateways are stand-ins.

``tests/gateways/test_other_headers.py`` runs the real programs, as far as there are any.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from other_headers import CHAT, Row, each_client, rows

from cagent_session import session_scope, sub_session, uninstrument
from cagent_session.testing import ModelsGateway

Ask = Callable[[str], None]

ROWS = rows()
AGENT = Path(__file__).parents[2] / "examples" / "agent.py"


@pytest.fixture(autouse=True)
def undo_instrument(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield
    uninstrument()


@pytest.fixture(params=ROWS)
def row(request: pytest.FixtureRequest) -> Row:
    return ROWS[request.param]


@pytest.fixture
def stand_in(row: Row) -> Iterator[ModelsGateway]:
    """Return a gateway that reads the headers of this row."""
    names = row.gateway(row.url)
    with ModelsGateway(
        session_header=names.session_header,
        marker=names.marker,
        root_header=None,
        parent_header=names.parent_header,
    ) as server:
        yield server


def base_url_of(row: Row, stand_in: ModelsGateway) -> str:
    """Run the lines of the table for the stand-in. Return the base URL for openai."""
    gateway = row.instrument(stand_in.url + urlsplit(row.url).path)
    return gateway.route("openai").base_url


def is_ours(name: str, stand_in: ModelsGateway) -> bool:
    """Return whether a header with this name is for the gateway only."""
    names = stand_in.gateway
    keys = {str(key).lower() for key in (names.session_header, names.parent_header, names.marker)}
    return name.lower() in keys or name.lower().startswith("x-cagent-")


def test_the_base_url_is_that_of_the_route(row: Row) -> None:
    assert row.gateway(row.url).route("openai").base_url == row.base_url


def test_the_example_agent_suggests_lines_of_the_table() -> None:
    suggested = re.findall(r"# .+: return (Gateway\(.+\))\n", AGENT.read_text("utf-8"))
    assert len(suggested) == 2
    assert {*suggested} <= {row.lines[0] for row in ROWS.values()}


@each_client
def test_a_call_has_the_gateways_own_headers_only(
    ask: Ask, row: Row, stand_in: ModelsGateway
) -> None:
    base_url = base_url_of(row, stand_in)
    with session_scope("session-1"), sub_session("session-2"):
        ask(base_url)
    (call,) = stand_in.calls
    assert call.path == urlsplit(row.base_url).path + CHAT
    names = stand_in.gateway
    expected = {names.session_header.lower(): "session-2"}
    if names.parent_header:
        expected[names.parent_header.lower()] = "session-1"
    if names.marker:
        expected[names.marker.lower()] = "https://api.openai.com"
    ours = {name for name in call.headers if is_ours(name, stand_in)}
    assert {name.lower(): call.headers[name] for name in ours} == expected


@each_client
def test_a_call_in_no_session_has_no_session(ask: Ask, row: Row, stand_in: ModelsGateway) -> None:
    ask(base_url_of(row, stand_in))
    assert [call.session_id for call in stand_in.calls] == [None]


@each_client
def test_no_other_server_gets_these_headers(
    ask: Ask, row: Row, stand_in: ModelsGateway, elsewhere: Any
) -> None:
    """Neither a call to it, nor a redirect from the gateway."""
    base_url_of(row, stand_in)
    elsewhere.answer("/" + CHAT, 200, {"Content-Type": "application/json"}, b"{}")
    moved = {"Location": f"{elsewhere.url}/{CHAT}"}
    stand_in.expect_request("/moved/" + CHAT).respond_with_data(status=307, headers=moved)
    with session_scope("session-1"), sub_session("session-2"):
        ask(elsewhere.url + "/")
        ask(stand_in.url + "/moved/")
    assert [call.session_id for call in stand_in.calls] == ["session-2"]
    assert len(elsewhere.arrived) == 2
    for request in elsewhere.arrived:
        assert [name for name, _ in request.headers if is_ours(name, stand_in)] == []
