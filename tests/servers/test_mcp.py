"""Tests of the tools of an MCP server on mcp 1.x or 2.x: in which session they call the gateway."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from importlib import import_module
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import mcp
import pytest
import uvicorn
from guide_lines import GUIDE, asked_in, evaluate, execute, undecorated
from jobs import ask
from mcp.client.streamable_http import streamable_http_client

from cagent_session import current_session_id, in_session, session_scope
from cagent_session.testing import ModelsGateway

IS_1 = version("mcp").startswith("1.")
if IS_1:
    from mcp.server.fastmcp import Context
    from mcp.server.fastmcp import FastMCP as MCPServer
else:
    from mcp.server.mcpserver import Context, MCPServer

httpx: Any = import_module("httpx" if IS_1 else "httpx2")  # the one that mcp is on
OPENERS = [f"opener-{number}" for number in range(3)]
SESSIONS = [f"sess-{number}" for number in range(20)]
TOOLS = ["ask_now", "ask_later"]

every_mode = pytest.mark.parametrize(
    ("stateless", "mode"),
    [(False, ""), (True, "")]
    if IS_1
    else [(stateless, mode) for stateless in (False, True) for mode in ("auto", "legacy")],
)


def make_app(gateway: str, decorate: Callable[[Any], Any], stateless: bool) -> Any:
    """Return the ASGI application of a server with two tools."""
    option = {"stateless_http": stateless}
    server = MCPServer("agent", **(option if IS_1 else {}))

    @server.tool()
    @decorate
    def ask_now(question: str, ctx: Context) -> str:
        ask(gateway, question)
        return "asked"

    @server.tool()
    @decorate
    async def ask_later(question: str, ctx: Context) -> str:
        await asyncio.to_thread(ask, gateway, question)
        return "asked"

    return server.streamable_http_app(**({} if IS_1 else option))


def session_id_of(scope: dict[str, Any]) -> str | None:
    return dict(scope["headers"]).get(b"conversation-id", b"").decode() or None


def behind_middleware(app: Any) -> Any:
    row = "MCP server 1.x, stateless" if IS_1 else "MCP server 2.x"
    server = SimpleNamespace(streamable_http_app=lambda: app)
    return execute(row, mcp=server, session_id_of=session_id_of)["app"]


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serve *app* on loopback. Return the URL of its MCP endpoint."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=5))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            deadline = time.monotonic() + 30
            while not server.started:
                assert thread.is_alive()
                assert time.monotonic() < deadline
                time.sleep(0.005)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
        finally:
            server.should_exit = True
            thread.join()


@asynccontextmanager
async def connected(url: str, http: Any, mode: str) -> AsyncIterator[Any]:
    async with http, AsyncExitStack() as stack:
        transport = streamable_http_client(url, http_client=http)
        if IS_1:
            read, write, _ = await stack.enter_async_context(transport)
            client = await stack.enter_async_context(mcp.ClientSession(read, write))
            await client.initialize()
        else:
            client = await stack.enter_async_context(mcp.Client(transport, mode=mode))
        yield client


async def call_tools(url: str, opener: str, mode: str) -> None:
    """Open a connection in one session, and use it in all sessions."""
    http = httpx.AsyncClient(headers={"Conversation-Id": opener}, trust_env=False)
    async with connected(url, http, mode) as client:
        for session_id in SESSIONS:
            http.headers["Conversation-Id"] = session_id
            for tool in TOOLS:
                answer = await client.call_tool(tool, {"question": f"{opener} {session_id}"})
                assert answer.content[0].text == "asked"


def no_session(opener: str, caller: str) -> str | None:
    return None


def session_of_opener(opener: str, caller: str) -> str | None:
    return opener


def session_of_caller(opener: str, caller: str) -> str | None:
    return caller


@every_mode
@pytest.mark.parametrize("remedy", ["nothing", "middleware", "decorator"])
def test_tools_of_several_clients_and_sessions(
    remedy: str, stateless: bool, mode: str, models_gateway: ModelsGateway
) -> None:
    """On mcp 1.x, the middleware helps a stateless server only."""
    decorate, session = undecorated, no_session
    if remedy == "decorator":
        decorate, session = evaluate("MCP server 1.x, stateful"), session_of_caller
    app = make_app(models_gateway.url, decorate, stateless)
    if remedy == "middleware":
        app = behind_middleware(app)
        session = session_of_opener if IS_1 and not stateless else session_of_caller

    async def main(url: str) -> None:
        await asyncio.gather(*(call_tools(url, opener, mode) for opener in OPENERS))

    with serving(app) as url:
        asyncio.run(main(url))
    assert asked_in(models_gateway) == {
        (f"{opener} {caller}", session(opener, caller)): len(TOOLS)
        for opener in OPENERS
        for caller in SESSIONS
    }


IN_META = "ctx.request_context.meta.session_id"  # on mcp 1.x; on 2.x it is a dictionary
in_session_of_meta = in_session(
    IN_META if IS_1 else lambda ctx, **_: ctx.request_context.meta["session_id"]
)


def test_the_guide_shows_where_a_tool_finds_the_session() -> None:
    assert f'``@in_session("{IN_META}")``' in GUIDE.read_text(encoding="utf-8")


async def add_current_session(request: Any) -> None:
    request.headers["Conversation-Id"] = current_session_id() or ""


def call_plain(client: Any, name: str, arguments: dict[str, str]) -> Any:
    return client.call_tool(name, arguments)


def call_by_line(client: Any, name: str, arguments: dict[str, str]) -> Any:
    return evaluate("MCP client 1.x", client=client, name=name, arguments=arguments)


@every_mode
@pytest.mark.parametrize(
    ("call", "decorate", "session"),
    [
        (
            call_plain,
            evaluate("MCP server 1.x, stateful"),
            session_of_opener if IS_1 else session_of_caller,
        ),
        (call_by_line, in_session_of_meta, session_of_caller),
    ],
)
def test_a_client_with_one_connection_for_several_sessions(
    call: Callable[..., Any],
    decorate: Callable[[Any], Any],
    session: Callable[[str, str], str | None],
    stateless: bool,
    mode: str,
    models_gateway: ModelsGateway,
) -> None:
    """A client of mcp 1.x sends its requests in the session that opened the connection."""

    async def main(url: str) -> None:
        http = httpx.AsyncClient(event_hooks={"request": [add_current_session]}, trust_env=False)
        async with AsyncExitStack() as stack:
            with session_scope("opener"):
                client = await stack.enter_async_context(connected(url, http, mode))
            for session_id in SESSIONS:
                with session_scope(session_id):
                    answer = await call(client, "ask_now", {"question": session_id})
                    assert answer.content[0].text == "asked"

    with serving(make_app(models_gateway.url, decorate, stateless)) as url:
        asyncio.run(main(url))
    assert asked_in(models_gateway) == {(name, session("opener", name)): 1 for name in SESSIONS}
