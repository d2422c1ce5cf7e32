"""Tests of the ASGI middleware: servers and frameworks, each in a process of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from load import (
    MALFORMED,
    REFUSED,
    Calls,
    Job,
    answers_to_malformed_ids,
    calls_of,
    client,
    post,
    send_many,
    sessions_of_a_left_stream,
    wait_for_calls,
)
from serving import ASGI_SERVERS, Server, started
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

ENDPOINTS = {
    "starlette_app:app": ["plain", "thread", "stream", "sync_stream", "task", "websocket"],
    "fastapi_app:app": ["plain", "thread", "stream", "sync_stream", "task", "websocket"],
    "django_asgi:application": ["plain", "thread", "stream", "sync_stream"],
    "mcp_app:app": ["in an MCP session", "in no MCP session"],
}


@pytest.fixture(scope="module", params=[*itertools.product(ASGI_SERVERS, ENDPOINTS)], ids=" ".join)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    name, app = request.param
    with started(name, app, tmp_path_factory.mktemp("server")) as server:
        yield server


def test_each_call_is_in_the_session_of_its_own_request(server: Server) -> None:
    send = MCPCalls(server.url) if server.app == "mcp_app:app" else post_or_ask_websocket
    expected = send_many(252, send, [server.url, server.nginx], ENDPOINTS[server.app])
    assert wait_for_calls(server.gateway, "load", expected.total()) == expected


def post_or_ask_websocket(http: requests.Session, job: Job) -> None:
    if job.endpoint != "websocket":
        post(http, job)
        return
    with open_websocket(job) as websocket:
        websocket.send(job.prompt)
        websocket.recv(60)


def open_websocket(job: Job) -> Any:
    url = f"{job.url.replace('http', 'ws')}/websocket"
    return connect(url, additional_headers=job.headers, proxy=None)


class MCPCalls:
    """Send calls of a tool: half of them in one MCP session, as MCP up to 2025-11-25 has them."""

    def __init__(self, url: str) -> None:
        hello = {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        }
        with client() as http:
            response = self.call(http, Job(url, "", None, ""), "initialize", hello, {})
        self.mcp_session = {"Mcp-Session-Id": response.headers["Mcp-Session-Id"]}

    def __call__(self, http: requests.Session, job: Job) -> requests.Response:
        arguments = {"prompt": job.prompt, "padding": "x" * job.size}
        tool: dict[str, Any] = {"name": "ask", "arguments": arguments}
        if job.endpoint == "in an MCP session":
            return self.call(http, job, "tools/call", tool, self.mcp_session)
        version = "2026-07-28"
        headers = {"Mcp-Method": "tools/call", "Mcp-Name": "ask", "Mcp-Protocol-Version": version}
        prefix = "io.modelcontextprotocol"
        meta = {f"{prefix}/protocolVersion": version, f"{prefix}/clientCapabilities": {}}
        return self.call(http, job, "tools/call", {**tool, "_meta": meta}, headers)

    def call(
        self,
        http: requests.Session,
        job: Job,
        method: str,
        params: dict[str, Any],
        headers: dict[str, str],
    ) -> requests.Response:
        return http.post(
            f"{job.url}/mcp",
            json={"jsonrpc": "2.0", "id": job.prompt, "method": method, "params": params},
            headers={"Accept": "application/json, text/event-stream", **headers, **job.headers},
            timeout=60,
        )


def test_a_malformed_id_is_answered_400_and_never_reaches_the_application(server: Server) -> None:
    assert answers_to_malformed_ids(server.url, "plain") == REFUSED
    assert not calls_of(server.gateway, "malformed")


def test_a_stream_whose_caller_hangs_up_is_closed_in_its_session(server: Server) -> None:
    """It is asynchronous. Starlette and FastAPI do not close a plain generator."""
    if "stream" not in ENDPOINTS[server.app]:
        pytest.skip("an MCP server has no view that streams")
    assert sessions_of_a_left_stream(server.gateway, f"{server.url}/stream") == {"sess-1"}


def test_a_websocket_with_a_malformed_id_is_refused(server: Server) -> None:
    for session_id in MALFORMED:
        with pytest.raises(InvalidStatus) as caught:
            open_websocket(Job(server.url, "websocket", session_id, ""))
        assert caught.value.response.status_code == 403


def test_the_lifespan_is_in_no_session(server: Server) -> None:
    expected = Calls() if server.app.startswith("django") else Calls({(None, "startup: call"): 1})
    assert wait_for_calls(server.gateway, "startup", expected.total()) == expected
