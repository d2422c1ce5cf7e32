"""An MCP server with the middleware."""

from __future__ import annotations

from agent_calls import ask_async
from mcp.server import MCPServer
from starlette_app import lifespan, session_id_of

from cagent_session.integrations.asgi import SessionMiddleware


async def ask(prompt: str, padding: str) -> str:
    return await ask_async(prompt)


mcp = MCPServer("agent_server", lifespan=lifespan)
mcp.add_tool(ask)
app = SessionMiddleware(mcp.streamable_http_app(), session_id_of)
