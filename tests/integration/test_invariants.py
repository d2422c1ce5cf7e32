"""A Hypothesis state machine that looks for a session ID where the rule forbids it."""

from __future__ import annotations

import copy
import pickle
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any, ClassVar

import httpx
import requests
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule
from requests.adapters import BaseAdapter
from requests.auth import HTTPDigestAuth

from cagent_session import (
    current_session_id,
    gateway_headers,
    mount,
    session_id_hook,
    session_scope,
    unmount,
)

GATEWAY = "https://gw.example"
PORT = "https://gw.example:8443"
HOSTS = [
    GATEWAY,
    PORT,
    "http://gw.example",
    "https://evil.example",
    "https://gw.example.evil.example",
]
FORWARD = "https://api.openai.com/v1"
IDENTITY = gateway_headers(FORWARD, provider="openai", model="gpt-4o")
CHALLENGE = 'Digest realm="r", nonce="n", qop="auth", algorithm=SHA-256'


@dataclass
class Hop:
    """One request, as it arrived in the network."""

    origin: str
    cagent_headers: dict[str, Any]

    @property
    def session_id(self) -> Any:
        return self.cagent_headers.get("x-cagent-session-id")


@dataclass
class Network:
    """The network of all clients. It records each request, and redirects it along a route."""

    route: list[str] = field(default_factory=list)
    challenge: bool = False
    arrived: list[Hop] = field(default_factory=list)

    def answer(self, url: str, headers: Any) -> tuple[int, dict[str, str]]:
        names = {name.lower(): value for name, value in headers.items()}
        ours = {name: value for name, value in names.items() if name.startswith("x-cagent-")}
        self.arrived.append(Hop(origin_in(url), ours))
        if self.challenge and "authorization" not in names:
            return 401, {"WWW-Authenticate": CHALLENGE}
        self.challenge = False
        if self.route:
            return 307, {"Location": f"{self.route.pop(0)}/next"}
        return 200, {}


NETWORK = Network()


def origin_in(url: str) -> str:
    return "/".join(url.split("/")[:3])


class NetworkAdapter(BaseAdapter):
    """The inner adapter of each session. It can be copied and pickled."""

    def send(self, request: Any, **options: Any) -> requests.Response:  # type: ignore[override]
        status, headers = NETWORK.answer(request.url or "", request.headers)
        response = requests.Response()
        response.status_code, response.url, response.request = status, request.url or "", request
        response.headers.update(headers)
        response.raw = None
        response._content = b""
        response.connection = self  # type: ignore[assignment]
        return response

    def close(self) -> None:
        pass


def new_session() -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    for prefix in ("https://", "http://", "https://gw.example/v1/"):
        session.mount(prefix, NetworkAdapter())
    return session


def prepare(host: str, path: str, marked: bool, callers: str | None) -> requests.PreparedRequest:
    headers = {
        **(IDENTITY if marked else {}),
        **({"x-cagent-session-id": callers} if callers else {}),
    }
    return requests.Request("POST", host + path, headers=headers, json={}).prepare()


ROUTES = st.lists(st.sampled_from(HOSTS), max_size=4)
REQUESTS = st.builds(
    prepare,
    st.sampled_from(HOSTS),
    st.sampled_from(["/", "/v1/chat/completions"]),
    marked=st.sampled_from([True, True, False]),
    callers=st.sampled_from([None, None, "callers"]),
)


@dataclass
class Client:
    """A requests.Session, and its expected state."""

    session: requests.Session
    gateway: str | None = None
    mounted: bool = False


class Sessions(RuleBasedStateMachine):
    """Mount, unmount, copy, pickle, send, redirect, enter and leave scopes, in any order.

    Each request that arrives is compared with a simple model of the rule. The model knows the
    innermost open scope at the time of the call, the client's gateway, and whether the redirects
    have left an origin.
    """

    clients = Bundle("clients")
    prepared = Bundle("prepared")
    scopes = Bundle("scopes")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[session_scope] = []
        NETWORK.arrived, NETWORK.route, NETWORK.challenge = [], [], False

    def teardown(self) -> None:
        for scope in self.open:
            scope.__exit__(None, None, None)
        assert current_session_id() is None

    # Scopes

    @rule(target=scopes, session_id=st.sampled_from(["sess-1", "sess-2", "sess-3", None]))
    def enter(self, session_id: str | None) -> session_scope:
        scope = session_scope(session_id)
        assert scope.__enter__() == session_id
        self.open.append(scope)
        self.check_scope()
        return scope

    @rule(scope=scopes)
    def leave(self, scope: session_scope) -> None:
        """Leave any scope, also one that was left before."""
        scope.__exit__(None, None, None)
        if scope in self.open:
            self.open.remove(scope)
        self.check_scope()

    @rule(scope=scopes)
    def leave_in_another_context(self, scope: session_scope) -> None:
        copy_context().run(scope.__exit__, None, None, None)
        self.check_scope()

    @property
    def current(self) -> str | None:
        return self.open[-1].session_id if self.open else None

    def check_scope(self) -> None:
        assert current_session_id() == self.current

    # Clients

    @initialize(target=clients)
    def start_with_one(self) -> Client:
        return Client(mount(new_session()), mounted=True)

    @rule(target=clients, gateway=st.sampled_from([None, GATEWAY, PORT]))
    def make(self, gateway: str | None) -> Client:
        return Client(mount(new_session(), gateway), gateway, mounted=True)

    @rule(
        client=clients, gateway=st.sampled_from([None, GATEWAY, "https://GW.example.:443/v1", PORT])
    )
    def mount(self, client: Client, gateway: str | None) -> None:
        mount(client.session, gateway)
        client.gateway, client.mounted = gateway, True

    @rule(client=clients)
    def fail_to_mount(self, client: Client) -> None:
        before = list(client.session.adapters.items())
        try:
            mount(client.session, "https://user:password@gw.example")
        except ValueError:
            assert list(client.session.adapters.items()) == before

    @rule(client=clients)
    def unmount(self, client: Client) -> None:
        unmount(client.session)
        client.gateway, client.mounted = None, False
        assert {type(adapter) for adapter in client.session.adapters.values()} == {NetworkAdapter}

    @rule(
        target=clients,
        client=clients,
        duplicate=st.sampled_from(
            [copy.deepcopy, lambda session: pickle.loads(pickle.dumps(session))]
        ),
    )
    def duplicate(self, client: Client, duplicate: Any) -> Client:
        return Client(duplicate(client.session), client.gateway, client.mounted)

    # Requests

    sending: ClassVar[dict[str, Any]] = {
        "client": clients,
        "route": ROUTES,
        "by_hand": st.booleans(),
    }

    @rule(target=prepared, request=REQUESTS, digest=st.booleans(), **sending)
    def send_new(self, client: Client, request: Any, digest: bool, **how: Any) -> Any:
        if digest:
            request.prepare_auth(HTTPDigestAuth("user", "password"))
        self.sent_through(client, request, challenged=digest, **how)
        return request

    @rule(request=prepared, **sending)
    def send_again(self, client: Client, request: Any, **how: Any) -> None:
        self.sent_through(client, request, **how)

    @rule(
        sender=clients,
        request=prepared,
        duplicate=st.sampled_from([lambda sent: sent, lambda sent: sent.copy(), copy.copy]),
        **sending,
    )
    def send_a_sent_request_again(
        self, sender: Client, client: Client, request: Any, duplicate: Any, **how: Any
    ) -> None:
        """Send a request by one client in a session, and then again by another client."""
        if not sender.mounted:
            return
        callers = request.headers.get("X-Cagent-Session-Id")
        NETWORK.arrived = []
        with session_scope("sess-earlier"):
            sent = sender.session.send(request).request
        self.sent_through(client, duplicate(sent), callers=callers, **how)

    def sent_through(
        self,
        client: Client,
        request: requests.PreparedRequest,
        route: list[str],
        *,
        by_hand: bool = False,
        challenged: bool = False,
        callers: Any = ...,
    ) -> None:
        if not client.mounted:
            return
        NETWORK.arrived, NETWORK.route, NETWORK.challenge = [], list(route), challenged
        marked = "X-Cagent-Forward" in request.headers
        callers = request.headers.get("X-Cagent-Session-Id") if callers is ... else callers
        before = dict(request.headers)
        origin = origin_in(request.url or "")
        response = client.session.send(request, allow_redirects=not by_hand)
        while by_hand and response.next is not None:
            response = client.session.send(response.next, allow_redirects=False)
        self.check(
            client.gateway, [origin, *[origin] * challenged, *route], marked=marked, callers=callers
        )
        assert dict(request.headers) == before

    def check(self, gateway: str | None, chain: list[str], *, marked: bool, callers: Any) -> None:
        """Compare the requests that arrived along *chain* with the rule."""
        assert [hop.origin for hop in NETWORK.arrived] == chain
        stayed = True
        for previous, hop in zip([chain[0], *chain], NETWORK.arrived, strict=False):
            upgraded = (previous, hop.origin) == ("http://gw.example", "https://gw.example")
            stayed = stayed and (hop.origin == previous or upgraded)
            bound = (
                stayed
                and marked
                and (gateway is None or hop.origin == (PORT if gateway == PORT else GATEWAY))
            )
            assert hop.session_id == ((self.current or callers) if bound else None)
            if not stayed or (gateway is not None and not bound):
                assert hop.cagent_headers == {}

    # httpx, with the same model

    @rule(
        gateway=st.sampled_from([None, GATEWAY, PORT]),
        host=st.sampled_from(HOSTS),
        route=ROUTES,
        marked=st.booleans(),
        callers=st.sampled_from([None, "callers"]),
        times=st.integers(1, 2),
    )
    def send_through_httpx(
        self,
        gateway: str | None,
        host: str,
        route: list[str],
        marked: bool,
        callers: str | None,
        times: int,
    ) -> None:
        def answer(request: httpx.Request) -> httpx.Response:
            status, headers = NETWORK.answer(str(request.url), request.headers)
            return httpx.Response(status, headers=headers)

        headers = {
            **(IDENTITY if marked else {}),
            **({"x-cagent-session-id": callers} if callers else {}),
        }
        hooks: Any = {"request": [session_id_hook(gateway)]}
        with httpx.Client(
            transport=httpx.MockTransport(answer), event_hooks=hooks, follow_redirects=True
        ) as client:
            request = client.build_request("POST", f"{host}/v1", headers=headers)
            for _ in range(times):
                NETWORK.arrived, NETWORK.route = [], list(route)
                client.send(request)
                self.check(gateway, [host, *route], marked=marked, callers=callers)
                with session_scope("sess-between"):
                    NETWORK.route = list(route)
                    client.send(request)


TestSessions = Sessions.TestCase
TestSessions.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
