"""The agent that both servers run: its calls through the models gateway, and its run loop.

DOCKER_AGENT_MODELS_GATEWAY or CAGENT_MODELS_GATEWAY is the gateway's URL. If neither is set, a
stand-in on this machine answers, and each call is logged with its session.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Generator
from typing import Any

import requests

from cagent_session import Gateway, in_session, mount
from cagent_session.integrations.logging import SessionIdFilter


def start_stand_in() -> Gateway:
    from cagent_session.testing import ModelsGateway  # noqa: PLC0415 - production needs no extra

    stand_in = ModelsGateway()
    stand_in.start()
    print("No models gateway is set. A stand-in on this machine answers; its model echoes.")
    os.environ.setdefault("NO_PROXY", "127.0.0.1")
    handler = logging.StreamHandler()
    handler.addFilter(SessionIdFilter(default="none"))
    handler.setFormatter(logging.Formatter("session %(session_id)s: %(message)s"))
    logger = logging.getLogger("cagent_session")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    return Gateway(stand_in.url)


gateway = Gateway.from_environment() or start_stand_in()
route = gateway.route("openai", model="gpt-4o")
http = mount(requests.Session(), gateway)  # one client for all requests to the server
http.headers.update(route.headers)
http.params.update(route.query)
if "OPENAI_API_KEY" in os.environ:
    http.headers["Authorization"] = f"Bearer {os.environ['OPENAI_API_KEY']}"


def complete(prompt: str) -> str:
    message = {"role": "user", "content": prompt}
    body: dict[str, Any] = {"model": "gpt-4o", "messages": [message]}
    response = http.post(f"{route.base_url}chat/completions", json=body, timeout=60)
    response.raise_for_status()
    return str(response.json()["choices"][0]["message"]["content"])


@in_session("session_id")
def run_loop(session_id: str, prompt: str) -> Generator[str, None, None]:
    yield complete(f"Plan: {prompt}") + "\n"
    yield complete(prompt) + "\n"


def serve(run: Callable[[int], object]) -> None:
    """Call *run* with the descriptor of a socket that listens on the port $PORT, or 8000."""
    with socket.create_server(("127.0.0.1", int(os.environ.get("PORT", "8000")))) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        prompt = """-H 'Content-Type: application/json' -d '{"prompt": "Hello"}'"""
        print(f"Try: curl {url}/sessions/session-1/ask {prompt}", flush=True)
        run(listener.fileno())
