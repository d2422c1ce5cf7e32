"""How does each solution put the session on a call? Ours and its peers, behind one face.

Each is set up in its own favour, as its documentation has it, and as narrowly as it can be: what can be told which URLs
may get the session is told the gateways'.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import ssl
import uuid
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar
from urllib.parse import unquote_plus

import httpx
import requests
import sentry_sdk
from arrivals import Places
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.instrumentation.threading import ThreadingInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from requests.auth import HTTPDigestAuth
from sentry_sdk.transport import Transport

from cagent_session import (
    InvalidSessionId,
    carry_session,
    in_session,
    mount,
    session_id_hook,
    session_scope,
)

SESSION_ID_HEADER = "X-Cagent-Session-Id"
MARKED = {"X-Cagent-Forward": "https://api.openai.com/v1"}
TIMEOUT = 30

Events = Callable[[], Iterator[Any]]


class OnRequests:
    """What differs between the clients: here, a requests.Session."""

    digest = HTTPDigestAuth
    post = staticmethod(requests.post)

    def make(self, places: Places) -> Any:
        session = requests.Session()
        session.trust_env, session.verify = False, places.ca
        return session

    def send(self, client: Any, url: str, *, follow: bool = True, **options: Any) -> Any:
        return client.post(url, json={}, allow_redirects=follow, timeout=TIMEOUT, **options)

    def prepare(self, client: Any, url: str) -> Any:
        return client.prepare_request(requests.Request("POST", url, json={}, headers=MARKED))

    def resend(self, client: Any, prepared: Any) -> Any:
        return client.send(prepared, timeout=TIMEOUT)

    def next_of(self, response: Any) -> Any:
        return response.next


class OnHttpx:
    """The same for an httpx.Client."""

    digest = httpx.DigestAuth
    post = staticmethod(httpx.post)

    def make(self, places: Places) -> Any:
        return httpx.Client(
            trust_env=False, verify=ssl.create_default_context(cafile=places.ca), timeout=TIMEOUT
        )

    def send(self, client: Any, url: str, *, follow: bool = True, **options: Any) -> Any:
        return client.post(url, json={}, follow_redirects=follow, **options)

    def prepare(self, client: Any, url: str) -> Any:
        return client.build_request("POST", url, json={}, headers=MARKED)

    def resend(self, client: Any, prepared: Any) -> Any:
        return client.send(prepared, follow_redirects=True)

    def next_of(self, response: Any) -> Any:
        return response.next_request


class Solution:
    """One way to tell the gateway whose session a call is made in. All of an agent's sessions share a client."""

    name: ClassVar[str]
    made_of: ClassVar[str] = ""
    transport: ClassVar[Any] = OnRequests()
    packages: ClassVar[tuple[str, ...]] = ("requests",)  # whose versions tell what was compared
    refusals: ClassVar[tuple[type[Exception], ...]] = (  # of an ID; httpx has the third for what is no text
        ValueError, TypeError, AttributeError, httpx.LocalProtocolError,
    )  # fmt: skip

    def __init__(self, places: Places) -> None:
        self.places = places
        self.clients: dict[str, Any] = {}

    def client(self, gateway: str) -> Any:
        """Return the application's one client for this gateway."""
        if gateway not in self.clients:
            self.clients[gateway] = self.adopt(self.transport.make(self.places), gateway)
        return self.clients[gateway]

    def adopt(self, client: Any, gateway: str) -> Any:
        """Prepare a client that somebody else has made, such as an SDK; what patches globally has nothing to do."""
        return client

    def also(self, client: Any) -> None:
        """Take notice of a copy that the application has made of its client."""
        self.clients[f"copy {len(self.clients)}"] = client

    def renew(self) -> None:
        """Forget the clients, for the next scenario."""
        for client in self.clients.values():
            client.close()
        self.clients.clear()

    def scope(self, session_id: Any) -> AbstractContextManager[Any]:
        """Return a context manager in which calls are made in this session."""
        raise NotImplementedError

    def events(self, session_id: str, body: Events) -> Generator[Any, None, None]:
        """Run a generator's body in a session; peers have the scope in the generator, around its ``yield``."""
        with self.scope(session_id):
            yield from body()

    def to_thread(self, job: Callable[[], Any]) -> Callable[[], Any]:
        """Return what a thread is to run; what instruments threads has nothing to do here."""
        return job

    def to_process(self, job: Callable[[], Any]) -> Callable[[], Any]:
        """Return what a process is to run."""
        raise NotImplementedError

    @staticmethod
    def found_in(headers: Mapping[str, str], known: Collection[str]) -> str | None:
        """Tell whose session the gateway takes a call for: by the header, unless it is something else."""
        return headers.get(SESSION_ID_HEADER.lower()) or None


class Adapter(Solution):
    """Ours on requests: ``mount(session, gateway=URL)``."""

    name = "adapter"
    refusals = (InvalidSessionId,)

    def adopt(self, client: Any, gateway: str) -> Any:
        return mount(client, self.pinned(gateway))

    def pinned(self, gateway: str) -> str | None:
        return gateway

    def scope(self, session_id: Any) -> AbstractContextManager[Any]:
        return session_scope(session_id)

    def events(self, session_id: str, body: Events) -> Generator[Any, None, None]:
        events: Generator[Any, None, None] = in_session(lambda: session_id)(body)()  # type: ignore[assignment]
        return events

    def to_thread(self, job: Callable[[], Any]) -> Callable[[], Any]:
        return carry_session(job)

    to_process = to_thread


class Hooks(Adapter):
    """Ours on httpx: ``Client(event_hooks={"request": [session_id_hook(URL)]})``."""

    name = "hooks"
    transport = OnHttpx()

    def adopt(self, client: Any, gateway: str) -> Any:
        client.event_hooks = {"request": [session_id_hook(self.pinned(gateway))]}
        return client


class AdapterUntold(Adapter):
    """Ours where it isn't told the gateway's URL: the marker alone decides."""

    name = "adapter, no URL"

    def pinned(self, gateway: str) -> None:
        return None


class HooksUntold(Hooks):
    """The same on httpx."""

    name = "hooks, no URL"

    def pinned(self, gateway: str) -> None:
        return None


class OpenTelemetry(Solution):
    """Its instrumentation of requests.

    That of threads takes the context there, ``inject`` and ``extract`` take it to processes.
    """

    name = "OpenTelemetry"
    made_of = (
        "the session in baggage, excluded_urls for all but the gateway, and its instrumentation of threads, but not "
        "that of urllib3"
    )
    packages = (
        "opentelemetry-instrumentation-requests", "opentelemetry-instrumentation-threading", "opentelemetry-sdk",
    )  # fmt: skip

    def __init__(self, places: Places) -> None:
        super().__init__(places)
        trace.set_tracer_provider(TracerProvider())
        RequestsInstrumentor().instrument(excluded_urls=self.excluded_urls(places))
        ThreadingInstrumentor().instrument()

    def excluded_urls(self, places: Places) -> str | None:
        return f"^(?!({'|'.join(map(re.escape, places.gateways))})/)"

    @contextmanager
    def scope(self, session_id: Any) -> Iterator[None]:
        token = context.attach(baggage.set_baggage("session.id", session_id))
        try:
            yield
        finally:
            context.detach(token)

    def to_process(self, job: Callable[[], Any]) -> Callable[[], Any]:
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        return functools.partial(_extracted, carrier, job)

    @staticmethod
    def found_in(headers: Mapping[str, str], known: Collection[str]) -> str | None:
        members = (member.strip() for member in headers.get("baggage", "").split(","))
        found = (
            member.removeprefix("session.id=")
            for member in members
            if member.startswith("session.id=")
        )
        return unquote_plus(next(found, "")) or None


def _extracted(carrier: dict[str, str], job: Callable[[], Any]) -> Any:
    token = context.attach(propagate.extract(carrier))
    try:
        return job()
    finally:
        context.detach(token)


class Nowhere(Transport):
    """A stand-in for Sentry's own transport, which sends nothing."""

    def capture_envelope(self, envelope: Any) -> None:
        pass


class Sentry(Solution):
    """Its tracing. It hands on no baggage but its own, and trace IDs of 32 hexadecimal digits.

    Its integration of threads is on by default, and ``get_traceparent`` takes a trace to processes.
    """

    name = "Sentry"
    made_of = (
        "a trace for each session, and trace_propagation_targets for the gateway; the trace's ID is derived from the "
        "session's, so that a gateway has to know the session to tell whose trace it is"
    )
    packages = ("sentry-sdk", "requests")

    def __init__(self, places: Places) -> None:
        super().__init__(places)
        sentry_sdk.init(
            dsn="https://key@sentry.invalid/1",
            transport=Nowhere,
            release="1",
            traces_sample_rate=1.0,
            **self.options(places),
        )

    def options(self, places: Places) -> dict[str, Any]:
        return {
            "trace_propagation_targets": [f"^{re.escape(gateway)}/" for gateway in places.gateways]
        }

    @staticmethod
    def trace_id_of(session_id: Any) -> str:
        return uuid.uuid5(uuid.NAMESPACE_OID, str(session_id)).hex

    def scope(self, session_id: Any) -> AbstractContextManager[Any]:
        return _continued(f"{self.trace_id_of(session_id)}-{os.urandom(8).hex()}-1")

    def to_process(self, job: Callable[[], Any]) -> Callable[[], Any]:
        return functools.partial(_in, _continued, sentry_sdk.get_traceparent(), job)

    @staticmethod
    def found_in(headers: Mapping[str, str], known: Collection[str]) -> str | None:
        sessions = {Sentry.trace_id_of(session_id): session_id for session_id in known}
        return sessions.get(headers.get("sentry-trace", "").partition("-")[0])


@contextmanager
def _continued(traceparent: str) -> Iterator[None]:
    with sentry_sdk.isolation_scope():
        transaction = sentry_sdk.continue_trace(
            {"sentry-trace": traceparent}, op="agent", name="session"
        )
        with sentry_sdk.start_transaction(transaction):
            yield


def _in(
    scope: Callable[[Any], AbstractContextManager[Any]], session_id: Any, job: Callable[[], Any]
) -> Any:
    with scope(session_id):
        return job()


class SessionHeaders(Solution):
    """What people do today. To a process the ID goes as an argument."""

    name = "session.headers"
    made_of = "the header set on the one requests.Session that all share, and put back where the agent's session ends"

    @contextmanager
    def scope(self, session_id: Any) -> Iterator[None]:
        earlier = [
            (client, client.headers.get(SESSION_ID_HEADER)) for client in self.clients.values()
        ]
        try:
            for client, _ in earlier:
                client.headers[SESSION_ID_HEADER] = session_id
            yield
        finally:
            for client, value in earlier:
                if value is None:
                    client.headers.pop(SESSION_ID_HEADER, None)
                else:
                    client.headers[SESSION_ID_HEADER] = value

    def to_process(self, job: Callable[[], Any]) -> Callable[[], Any]:
        current = next(
            (client.headers.get(SESSION_ID_HEADER) for client in self.clients.values()), None
        )
        return functools.partial(_in_process, self.name, self.places, current, job)


_session: ContextVar[Any] = ContextVar("session", default=None)


class HandMade(Solution):
    """What people write by hand. To threads and processes the ID goes as an argument."""

    name = "hook by hand"
    made_of = (
        "a request hook of httpx, which sets the header from a context variable where the marker is, and looks at "
        "nothing else, as docker-agent's transport does"
    )
    transport = OnHttpx()
    packages = ("httpx",)

    def adopt(self, client: Any, gateway: str) -> Any:
        def hook(request: httpx.Request) -> None:
            session_id = _session.get()
            if session_id is not None and "X-Cagent-Forward" in request.headers:
                request.headers[SESSION_ID_HEADER] = session_id

        client.event_hooks = {"request": [hook]}
        return client

    @contextmanager
    def scope(self, session_id: Any) -> Iterator[None]:
        token = _session.set(session_id)
        try:
            yield
        finally:
            _session.reset(token)

    def to_thread(self, job: Callable[[], Any]) -> Callable[[], Any]:
        return functools.partial(_in_process, self.name, self.places, _session.get(), job)

    to_process = to_thread


class OpenTelemetryUntold(OpenTelemetry):
    """The same where it isn't told the gateway's URL."""

    name = "OpenTelemetry, no URL"

    def excluded_urls(self, places: Places) -> None:
        return None


class SentryUntold(Sentry):
    """The same where it isn't told the gateway's URL."""

    name = "Sentry, no URL"

    def options(self, places: Places) -> dict[str, Any]:
        return {}


class Mute(Solution):
    """Wrong on purpose: it tells nobody anything. A scenario that finds it right expects nothing."""

    name = "mute"

    def scope(self, session_id: Any) -> AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def to_process(self, job: Callable[[], Any]) -> Callable[[], Any]:
        return job


class Blunt(Mute):
    """Wrong on purpose: it tells everybody the same. A scenario that finds it right forbids nothing."""

    name = "blunt"

    def adopt(self, client: Any, gateway: str) -> Any:
        client.headers[SESSION_ID_HEADER] = "sess-blunt"
        return client


OURS: tuple[type[Solution], ...] = (Adapter, Hooks)
PEERS: tuple[type[Solution], ...] = (OpenTelemetry, Sentry, SessionHeaders, HandMade)
UNTOLD: dict[type[Solution], type[Solution]] = {  # the gateway's URL, and the solution that is told it
    AdapterUntold: Adapter, HooksUntold: Hooks, OpenTelemetryUntold: OpenTelemetry, SentryUntold: Sentry,
}  # fmt: skip
CONTROLS: tuple[type[Solution], ...] = (Mute, Blunt)
BY_NAME = {solution.name: solution for solution in (*OURS, *PEERS, *UNTOLD, *CONTROLS)}


@functools.cache
def set_up(name: str, places: Places) -> Solution:
    """Set a solution up, once a process, as an application does when it starts."""
    return BY_NAME[name](places)


def _in_process(name: str, places: Places, session_id: Any, job: Callable[[], Any]) -> Any:
    """Run a job in the session whose ID was handed over, in whatever process this is."""
    solution = set_up(name, places)
    solution.client(places.gateway)
    with solution.scope(session_id) if session_id is not None else contextlib.nullcontext():
        return job()


def call_in_process(name: str, places: Places, url: str) -> None:
    """Make a marked call by the process's own client; such as a worker's job."""
    solution = set_up(name, places)
    solution.transport.send(solution.client(places.gateway), url, headers=MARKED)
