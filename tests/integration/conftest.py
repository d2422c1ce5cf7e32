"""Fixtures: servers that record the requests that arrive, and a client of each transport."""

from __future__ import annotations

import asyncio
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import aiohttp
import httpx
import httpx2
import pytest
import requests

from cagent_session import (
    Gateway,
    SessionIdAdapter,
    async_session_id_hook,
    instrument,
    mount,
    session_factory,
    session_id_hook,
    session_id_trace_config,
    uninstrument,
)

if TYPE_CHECKING:
    from cagent_session.reporting import Missing


@dataclass(frozen=True)
class Arrived:
    """One request as it arrived."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes

    def get(self, name: str) -> str | None:
        """Return the header's value, or ``None``. A header must not arrive twice."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(values) <= 1, f"{name} arrived {len(values)} times"
        return values[0] if values else None

    @property
    def session_id(self) -> str | None:
        return self.get("X-Cagent-Session-Id")

    @property
    def cagent_headers(self) -> set[str]:
        return {key.lower() for key, _ in self.headers if key.lower().startswith("x-cagent-")}


Answer = Callable[[BaseHTTPRequestHandler, Arrived], None]


@dataclass
class Server:
    """A loopback HTTP/1.1 server. It records every request, and answers 200 by default."""

    url: str = ""
    arrived: list[Arrived] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)

    @property
    def session_ids(self) -> list[str | None]:
        return [request.session_id for request in self.arrived]

    def answer(
        self, path: str, status: int, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> None:
        """Set the answer for *path*."""
        self.answers[path] = lambda handler, _: reply(handler, status, headers or {}, body)

    def answer_in_turn(self, path: str, *answers: tuple[int, dict[str, str]]) -> None:
        """Set the answers to the next requests for *path*: a status and headers each."""
        following = iter(answers)
        self.answers[path] = lambda handler, _: reply(handler, *next(following))

    def redirect(self, path: str, location: str, status: int = 302) -> None:
        """Redirect *path* to *location*."""
        self.answer(path, status, {"Location": location})


def tunnel(handler: BaseHTTPRequestHandler, address: str) -> None:
    """Forward bytes in both directions, as a proxy does after CONNECT (RFC 9110, 9.3.6)."""
    host, port = address.rsplit(":", 1)
    handler.close_connection = True
    with socket.create_connection((host, int(port)), 10) as far:
        handler.send_response(200)
        handler.end_headers()
        ends = {handler.connection: far, far: handler.connection}
        while True:
            for end in select.select(list(ends), [], [], 10)[0]:
                data = end.recv(65536)
                if not data:
                    return
                ends[end].sendall(data)


class Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # by default 5; a sixth connection would wait for a second


def reply(
    handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes = b""
) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def answer_ok(handler: BaseHTTPRequestHandler, _: Arrived) -> None:
    reply(handler, 200, {}, b"ok")


def read_body(handler: BaseHTTPRequestHandler) -> bytes:
    if handler.headers.get("Transfer-Encoding") != "chunked":
        return handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
    body = b""
    while size := int(handler.rfile.readline(), 16):
        body += handler.rfile.read(size)
        handler.rfile.readline()
    handler.rfile.readline()
    return body


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Return a function that starts a server. All servers stop at the end of the test."""
    running: list[ThreadingHTTPServer] = []

    def start(host: str = "127.0.0.1", wrap: Callable[[Any], Any] | None = None) -> Server:
        server = Server()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # otherwise an answer may take 40 milliseconds

            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65537)
                if not self.raw_requestline or not self.parse_request():
                    self.close_connection = True
                    return
                request = Arrived(self.command, self.path, self.headers.items(), read_body(self))
                server.arrived.append(request)
                if request.method == "CONNECT":
                    tunnel(self, request.path)
                    return
                server.answers.get(self.path.partition("?")[0], answer_ok)(self, request)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's
                pass

        listener = Listener((host, 0), Handler)
        if wrap is not None:
            listener.socket = wrap(listener.socket)
        server.url = f"{'http' if wrap is None else 'https'}://{host}:{listener.server_port}"
        running.append(listener)
        threading.Thread(
            target=listener.serve_forever, kwargs={"poll_interval": 0.002}, daemon=True
        ).start()
        return server

    yield start
    for listener in running:
        listener.shutdown()
        listener.server_close()


@pytest.fixture
def gateway(serve: Callable[..., Server]) -> Server:
    return serve()


@pytest.fixture
def elsewhere(serve: Callable[..., Server]) -> Server:
    """A server that is not the gateway. Its port differs, so its origin does, too."""
    return serve()


@pytest.fixture
def http() -> Iterator[requests.Session]:
    """Return a session that has no adapter of this library and ignores the machine's proxies."""
    with requests.Session() as session:
        session.trust_env = False
        yield session


Client = Callable[..., Any]
"""A client of any transport. ``client(method, url, headers)`` sends and follows redirects."""


def requests_client(session: requests.Session, stack: ExitStack) -> Client:
    session.trust_env = False
    stack.enter_context(session)
    return lambda method, url, headers=None: session.request(
        method, url, headers=headers, timeout=10
    )


def mounted_by_hand(gateway: str | None, missing: Missing) -> requests.Session:
    session = requests.Session()
    session.mount("http://", SessionIdAdapter(gateway, missing=missing))
    return session


def httpx_options(*hooks: Any) -> dict[str, Any]:
    """Return parameters for a client. It loads no certificates, because that is slow."""
    return {
        "event_hooks": {"request": list(hooks)},
        "follow_redirects": True,
        "trust_env": False,
        "verify": False,
    }


def httpx_client(module: Any, stack: ExitStack, *hooks: Any) -> Client:
    client = stack.enter_context(module.Client(**httpx_options(*hooks)))
    return lambda method, url, headers=None: client.request(method, url, headers=headers)


def async_httpx_client(module: Any, *hooks: Any) -> Client:
    options = httpx_options(*hooks)

    async def send(method: str, url: str, headers: dict[str, str] | None) -> Any:
        async with module.AsyncClient(**options) as client:
            return await client.request(method, url, headers=headers)

    return lambda method, url, headers=None: asyncio.run(send(method, url, headers))


def aiohttp_client(*configs: aiohttp.TraceConfig) -> Client:
    async def send(method: str, url: str, headers: dict[str, str] | None) -> None:
        async with (
            aiohttp.ClientSession(trace_configs=list(configs)) as client,
            client.request(method, url, headers=headers) as response,
        ):
            await response.read()

    return lambda method, url, headers=None: asyncio.run(send(method, url, headers))


def instrumented(url: str | None, missing: Missing, stack: ExitStack) -> None:
    assert url is not None
    instrument(url, missing=missing)
    stack.callback(uninstrument)


def one_of_requests(url: str | None, missing: Missing, stack: ExitStack) -> Client:
    instrumented(url, missing, stack)
    return lambda method, url, headers=None: requests.request(
        method, url, headers=headers, timeout=10
    )


def one_of_httpx(url: str | None, missing: Missing, stack: ExitStack) -> Client:
    client = httpx_client(httpx, stack)  # made before
    instrumented(url, missing, stack)
    return client


def one_of_async_httpx2(url: str | None, missing: Missing, stack: ExitStack) -> Client:
    instrumented(url, missing, stack)
    return async_httpx_client(httpx2)


def one_of_aiohttp(url: str | None, missing: Missing, stack: ExitStack) -> Client:
    instrumented(url, missing, stack)
    return aiohttp_client()


TRANSPORTS: dict[str, Callable[[str | None, Missing, ExitStack], Client]] = {
    "mount": lambda url, missing, stack: requests_client(
        mount(requests.Session(), url, missing=missing), stack
    ),
    "adapter": lambda url, missing, stack: requests_client(mounted_by_hand(url, missing), stack),
    "factory": lambda url, missing, stack: requests_client(
        session_factory(gateway=url, missing=missing)(), stack
    ),
    "httpx": lambda url, missing, stack: httpx_client(
        httpx, stack, session_id_hook(url, missing=missing)
    ),
    "httpx2": lambda url, missing, stack: httpx_client(
        httpx2, stack, session_id_hook(url, missing=missing)
    ),
    "async httpx": lambda url, missing, _: async_httpx_client(
        httpx, async_session_id_hook(url, missing=missing)
    ),
    "async httpx2": lambda url, missing, _: async_httpx_client(
        httpx2, async_session_id_hook(url, missing=missing)
    ),
    "aiohttp": lambda url, missing, _: aiohttp_client(
        session_id_trace_config(Gateway.of(url, missing))
    ),
}
INSTRUMENTED: dict[str, Callable[[str | None, Missing, ExitStack], Client]] = {
    "instrumented requests": one_of_requests,
    "instrumented httpx": one_of_httpx,
    "instrumented async httpx2": one_of_async_httpx2,
    "instrumented aiohttp": one_of_aiohttp,
}


@pytest.fixture(params=[*TRANSPORTS, *INSTRUMENTED])
def connect(request: pytest.FixtureRequest, gateway: Server) -> Iterator[Callable[..., Client]]:
    """Return a function that makes a client. Each test runs once with each transport.

    ``instrument`` always needs the gateway's URL.
    """
    always, make = gateway.url, {**TRANSPORTS, **INSTRUMENTED}[request.param]
    needs_url = request.param in INSTRUMENTED
    with ExitStack() as stack:

        def connect_with(gateway: str | None = None, missing: Missing = "omit") -> Client:
            return make(gateway or (always if needs_url else None), missing, stack)

        yield connect_with
