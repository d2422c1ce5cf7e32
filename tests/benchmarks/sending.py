"""What does a send cost when nothing is sent? With us, with the alternatives, and with the least that can be done."""

from __future__ import annotations

import contextlib
import http.client
import io
import timeit
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx
import requests
import sentry_sdk
from opentelemetry import baggage, context
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.sdk.trace import TracerProvider, sampling
from requests.adapters import BaseAdapter, HTTPAdapter
from rounds import Row, Times, compared, each_round, paired
from sentry_sdk.integrations.stdlib import StdlibIntegration
from sentry_sdk.transport import Transport
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from cagent_session import (
    SESSION_ID_HEADER,
    SessionIdAdapter,
    gateway_headers,
    session_id_hook,
    session_scope,
)

GATEWAY = "http://gateway.example"
URL = f"{GATEWAY}/v1/chat/completions"
MARKER = gateway_headers("https://api.openai.com/v1", provider="openai", model="gpt-4o")
BODY: Any = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello!"}]}
SESSION_ID = "8e1e7ea5-d687-455f-b4e0-386a0f820f94"
SEND_ARGUMENTS: dict[str, Any] = {
    "stream": False,
    "timeout": None,
    "verify": True,
    "cert": None,
    "proxies": {},
}
SECONDS = 0.003


class NullAdapter(BaseAdapter):
    """A transport that has its answer ready."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = requests.Response()
        self.answer.status_code, self.answer.url = 200, URL

    def send(
        self, request: requests.PreparedRequest, *args: Any, **kwargs: Any
    ) -> requests.Response:
        return self.answer

    def close(self) -> None:
        pass


class NullSocket:
    """A connection at whose other end everything has been answered: for what patches ``http.client``."""

    def sendall(self, data: bytes) -> None:
        pass

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    def settimeout(self, seconds: float | None) -> None:
        pass

    def close(self) -> None:
        pass


class NullConnection(HTTPConnection):
    is_connected: Any = True  # urllib3 would ask the socket

    def connect(self) -> None:
        self.sock: Any = NullSocket()


class NullPool(HTTPConnectionPool):
    ConnectionCls: Any = NullConnection


class NullTransport(Transport):
    """Where Sentry's SDK sends what it has recorded."""

    def capture_envelope(self, envelope: object) -> None:
        pass


def over_null_socket() -> HTTPAdapter:
    adapter = HTTPAdapter()
    adapter.poolmanager.pool_classes_by_scheme = {"http": NullPool}
    return adapter


def prepared(**headers: str) -> requests.PreparedRequest:
    return requests.Session().prepare_request(
        requests.Request("POST", URL, headers=headers, json=BODY)
    )


@contextlib.contextmanager
def instrumented_by_opentelemetry(
    sampler: sampling.Sampler,
) -> Iterator[Callable[..., requests.Response]]:
    """Yield the ``Session.send`` of its instrumentation of requests; its spans go nowhere, which is the cheapest."""
    instrumentor: Any = RequestsInstrumentor()
    instrumentor.instrument(tracer_provider=TracerProvider(sampler=sampler))
    try:
        yield requests.Session.send
    finally:
        instrumentor.uninstrument()


def methods_in_use() -> dict[str, Any]:
    return {name: vars(http.client.HTTPConnection)[name] for name in ("putrequest", "getresponse")}


def patched_by_sentry() -> dict[str, Any]:
    """Return the methods of ``http.client`` as Sentry's SDK patches them, and leave these as they were.

    There is no transaction, so that it records nothing, and only propagates: the cheapest.
    """
    originals = methods_in_use()
    integrations = [StdlibIntegration()]
    options: dict[str, Any] = {"default_integrations": False, "auto_enabling_integrations": False}
    sentry_sdk.init(
        "http://key@127.0.0.1:1/1", transport=NullTransport, integrations=integrations, **options
    )
    patched = methods_in_use()
    use(originals)
    return patched


def use(methods: dict[str, Any]) -> None:
    for name, method in methods.items():
        setattr(http.client.HTTPConnection, name, method)


@contextlib.contextmanager
def cases() -> Iterator[dict[str, timeit.Timer]]:
    """Yield every case; those of one transport have the transport alone for a base."""
    marked, unmarked = prepared(**MARKER), prepared()
    null, floor = NullAdapter(), prepared(**MARKER)
    by_marker, pinned = SessionIdAdapter(inner=null), SessionIdAdapter(GATEWAY, inner=null)
    by_hand, session = prepared(**MARKER), requests.Session()
    session.trust_env = (
        False  # requests would look for proxies in the environment, for longer than all the rest
    )
    session.mount("http://", null)
    bare_send = requests.Session.send
    with instrumented_by_opentelemetry(sampling.ALWAYS_ON) as sampled_send:
        pass
    with instrumented_by_opentelemetry(sampling.ALWAYS_OFF) as unsampled_send:
        pass
    traced = prepared(**MARKER)  # it gets headers, and keeps them
    token = context.attach(baggage.set_baggage("session.id", SESSION_ID))
    socket = over_null_socket()
    own_socket = SessionIdAdapter(GATEWAY, inner=over_null_socket())
    own_methods = methods_in_use()
    sentrys_methods = patched_by_sentry()
    answer = httpx.MockTransport(lambda _: httpx.Response(200))
    client = httpx.Client(transport=answer)
    hooked = httpx.Client(transport=answer, event_hooks={"request": [session_id_hook(GATEWAY)]})

    def least() -> None:
        floor.copy().headers[SESSION_ID_HEADER] = SESSION_ID

    def set_by_hand() -> None:
        by_hand.headers[SESSION_ID_HEADER] = SESSION_ID
        null.send(by_hand, **SEND_ARGUMENTS)

    scope = contextlib.ExitStack()

    def send(client: httpx.Client) -> httpx.Request:
        request = httpx.Request(
            "POST", URL, headers=MARKER, json=BODY
        )  # a new one: the hook changes it
        client.send(request)
        return request

    def in_session(session_id: str | None) -> None:
        scope.close()
        scope.enter_context(session_scope(session_id))

    def timer(call: Callable[[], object], session_id: str | None = SESSION_ID) -> timeit.Timer:
        return timeit.Timer(call, lambda: in_session(session_id))

    def socket_timer(adapter: HTTPAdapter, methods: dict[str, Any]) -> timeit.Timer:
        def set_up() -> None:
            in_session(SESSION_ID)
            use(methods)

        # Read, or the connection would not be used again.
        return timeit.Timer(lambda: adapter.send(marked, **SEND_ARGUMENTS).content, set_up)

    in_session(SESSION_ID)
    assert send(hooked).headers[SESSION_ID_HEADER] == SESSION_ID
    yield {
        "floor": timer(least),
        "null": timer(lambda: null.send(marked, **SEND_ARGUMENTS)),
        "unmarked": timer(lambda: by_marker.send(unmarked, **SEND_ARGUMENTS)),
        "no session": timer(lambda: by_marker.send(marked, **SEND_ARGUMENTS), None),
        "marked": timer(lambda: by_marker.send(marked, **SEND_ARGUMENTS)),
        "pinned": timer(lambda: pinned.send(marked, **SEND_ARGUMENTS)),
        "by hand": timer(set_by_hand),
        "Session.send": timer(lambda: bare_send(session, marked)),
        "OpenTelemetry": timer(lambda: sampled_send(session, traced)),
        "OpenTelemetry unsampled": timer(lambda: unsampled_send(session, traced)),
        "HTTPAdapter": socket_timer(socket, own_methods),
        "HTTPAdapter wrapped": socket_timer(own_socket, own_methods),
        "Sentry": socket_timer(socket, sentrys_methods),
        "httpx": timer(lambda: send(client)),
        "httpx hooked": timer(lambda: send(hooked)),
    }
    scope.close()
    use(own_methods)
    context.detach(token)
    for each in (session, socket, own_socket, client, hooked):
        each.close()


def rows(rounds: int) -> tuple[Times, list[Row]]:
    with cases() as timers:
        times = paired(timers, rounds, SECONDS)

    def added(case: str, base: str = "null") -> Callable[[Mapping[str, float]], float]:
        return lambda one: one[case] - one[base]

    def in_floors(
        what: str, cost: Callable[[Mapping[str, float]], float], target: float | None = None
    ) -> Row:
        return Row(
            what,
            each_round(times, cost),
            each_round(times, lambda one: cost(one) / one["floor"]),
            target,
        )

    def of(what: str, ours: str, theirs: str, base: str, target: float) -> Row:
        return Row(
            what,
            (),
            each_round(times, lambda one: added(ours)(one) / added(theirs, base)(one)),
            target,
        )

    return times, [
        in_floors("the floor, PreparedRequest.copy() and a header", lambda one: one["floor"]),
        in_floors("ours, no marker", added("unmarked"), 0.25),
        in_floors("ours, marked, in no session", added("no session")),
        in_floors("ours, marked", added("marked"), 0.75),
        in_floors("ours, marked, the gateway pinned", added("pinned")),
        in_floors("a header that is set by hand", added("by hand")),
        in_floors(
            "OpenTelemetry, spans not sampled", added("OpenTelemetry unsampled", "Session.send")
        ),
        in_floors("OpenTelemetry, spans sampled", added("OpenTelemetry", "Session.send")),
        in_floors("Sentry, in no transaction", added("Sentry", "HTTPAdapter")),
        in_floors("our hook of httpx, the gateway pinned", added("httpx hooked", "httpx")),
        of(
            "ours, marked, of OpenTelemetry, spans sampled",
            "marked",
            "OpenTelemetry",
            "Session.send",
            1 / 15,
        ),
        of("ours, the gateway pinned, of not pinned", "pinned", "marked", "null", 1.2),
        compared(
            "ours around an HTTPAdapter, of a bare one", times, "HTTPAdapter wrapped", "HTTPAdapter"
        ),
        compared("a hooked client of httpx, of a bare one", times, "httpx hooked", "httpx"),
    ]
