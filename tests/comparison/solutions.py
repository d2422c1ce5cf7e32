"""The solutions: agents that tell the gateway to which session a call belongs.

All have the same methods, so that each scenario runs with each solution. A solution gets the
gateway's URL if it can use it. README.rst beside this file says how the peers are set up.
"""

from __future__ import annotations

import os
import re
import ssl
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache, partial
from typing import Any
from urllib.parse import unquote_plus, urlencode

import httpx
import requests
import sentry_sdk
from arrivals import Places
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.instrumentation.threading import ThreadingInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from requests.auth import HTTPDigestAuth

import cagent_session
from cagent_session import FORWARD_HEADER, SESSION_ID_HEADER

A, B = "sess-a", "sess-b"
MALFORMED: dict[str, Any] = {
    "empty": "", "a space at its end": "sess-a ", "CR LF and a header": "sess-a\r\nX-Injected: 1",
    "LF and a header": "sess-a\nX-Injected: 1", "CR LF and a fold": "sess-a\r\n 1",
    "NUL": "sess\0a", "a tab": "sess\ta", "DEL": "sess\x7fa", "Latin-1": "sess-\xe9",
    "beyond Latin-1": "sess-\u65e5\u672c", "10,000 characters": "s" * 10_000, "an int": 42,
}  # fmt: skip
MARKED = {FORWARD_HEADER: "https://api.openai.com/v1"}

Job = Callable[[], Any]
GeneratorFunction = Callable[[], Generator[Any, None, None]]
Scope = AbstractContextManager[Any]
Refusals = tuple[type[Exception], ...]


def at_the_end(function: Callable[[Any], None], token: Any) -> Scope:
    scope = ExitStack()
    scope.callback(function, token)
    return scope


class Solution:
    """An agent with one ``requests.Session`` that sends no ID: a scenario must notice that."""

    name = "no header"
    marked: Mapping[str, str] = MARKED  # headers of the agent's calls
    digest: Callable[[str, str], Any] = HTTPDigestAuth
    post: Callable[..., Any] = staticmethod(requests.post)
    follow_option = "allow_redirects"
    # The errors with which the solution or its client may refuse an ID that cannot be sent.
    refusals: Refusals = (ValueError, TypeError, AttributeError)

    def __init__(self, name: str, places: Places, gateways: tuple[str, ...]) -> None:
        self.name = name
        self.places = places
        self.gateways = gateways  # the URLs that the solution gets: both or none
        self.clients: list[Any] = []
        self.patch()
        self.start("")

    def start(self, scenario: str) -> None:
        """Begin a scenario, with a new client."""
        for client in self.clients:
            client.close()
        self.scenario = scenario
        self.clients = []
        self.use(self.new_client())

    def use(self, client: Any, gateway: str | None = None) -> None:
        """Set *client* up and make it the agent's client. It may be an SDK's client."""
        self.gateway = gateway or self.places.gateway
        self.client = self.set_up(client)
        self.clients.append(self.client)

    def url(self, owner: object = None, place: str | None = None, **answer: object) -> str:
        """Return a URL that names the call's owner and says how the server answers."""
        query = {"scenario": f"{self.name}: {self.scenario}", "owner": owner, **answer}
        given = {name: value for name, value in query.items() if value is not None}
        return f"{place or self.gateway}/v1/chat/completions?{urlencode(given)}"

    def call(self, owner: object = None, place: str | None = None, **answer: object) -> None:
        """Make a marked call that belongs to *owner*'s session."""
        self.send(self.url(owner, place, **answer))

    def job(self, owner: object) -> Job:
        """Return a job that makes such a call, with the agent of the process that runs it."""
        return partial(_send, self.name, self.places, self.url(owner))

    def new_client(self) -> Any:
        client = requests.Session()
        client.trust_env, client.verify = False, self.places.ca
        return client

    def send(self, url: str, *, follow: bool = True, **options: Any) -> Any:
        options = {"headers": self.marked, self.follow_option: follow, **options}
        return self.client.post(url, json={}, **options)

    def prepare(self, url: str) -> Any:
        return self.client.prepare_request(requests.Request("POST", url, self.marked, json={}))

    def patch(self) -> None:
        """Patch the libraries of this process."""

    def set_up(self, client: Any) -> Any:
        """Prepare *client* for the agent, and return it."""
        return client

    def scope(self, session_id: Any) -> Scope:
        """Return a context manager. Calls inside it belong to the session."""
        return nullcontext()

    def events(self, session_id: str, function: GeneratorFunction) -> Generator[Any, None, None]:
        """Run a generator in a session. With peers, the scope is around each ``yield``."""
        with self.scope(session_id):
            yield from function()

    def to_thread(self, job: Job) -> Job:
        """Return a job for a thread. It runs in the current session."""
        return job

    def to_process(self, job: Job) -> Job:
        """Return a job for another process. It runs in the current session."""
        return partial(_resume, self.name, self.places, self.exported(), job)

    def exported(self) -> Any:
        """Return the data with which another process can enter the current session."""

    def resumed(self, exported: Any) -> Scope:
        return self.scope(exported)

    @staticmethod
    def session_in(headers: Mapping[str, str]) -> str | None:
        """Return the ID that the gateway reads from the headers of a call."""
        return headers.get(SESSION_ID_HEADER.lower()) or None


class SameHeader(Solution):
    """A control that always sends the same ID: a scenario must notice that it is wrong."""

    name = "same header"

    def set_up(self, client: Any) -> Any:
        client.headers[SESSION_ID_HEADER] = "sess-same"
        return client


class OnHttpx(Solution):
    """An agent whose sessions share one ``httpx.Client``."""

    digest = httpx.DigestAuth
    post = staticmethod(httpx.post)
    follow_option = "follow_redirects"
    refusals: Refusals = (*Solution.refusals, httpx.LocalProtocolError)

    def new_client(self) -> Any:
        tls = ssl.create_default_context(cafile=self.places.ca)
        return httpx.Client(trust_env=False, verify=tls, timeout=30, follow_redirects=True)

    def prepare(self, url: str) -> Any:
        return self.client.build_request("POST", url, json={}, headers=self.marked)


class OurAdapter(Solution):
    name = "our adapter"
    refusals: Refusals = (cagent_session.InvalidSessionId,)

    def set_up(self, client: Any) -> Any:
        return cagent_session.mount(client, self.gateway if self.gateways else None)

    def scope(self, session_id: Any) -> Scope:
        return cagent_session.session_scope(session_id)

    def events(self, session_id: str, function: GeneratorFunction) -> Generator[Any, None, None]:
        return cagent_session.in_session(lambda: session_id)(function)()

    def to_thread(self, job: Job) -> Job:
        return cagent_session.carry_session(job)

    to_process = to_thread


class OurHook(OurAdapter, OnHttpx):
    name = "our hook"

    def set_up(self, client: Any) -> Any:
        hook = cagent_session.session_id_hook(self.gateway if self.gateways else None)
        client.event_hooks = {"request": [hook]}
        return client


class Instrument(OurAdapter):
    name = "instrument"
    marked: Mapping[str, str] = {}  # instrument() adds the marker

    def patch(self) -> None:
        gateway = cagent_session.Gateway(*self.gateways)
        cagent_session.instrument(gateway, headers=None if self.marked else MARKED)

    def set_up(self, client: Any) -> Any:
        return client


class InstrumentMarked(Instrument):
    name = "instrument, marked calls"
    marked = MARKED


class InstrumentOnHttpx(Instrument, OnHttpx):
    name = "instrument on httpx"


class OpenTelemetry(Solution):
    name = "OpenTelemetry"

    def patch(self) -> None:
        trace.set_tracer_provider(TracerProvider())
        others = f"^(?!({'|'.join(map(re.escape, self.gateways))})/)" if self.gateways else None
        RequestsInstrumentor().instrument(excluded_urls=others)
        ThreadingInstrumentor().instrument()

    def scope(self, session_id: Any) -> Scope:
        attached = baggage.set_baggage("session.id", session_id)
        return at_the_end(context.detach, context.attach(attached))

    def exported(self) -> Any:
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        return carrier

    def resumed(self, exported: Any) -> Scope:
        return at_the_end(context.detach, context.attach(propagate.extract(exported)))

    @staticmethod
    def session_in(headers: Mapping[str, str]) -> str | None:
        found = re.search(r"(?:^|,)\s*session\.id=([^,\s]+)", headers.get("baggage", ""))
        return unquote_plus(found[1]) if found else None


class Sentry(Solution):
    """A trace ID is made from the session's ID, because Sentry sends only its own baggage."""

    name = "Sentry"

    def patch(self) -> None:
        targets = [f"^{re.escape(url)}/" for url in self.gateways] or [".*"]
        sentry_sdk.init(release="1", traces_sample_rate=1.0, trace_propagation_targets=targets)

    @staticmethod
    def trace_id(session_id: Any) -> str:
        return uuid.uuid5(uuid.NAMESPACE_OID, str(session_id)).hex

    def scope(self, session_id: Any) -> Scope:
        return self.resumed(f"{self.trace_id(session_id)}-{os.urandom(8).hex()}-1")

    def exported(self) -> Any:
        return sentry_sdk.get_traceparent()

    @contextmanager
    def resumed(self, exported: Any) -> Iterator[None]:
        with sentry_sdk.isolation_scope():
            transaction = sentry_sdk.continue_trace({"sentry-trace": exported}, op="a", name="a")
            with sentry_sdk.start_transaction(transaction):
                yield

    @staticmethod
    def session_in(headers: Mapping[str, str]) -> str | None:
        sessions = {Sentry.trace_id(known): str(known) for known in (A, B, *MALFORMED.values())}
        return sessions.get(headers.get("sentry-trace", "").partition("-")[0])


class SessionHeaders(Solution):
    name = "session headers"

    @contextmanager
    def scope(self, session_id: Any) -> Iterator[None]:
        earlier = [(c.headers, c.headers.get(SESSION_ID_HEADER)) for c in self.clients]
        for headers, _ in earlier:
            headers[SESSION_ID_HEADER] = session_id
        try:
            yield
        finally:
            for headers, value in earlier:
                headers[SESSION_ID_HEADER] = value  # requests does not send None

    def exported(self) -> Any:
        return self.client.headers.get(SESSION_ID_HEADER)


class HookByHand(OnHttpx):
    name = "hook by hand"
    session: ContextVar[Any] = ContextVar("session", default=None)

    def set_up(self, client: Any) -> Any:
        def hook(request: httpx.Request) -> None:
            session_id = self.session.get()
            if session_id is not None and FORWARD_HEADER in request.headers:
                request.headers[SESSION_ID_HEADER] = session_id

        client.event_hooks = {"request": [hook]}
        return client

    def scope(self, session_id: Any) -> Scope:
        return at_the_end(self.session.reset, self.session.set(session_id))

    def exported(self) -> Any:
        return self.session.get()

    to_thread = Solution.to_process


OURS, PEERS = (OurAdapter, OurHook, Instrument), (OpenTelemetry, Sentry, SessionHeaders, HookByHand)
TESTED = (*OURS, InstrumentMarked, InstrumentOnHttpx)  # the table does not show the last two
# The solutions that can use the gateway's URL, here without it.
NO_URL = {f"{kind.name} without URL": kind for kind in (OurAdapter, OurHook, OpenTelemetry, Sentry)}
KINDS = {kind.name: kind for kind in (*TESTED, *PEERS, Solution, SameHeader)} | NO_URL


@cache
def agent(name: str, places: Places) -> Solution:
    """Return this process's agent of this name. There is only one."""
    return KINDS[name](name, places, () if name in NO_URL else places.gateways)


def _send(name: str, places: Places, url: str) -> None:
    agent(name, places).send(url)


def _resume(name: str, places: Places, exported: Any, job: Job) -> Any:
    with agent(name, places).resumed(exported):
        return job()
