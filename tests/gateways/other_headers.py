"""The gateways with other headers in examples/sdks/README.rst, and clients to call them with."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
import requests
from openai import OpenAI

import cagent_session
from cagent_session import Gateway

GUIDE = Path(__file__).parents[2] / "examples" / "sdks" / "README.rst"
MODEL = "gpt-4o-mini"
KEY = "sk-key-of-the-client"
QUESTION: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hello!"}]}
CHAT = "chat/completions"
HEADERS = {"Authorization": f"Bearer {KEY}"}


class Row(NamedTuple):
    """A row of the guide's table of gateways with other headers."""

    url: str  # of the gateway
    base_url: str  # for openai
    lines: list[str]
    tested: str

    def gateway(self, url: str) -> Gateway:
        """Run the first line, with this *url*."""
        made = eval(self.lines[0], {"Gateway": Gateway, "url": url})
        assert isinstance(made, Gateway)
        return made

    def instrument(self, url: str) -> Gateway:
        """Run all lines, with this *url*."""
        gateway = self.gateway(url)
        for line in self.lines[1:] or ["instrument(gateway)"]:
            eval(line, {"instrument": cagent_session.instrument, "gateway": gateway})
        return gateway


def rows() -> dict[str, Row]:
    """Return the rows of the guide's table, by the gateway's name."""
    (table,) = re.findall(r"\n   \* - Gateway\n(.+?)\n\n(?! )", GUIDE.read_text("utf-8"), re.DOTALL)
    found = {}
    for row in table.split("\n   * - ")[1:]:
        name, urls, lines, *_, tested = (" ".join(cell.split()) for cell in row.split("\n     - "))
        url, base_url = re.findall("``(.+?)``", urls)
        found[name] = Row(url, base_url, re.findall("``(.+?)``", lines), tested)
    return found


def by_openai(base_url: str) -> None:
    with OpenAI(base_url=base_url, api_key=KEY, max_retries=0) as client:
        client.chat.completions.create(**QUESTION)


def by_requests(base_url: str) -> None:
    url = base_url + CHAT
    requests.post(url, json=QUESTION, headers=HEADERS, timeout=30).raise_for_status()


def by_aiohttp(base_url: str) -> None:
    async def ask() -> None:
        async with (
            aiohttp.ClientSession(headers=HEADERS, raise_for_status=True) as session,
            session.post(base_url + CHAT, json=QUESTION) as response,
        ):
            await response.read()

    asyncio.run(ask())


each_client = pytest.mark.parametrize("ask", [by_openai, by_requests, by_aiohttp])
