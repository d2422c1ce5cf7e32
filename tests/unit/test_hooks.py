"""Tests of the request hook for httpx and httpx2, offline."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable
from typing import Any

import httpx
import httpx2
import pytest

from cagent_session import (
    Gateway,
    InvalidGatewayURL,
    MissingSessionId,
    async_session_id_hook,
    compacting,
    gateway_headers,
    session_id_hook,
    session_scope,
)

GATEWAY = "https://gw.example"
MARKED = {"X-Cagent-Forward": "https://api.openai.com/v1"}

Answer = Callable[[Any], tuple[int, dict[str, str]]]


class Network:
    """Makes clients of *module*, and records the URL and our headers of each request."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.answer: Answer = lambda _: (200, {})
        self.sent: list[tuple[str, dict[str, str]]] = []
        self.requests: list[Any] = []

    def client(self, gateway: Any = None, *hooks: Any, kind: str = "Client", **options: Any) -> Any:
        """Return a client with a hook for *gateway*, or with these *hooks*."""
        return getattr(self.module, kind)(
            transport=self.module.MockTransport(self._handle),
            event_hooks={"request": list(hooks or [session_id_hook(gateway)])},
            follow_redirects=True,
            **options,
        )

    def _handle(self, request: Any) -> Any:
        headers = request.headers.items()
        ours = {name: value for name, value in headers if name.startswith("x-cagent-")}
        self.sent.append((str(request.url), ours))
        self.requests.append(request)
        status, headers = self.answer(request)
        return self.module.Response(status, headers=headers)

    @property
    def session_ids(self) -> list[str | None]:
        return [ours.get("x-cagent-session-id") for _, ours in self.sent]


@pytest.fixture(params=[httpx, httpx2], ids=["httpx", "httpx2"])
def module(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def net(module: Any) -> Network:
    return Network(module)


@pytest.mark.parametrize("callers", [None, "callers"])
def test_a_request_that_is_sent_again_carries_the_current_session(
    net: Network, callers: str | None
) -> None:
    """The hook removes its own ID, and restores the caller's."""
    own = {} if callers is None else {"X-Cagent-Session-Id": callers}
    with net.client(GATEWAY) as client:
        request = client.build_request("POST", GATEWAY, headers={**MARKED, **own})
        for session_id in ("sess-1", "sess-2", None, "sess-2", None):
            with session_scope(session_id):
                client.send(request)
    assert net.session_ids == ["sess-1", "sess-2", callers, "sess-2", callers]


def test_an_id_set_by_hand_between_two_sendings_counts_as_the_callers(net: Network) -> None:
    with net.client() as client:
        request = client.build_request("POST", GATEWAY, headers=MARKED)
        with session_scope("sess-1"):
            client.send(request)
        request.headers["X-Cagent-Session-Id"] = "by hand"
        client.send(request)
        with session_scope("sess-2"):
            client.send(request)
        client.send(request)
    assert net.session_ids == ["sess-1", "by hand", "sess-2", "by hand"]


def test_digest_authentication_keeps_the_session(net: Network, module: Any) -> None:
    challenge = {"WWW-Authenticate": 'Digest realm="gw", nonce="n", qop="auth", algorithm=SHA-256'}
    net.answer = lambda r: (200, {}) if "Authorization" in r.headers else (401, challenge)
    with net.client(GATEWAY) as client, session_scope("sess-1"):
        client.post(GATEWAY, headers=MARKED, auth=module.DigestAuth("user", "password"))
    assert net.session_ids == ["sess-1", "sess-1"]


def moved(request: Any) -> tuple[int, dict[str, str]]:
    """Redirect from the gateway to another host, on that host, and back to the gateway."""
    next_hop = {
        f"{GATEWAY}/one": "https://elsewhere.example/two",
        "https://elsewhere.example/two": "https://elsewhere.example/three",
        "https://elsewhere.example/three": f"{GATEWAY}/four",
    }
    location = next_hop.get(str(request.url))
    return (307, {"Location": location}) if location else (200, {})


def test_a_redirect_followed_by_hand_has_no_cagent_header(net: Network) -> None:
    net.answer = moved
    with net.client() as client, session_scope("sess-1"):
        response = client.post(f"{GATEWAY}/one", headers=MARKED, follow_redirects=False)
        while response.next_request is not None:
            response = client.send(response.next_request, follow_redirects=False)
    assert [ours for _, ours in net.sent[1:]] == [{}, {}, {}]


@pytest.mark.parametrize("shared", [False, True])
def test_the_callers_request_keeps_its_marker_when_a_redirect_left_the_origin(
    net: Network, shared: bool, monkeypatch: pytest.MonkeyPatch, module: Any
) -> None:
    """In httpx up to 0.27, all requests of a redirect share one dict of extensions."""
    build = module.Client._build_redirect_request

    def build_sharing(self: Any, request: Any, response: Any) -> Any:
        following = build(self, request, response)
        following.extensions = request.extensions
        return following

    if shared:
        monkeypatch.setattr(module.Client, "_build_redirect_request", build_sharing)
    net.answer = moved
    with net.client() as client, session_scope("sess-1"):
        request = client.build_request("POST", f"{GATEWAY}/one", headers=MARKED)
        client.send(request)
        client.send(request)
    assert net.session_ids == ["sess-1", None, None, None] * 2
    assert net.sent[4:] == net.sent[:4]


def test_a_second_hook_for_the_same_gateway_changes_nothing(net: Network) -> None:
    """A user and a library may each add a hook to the same client."""
    net.answer = moved
    hooks = session_id_hook(GATEWAY), session_id_hook(GATEWAY)
    with net.client(None, *hooks) as client, session_scope("sess-1"):
        request = client.build_request("POST", f"{GATEWAY}/one", headers=MARKED)
        client.send(request)
        with session_scope(None):
            client.send(request)
    assert net.session_ids == ["sess-1", None, None, None, None, None, None, None]
    assert net.sent[1:4] == net.sent[5:]


def test_the_extensions_of_client_and_caller_reach_the_transport(net: Network) -> None:
    """For example, time-outs and server names for TLS are extensions."""
    with net.client(GATEWAY, timeout=7) as client:
        client.post(GATEWAY, headers=MARKED, extensions={"sni_hostname": "gw.example"})
    extensions = net.requests[0].extensions
    assert (extensions["timeout"]["read"], extensions["sni_hostname"]) == (7, "gw.example")


def test_hooks_refuse_bad_settings_at_once() -> None:
    with pytest.raises(InvalidGatewayURL):
        session_id_hook("gw.example")
    with pytest.raises(ValueError, match="missing must be"):
        session_id_hook(missing="explode")  # type: ignore[arg-type] # the mistake that is tested


def test_one_hook_serves_tasks_and_synchronous_clients(net: Network) -> None:
    hook = session_id_hook(GATEWAY)

    async def main() -> None:
        async with net.client(None, hook, kind="AsyncClient") as client:

            async def call(number: int) -> None:
                with session_scope(f"sess-{number}"):
                    await asyncio.sleep(0)
                    await client.post(f"{GATEWAY}/{number}", headers=MARKED)

            await asyncio.gather(*map(call, range(16)))

    asyncio.run(main())
    with net.client(None, hook) as client, session_scope("sess-16"):
        client.post(f"{GATEWAY}/16", headers=MARKED)
    arrived = {url: ours["x-cagent-session-id"] for url, ours in net.sent}
    assert arrived == {f"{GATEWAY}/{number}": f"sess-{number}" for number in range(17)}
    assert async_session_id_hook is session_id_hook


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda hook: pickle.loads(pickle.dumps(hook))]
)
def test_a_hook_can_be_copied_and_pickled(net: Network, duplicate: Any) -> None:
    hook = duplicate(session_id_hook(GATEWAY, missing="raise"))
    assert hook.gateway == Gateway(GATEWAY, missing="raise")
    with net.client(None, hook) as client, session_scope("sess-1"):
        client.post(GATEWAY, headers=MARKED)
    assert net.session_ids == ["sess-1"]


def test_its_repr_shows_gateway_and_missing_but_no_query() -> None:
    hook = session_id_hook(f"{GATEWAY}/models?key=hunter2", missing="warn")
    assert repr(hook) == "session_id_hook(Gateway('https://gw.example/models', missing='warn'))"
    hook = session_id_hook(Gateway(GATEWAY), missing="warn")
    assert "missing='warn'" in repr(hook)


# Two hooks on one client


ONE, TWO = "https://one.example", "https://two.example"


def test_two_hooks_can_serve_two_gateways(net: Network) -> None:
    headers = {**MARKED, "X-Cagent-Model": "gpt-4o"}
    hooks = session_id_hook(ONE), session_id_hook(TWO)
    with net.client(None, *hooks) as client, session_scope("sess-1"):
        for url in (ONE, TWO, "https://three.example"):
            request = client.build_request("POST", url, headers=headers)
            client.send(request)
            client.send(request)
    stamped = {name.lower(): value for name, value in headers.items()}
    stamped["x-cagent-session-id"] = "sess-1"
    assert [ours for _, ours in net.sent] == [stamped] * 4 + [{}, {}]


A: Any = Gateway(ONE, session_header="x-a", marker="x-mark")
B: Any = Gateway(TWO, session_header="x-b", marker=None)


@pytest.mark.parametrize("hooks", [[A, B], [B, A]])
def test_two_hooks_can_serve_gateways_with_other_headers(net: Network, hooks: list[Any]) -> None:
    ours = {"x-a": "callers", "x-b": "callers", "x-mark": "1", "X-Cagent-Model": "m"}
    hooks = list(map(session_id_hook, hooks))
    with net.client(None, *hooks) as client, session_scope("sess-1"):
        for url in (ONE, TWO, "https://three.example"):
            request = client.build_request("POST", url, headers=ours)
            client.send(request)
            client.send(request)
    names = ("x-a", "x-b", "x-mark", "x-cagent-model")
    sent = [{n: v for n, v in request.headers.items() if n in names} for request in net.requests]
    to_a = {"x-a": "sess-1", "x-mark": "1", "x-cagent-model": "m"}
    to_b = {"x-b": "sess-1", "x-cagent-model": "m"}
    assert sent == [to_a, to_a, to_b, to_b, {}, {}]


@pytest.mark.parametrize("first", [None, ONE, A])
def test_a_redirect_is_one_for_each_of_several_hooks(net: Network, first: Any) -> None:
    net.answer = lambda request: (
        (307, {"Location": "https://new.example/"})
        if request.url.host == "old.example"
        else (200, {})
    )
    unknown = Gateway(session_header="x-s", marker="x-route")
    hooks = session_id_hook(first), session_id_hook(unknown)
    with net.client(None, *hooks) as client, session_scope("sess-1"):
        client.post("https://old.example", headers={"x-route": "openai"})
    sent, redirected = net.requests
    assert (sent.headers["x-s"], sent.headers["x-route"]) == ("sess-1", "openai")
    assert not {"x-s", "x-route"} & redirected.headers.keys()


def test_a_name_that_is_not_ascii_is_removed_too(net: Network) -> None:
    raw = [(b"X-Cagent-\xc2\x85Model", b"1"), (b"X-Other", b"1")]
    with net.client(GATEWAY) as client:
        request = client.build_request("POST", "https://other.example")
        request.headers = net.module.Headers([*request.headers.raw, *raw])
        client.send(request)
    names = [name.lower() for name, _ in net.requests[0].headers.raw]
    assert b"x-other" in names
    assert not any(name.startswith(b"x-cagent-") for name in names)


def test_headers_that_were_pickled_leave_nothing_blank(net: Network) -> None:
    with net.client(Gateway(GATEWAY, marker=None, root_header="X-Cagent-Root")) as client:
        with session_scope("sess-1"), compacting():
            sent = client.post(GATEWAY).request
        client.post(GATEWAY, headers=pickle.loads(pickle.dumps(sent.headers)))
    assert [ours for _, ours in net.sent] == [
        {
            "x-cagent-session-id": "sess-1",
            "x-cagent-root": "sess-1",
            "x-cagent-compacting": "1",
        },
        {},
    ]


def test_with_two_hooks_a_missing_session_is_noticed(net: Network) -> None:
    hooks = session_id_hook(ONE, missing="raise"), session_id_hook(TWO, missing="raise")
    with net.client(None, *hooks) as client:
        for url in (ONE, TWO):
            with pytest.raises(MissingSessionId):
                client.post(url, headers=MARKED)
            client.post(url, headers={**MARKED, "X-Cagent-Session-Id": "callers"})
    assert net.session_ids == ["callers", "callers"]


# Requests that are sent again


@pytest.mark.parametrize("gateway", [None, Gateway(ONE, TWO)])
def test_a_url_changed_by_the_caller_is_not_a_redirect(
    net: Network, gateway: Gateway | None, module: Any
) -> None:
    """For example, an authentication may try another host."""

    class Elsewhere(module.Auth):  # type: ignore[misc]
        def auth_flow(self, request: Any) -> Any:
            yield request
            request.url = module.URL(TWO)
            yield request

    with net.client(gateway) as client, session_scope("sess-1"):
        client.post(ONE, headers=MARKED, auth=Elsewhere())
    assert [url for url, _ in net.sent] == [ONE, TWO]
    assert net.session_ids == ["sess-1", "sess-1"]


def test_a_request_that_was_sent_to_another_host_first_gets_its_headers_back(net: Network) -> None:
    """The hook removes the caller's headers only while the request goes to another host."""
    with net.client(GATEWAY) as client, session_scope("sess-1"):
        request = client.build_request("POST", "https://other.example", headers=MARKED)
        client.send(request)
        request.url = net.module.URL(GATEWAY)
        client.send(request)
    assert [ours for _, ours in net.sent] == [
        {},
        {"x-cagent-forward": MARKED["X-Cagent-Forward"], "x-cagent-session-id": "sess-1"},
    ]


@pytest.mark.parametrize("callers", [None, "callers"])
def test_headers_reused_from_a_sent_request_have_no_old_session_id(
    net: Network, callers: str | None
) -> None:
    own = {} if callers is None else {"X-Cagent-Session-Id": callers}
    with net.client(GATEWAY) as client:
        with session_scope("sess-1"):
            sent = client.post(GATEWAY, headers={**MARKED, **own}).request
        client.post(GATEWAY, headers=sent.headers)
        client.post(GATEWAY, headers=copy.deepcopy(sent).headers)
        pickled = pickle.dumps(sent)
        client.post(GATEWAY, headers=pickle.loads(pickled).headers)
    assert net.session_ids == ["sess-1", callers, callers, callers]
    assert b"cagent_session" not in pickled


def test_headers_of_the_client_go_only_to_the_known_gateway(net: Network) -> None:
    headers = gateway_headers("https://api.openai.com/v1", install_id="machine-1")
    with net.client(GATEWAY, headers=headers) as client, session_scope("sess-1"):
        client.post("https://other.example")
        client.post(GATEWAY)
    assert [set(ours) for _, ours in net.sent] == [
        set(),
        {name.lower() for name in [*headers, "X-Cagent-Session-Id"]},
    ]


def test_a_client_with_another_hook_sends_no_old_session(net: Network) -> None:
    """In an earlier session, another client's hook has set an ID in the request."""
    with net.client(ONE) as first, net.client(TWO) as second:
        request = first.build_request("POST", ONE, headers=MARKED)
        with session_scope("sess-1"):
            first.send(request)
        with session_scope("sess-2"):
            second.send(request)
            request.url = net.module.URL("https://evil.example")
            second.send(request)
    assert net.session_ids == ["sess-1", "sess-2", None]
    assert net.sent[2][1] == {}
