"""Tests of ``session_id_trace_config``, on real sockets. test_rule.py has the tests of the rule."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from cagent_session import (
    Gateway,
    InvalidGatewayURL,
    MissingSessionId,
    session_id_trace_config,
    session_scope,
)

MARKED = {"X-Cagent-Forward": "https://api.openai.com/v1"}


async def get(client: aiohttp.ClientSession, url: str, **options: Any) -> aiohttp.ClientResponse:
    async with client.get(url, **options) as response:
        await response.read()
        return response


@asynccontextmanager
async def connected(
    *configs: aiohttp.TraceConfig, **options: Any
) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(trace_configs=list(configs), **options) as client:
        yield client


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))


def test_an_invalid_gateway_is_refused() -> None:
    with pytest.raises(InvalidGatewayURL):
        session_id_trace_config("gateway.example")


def test_its_repr_names_the_gateway() -> None:
    config = session_id_trace_config("https://gateway.example/?key=s3cret")
    shown = "session_id_trace_config(Gateway('https://gateway.example/', missing='omit'))"
    assert repr(config) == shown


def test_one_config_serves_clients_and_tasks_in_different_sessions(gateway: Any) -> None:
    config = session_id_trace_config(gateway.url)

    async def call(client: aiohttp.ClientSession, session_id: str) -> None:
        with session_scope(session_id):
            await get(client, f"{gateway.url}/{session_id}")

    async def calls() -> None:
        async with connected(config, headers=MARKED) as one, connected(config) as two:
            two.headers.update(MARKED)
            names = [f"sess-{number}" for number in range(16)]
            await asyncio.gather(*[call(client, n) for client in (one, two) for n in names])

    run(calls)
    assert len(gateway.arrived) == 32
    assert all(request.path == f"/{request.session_id}" for request in gateway.arrived)


def test_the_callers_headers_stay_as_they_were(gateway: Any) -> None:
    headers = dict(MARKED)

    async def calls() -> None:
        async with connected(session_id_trace_config(gateway.url)) as client:
            with session_scope("sess-1"):
                await get(client, gateway.url, headers=headers)
            await get(client, gateway.url, headers=headers)

    run(calls)
    assert gateway.session_ids == ["sess-1", None]
    assert headers == MARKED


def test_headers_of_a_sent_request_carry_no_old_session_id(gateway: Any) -> None:
    async def calls() -> None:
        async with connected(session_id_trace_config(gateway.url)) as client:
            for own in ({}, {"X-Cagent-Session-Id": "callers"}):
                with session_scope("sess-1"):
                    sent = await get(client, gateway.url, headers={**MARKED, **own})
                await get(client, gateway.url, headers=sent.request_info.headers)

    run(calls)
    assert gateway.session_ids == ["sess-1", None, "sess-1", "callers"]


def test_another_trace_config_may_set_the_marker_before(gateway: Any) -> None:
    async def mark(_: Any, __: Any, start: aiohttp.TraceRequestStartParams) -> None:
        start.headers.update(MARKED)

    marking = aiohttp.TraceConfig()
    marking.on_request_start.append(mark)

    async def calls() -> None:
        async with connected(marking, session_id_trace_config(gateway.url)) as client:
            await get(client, gateway.url)

    with session_scope("sess-1"):
        run(calls)
    assert gateway.session_ids == ["sess-1"]


def test_a_header_that_is_there_twice_is_removed_twice(gateway: Any, elsewhere: Any) -> None:
    twice = [("X-Cagent-Model", "a"), ("x-cagent-model", "b"), ("X-Cagent-Session-Id", "callers")]

    async def calls() -> None:
        async with connected(session_id_trace_config(gateway.url)) as client:
            await get(client, elsewhere.url, headers=[*MARKED.items(), *twice])

    run(calls)
    assert [request.cagent_headers for request in elsewhere.arrived] == [set()]


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_a_websocket_is_bound_by_its_first_request(scheme: str) -> None:
    opened: list[tuple[str | None, str | None]] = []

    async def accept(request: web.Request) -> web.StreamResponse:
        headers = request.headers
        opened.append((headers.get("X-Cagent-Session-Id"), headers.get("X-Cagent-Forward")))
        if request.path == "/away":
            raise web.HTTPTemporaryRedirect(request.host.replace("127.0.0.1", "http://localhost"))
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.close()
        return socket

    async def calls() -> None:
        application = web.Application()
        application.router.add_get("/{path:.*}", accept)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        strict = Gateway(url, missing="raise")
        target = url.replace("http", scheme)
        async with connected(session_id_trace_config(strict)) as client:
            with session_scope("sess-1"):
                for path in ("/", "/away"):
                    async with client.ws_connect(target + path, headers=MARKED) as socket:
                        await socket.receive()
            with pytest.raises(MissingSessionId, match=f"GET {url}/ is bound"):
                await client.ws_connect(f"{target}/", headers=MARKED)
        await runner.cleanup()

    run(calls)
    attributed = ("sess-1", MARKED["X-Cagent-Forward"])
    assert opened == [attributed, attributed, (None, None)]


@pytest.mark.parametrize(
    ("headers", "fails"),
    [
        ({}, False),  # aiohttp returns the answer itself
        ({"Location": "http://[elsewhere"}, True),
        ({"Location": "ftp://elsewhere.example/"}, True),
        ({"URI": "/new"}, False),
    ],
)
def test_redirects_end_as_they_do_without_us(
    headers: dict[str, str], fails: bool, gateway: Any
) -> None:
    gateway.answer("/old", 307, headers)
    ends: list[Any] = []

    async def call(*configs: aiohttp.TraceConfig) -> None:
        async with connected(*configs) as client:
            try:
                ends.append((await get(client, f"{gateway.url}/old", headers=MARKED)).status)
            except (aiohttp.ClientError, ValueError) as raised:
                ends.append((type(raised), str(raised)))

    run(call)
    with session_scope("sess-1"):
        run(lambda: call(session_id_trace_config(gateway.url)))
    assert ends[0] == ends[1]
    assert isinstance(ends[1], tuple) == fails
    assert set(gateway.session_ids) == {None, "sess-1"}


def test_the_package_works_without_aiohttp() -> None:
    program = """
import sys
sys.modules["aiohttp"] = None
from cagent_session import *
instrument("https://gateway.example")
try:
    session_id_trace_config()
except ModuleNotFoundError as error:
    print(error)
"""
    shown = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert "aiohttp" in shown
