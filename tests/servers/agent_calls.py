"""The calls that all applications of this folder make. ``CAGENT_MODELS_GATEWAY`` is the gateway."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import requests

from cagent_session import gateway_headers, mount, session_id_hook, session_scope

GATEWAY = os.environ["CAGENT_MODELS_GATEWAY"]
URL = f"{GATEWAY}/v1/chat/completions"
HEADERS = gateway_headers("https://api.openai.com/v1", provider="openai", model="gpt-4o")

http = mount(requests.Session(), GATEWAY)
http.trust_env = False  # no proxies and no .netrc: reading them costs more than the call
async_http = httpx.AsyncClient(
    event_hooks={"request": [session_id_hook(GATEWAY)]}, trust_env=False, timeout=60
)


def body(prompt: str) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": prompt}]}


def ask(prompt: str) -> str:
    response = http.post(URL, json=body(prompt), headers=HEADERS, timeout=60)
    response.raise_for_status()
    return response.text


async def ask_async(prompt: str) -> str:
    response = await async_http.post(URL, json=body(prompt), headers=HEADERS)
    response.raise_for_status()
    return response.text


def steps(prompt: str, number: int) -> Iterator[str]:
    """Yield *number* answers. Make one more call at the end, or when the generator is closed."""
    try:
        for _ in range(number):
            yield ask(prompt)
    finally:
        ask(f"{prompt} closed")


async def async_steps(prompt: str, number: int) -> AsyncIterator[str]:
    """Do the same asynchronously. If the caller hangs up, the frameworks cancel all that awaits."""
    try:
        for _ in range(number):
            yield await ask_async(prompt)
    finally:
        ask(f"{prompt} closed")


session_scope("starter").__enter__()  # no request may run in it
