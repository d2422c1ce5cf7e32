"""What do the request hooks do to the requests of httpx and httpx2?"""

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
    gateway_headers,
    session_id_hook,
    session_scope,
)

GATEWAY = "https://gw.example"
MARKED = {"X-Cagent-Forward": "https://api.openai.com/v1"}

Answer = Callable[[Any], tuple[int, dict[str, str]]]


class Network:
    """What an httpx client sends, and the answers it gets."""

    def __init__(self, module: Any, answer: Answer) -> None:
        self.module = module
        self.sent: list[tuple[str, dict[str, str]]] = []
        self._answer = answer

    def client(self, gateway: str | None = None, **options: Any) -> Any:
        transport = self.module.MockTransport(self._handle)
        hooks = {"request": [session_id_hook(gateway)]}
        return self.module.Client(
            transport=transport, event_hooks=hooks, follow_redirects=True, **options
        )

    def _handle(self, request: Any) -> Any:
        ours = {
            name: value for name, value in request.headers.items() if name.startswith("x-cagent-")
        }
        self.sent.append((str(request.url), ours))
        status, headers = self._answer(request)
        return self.module.Response(status, headers=headers)

    @property
    def session_ids(self) -> list[str | None]:
        return [ours.get("x-cagent-session-id") for _, ours in self.sent]


@pytest.fixture(params=[httpx, httpx2], ids=["httpx", "httpx2"])
def module(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def network(module: Any) -> Callable[..., Network]:
    return lambda answer=lambda _: (200, {}): Network(module, answer)


def test_a_request_sent_again_carries_the_session_of_that_sending(
    network: Callable[..., Network],
) -> None:
    """The hook takes back what it set, and restores what the caller had set."""
    net = network()
    with net.client(GATEWAY) as client:
        bare = client.build_request("POST", GATEWAY, headers=MARKED)
        theirs = client.build_request(
            "POST", GATEWAY, headers={**MARKED, "X-Cagent-Session-Id": "callers"}
        )
        for request in (bare, theirs):
            for session_id in ("sess-1", "sess-2", None, "sess-2", None):
                with session_scope(session_id):
                    client.send(request)
    assert net.session_ids[:5] == ["sess-1", "sess-2", None, "sess-2", None]
    assert net.session_ids[5:] == ["sess-1", "sess-2", "callers", "sess-2", "callers"]


def test_a_value_set_by_hand_between_two_sendings_is_the_callers(
    network: Callable[..., Network],
) -> None:
    net = network()
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


def test_digest_authentication_keeps_the_session(
    network: Callable[..., Network], module: Any
) -> None:
    challenge = {
        "WWW-Authenticate": 'Digest realm="gateway", nonce="abc", qop="auth", algorithm=SHA-256'
    }
    net = network(
        lambda request: (200, {}) if "Authorization" in request.headers else (401, challenge)
    )
    with net.client(GATEWAY) as client, session_scope("sess-1"):
        client.post(GATEWAY, headers=MARKED, auth=module.DigestAuth("user", "password"))
    assert net.session_ids == ["sess-1", "sess-1"]


def moved(request: Any) -> tuple[int, dict[str, str]]:
    """Redirect from the gateway to elsewhere, there once more, and back."""
    next_hop = {
        f"{GATEWAY}/one": "https://elsewhere.example/two",
        "https://elsewhere.example/two": "https://elsewhere.example/three",
        "https://elsewhere.example/three": f"{GATEWAY}/four",
    }
    location = next_hop.get(str(request.url))
    return (307, {"Location": location}) if location else (200, {})


@pytest.mark.parametrize("gateway", [None, GATEWAY])
def test_off_the_origin_the_headers_are_gone_for_good(
    network: Callable[..., Network], gateway: str | None
) -> None:
    net = network(moved)
    with net.client(gateway) as client, session_scope("sess-1"):
        client.post(
            f"{GATEWAY}/one", headers=gateway_headers("https://api.openai.com/v1", model="gpt-4o")
        )
    assert [url for url, _ in net.sent][1:] == [
        "https://elsewhere.example/two",
        "https://elsewhere.example/three",
        f"{GATEWAY}/four",
    ]
    assert [ours for _, ours in net.sent[1:]] == [{}, {}, {}]
    assert net.session_ids[0] == "sess-1"


def test_on_the_origin_the_headers_stay(network: Callable[..., Network]) -> None:
    """A redirect within the gateway is the gateway's own affair."""
    net = network(
        lambda request: (307, {"Location": "/two"}) if request.url.path == "/one" else (200, {})
    )
    with net.client(GATEWAY) as client, session_scope("sess-1"):
        client.post(f"{GATEWAY}/one", headers=MARKED)
    assert [url for url, _ in net.sent] == [f"{GATEWAY}/one", f"{GATEWAY}/two"]
    assert net.session_ids == ["sess-1", "sess-1"]


def test_next_request_followed_by_hand_takes_nothing_along(network: Callable[..., Network]) -> None:
    net = network(moved)
    with net.client() as client, session_scope("sess-1"):
        response = client.post(f"{GATEWAY}/one", headers=MARKED, follow_redirects=False)
        while response.next_request is not None:
            response = client.send(response.next_request, follow_redirects=False)
    assert [ours for _, ours in net.sent[1:]] == [{}, {}, {}]


@pytest.mark.parametrize("shared", [False, True])
def test_the_callers_request_keeps_its_marker_when_a_redirect_left_the_origin(
    network: Callable[..., Network], shared: bool, monkeypatch: pytest.MonkeyPatch, module: Any
) -> None:
    """Also where one extensions dict is shared over all hops, as in httpx up to 0.27."""
    if shared:
        build = module.Client._build_redirect_request

        def build_sharing(self: Any, request: Any, response: Any) -> Any:
            following = build(self, request, response)
            following.extensions = request.extensions
            return following

        monkeypatch.setattr(module.Client, "_build_redirect_request", build_sharing)
    net = network(
        lambda request: (
            (307, {"Location": "https://elsewhere.example/"})
            if "gw" in str(request.url)
            else (200, {})
        )
    )
    with net.client() as client, session_scope("sess-1"):
        request = client.build_request("POST", GATEWAY, headers=MARKED)
        client.send(request)
        client.send(request)
    assert net.session_ids == ["sess-1", None] * 2
    assert net.sent[2] == net.sent[0]


def test_a_second_hook_of_ours_changes_nothing(network: Callable[..., Network]) -> None:
    """A client hooked twice, by its user and by a library."""
    net = network(moved)
    with net.client(GATEWAY) as client, session_scope("sess-1"):
        client.event_hooks = {"request": [*client.event_hooks["request"], session_id_hook(GATEWAY)]}
        request = client.build_request("POST", f"{GATEWAY}/one", headers=MARKED)
        client.send(request)
        with session_scope(None):
            client.send(request)
    assert net.session_ids == ["sess-1", None, None, None, None, None, None, None]
    assert net.sent[1:4] == net.sent[5:]


def test_the_extensions_of_client_and_caller_reach_the_transport(module: Any) -> None:
    """Time-outs are among them, and names for TLS."""
    seen: list[dict[str, Any]] = []

    def handle(request: Any) -> Any:
        seen.append(request.extensions)
        return module.Response(200)

    hooks = {"request": [session_id_hook(GATEWAY)]}
    with module.Client(
        transport=module.MockTransport(handle), event_hooks=hooks, timeout=7
    ) as client:
        client.post(GATEWAY, headers=MARKED, extensions={"sni_hostname": "gw.example"})
    assert (seen[0]["timeout"]["read"], seen[0]["sni_hostname"]) == (7, "gw.example")


@pytest.mark.parametrize("make", [session_id_hook, async_session_id_hook])
def test_hooks_refuse_bad_settings_at_once(make: Callable[..., Any]) -> None:
    with pytest.raises(InvalidGatewayURL):
        make("gw.example")
    with pytest.raises(ValueError, match="missing must be"):
        make(missing="explode")


def test_async_hook_belongs_to_the_task_that_sends(module: Any) -> None:
    sent: list[tuple[str, str | None]] = []

    def handle(request: Any) -> Any:
        sent.append((request.url.path, request.headers.get("X-Cagent-Session-Id")))
        return module.Response(200)

    async def main() -> None:
        hooks = {"request": [async_session_id_hook(GATEWAY)]}
        async with module.AsyncClient(
            transport=module.MockTransport(handle), event_hooks=hooks
        ) as client:

            async def call(number: int) -> None:
                with session_scope(f"sess-{number}"):
                    await asyncio.sleep(0)
                    await client.post(f"{GATEWAY}/{number}", headers=MARKED)

            await asyncio.gather(*map(call, range(16)))

    asyncio.run(main())
    assert sorted(sent) == sorted((f"/{number}", f"sess-{number}") for number in range(16))


def test_async_hook_on_a_client_that_awaits_nothing_holds_to_the_rule(module: Any) -> None:
    sent: list[str | None] = []

    def handle(request: Any) -> Any:
        sent.append(request.headers.get("X-Cagent-Session-Id"))
        return module.Response(200)

    hooks = {"request": [async_session_id_hook(GATEWAY)]}
    with (
        module.Client(transport=module.MockTransport(handle), event_hooks=hooks) as client,
        session_scope("sess-1"),
    ):
        client.post(GATEWAY, headers=MARKED)
    assert sent == ["sess-1"]


def test_async_hook_raises_before_anything_is_sent(module: Any) -> None:
    async def main() -> None:
        hooks = {"request": [async_session_id_hook(missing="raise")]}
        transport = module.MockTransport(lambda _: pytest.fail("sent"))
        async with module.AsyncClient(transport=transport, event_hooks=hooks) as client:
            await client.post(GATEWAY, headers=MARKED)

    with pytest.raises(MissingSessionId):
        asyncio.run(main())


# One hook, for every client


def test_one_hook_serves_synchronous_and_asynchronous_clients(module: Any) -> None:
    sent: list[str | None] = []

    def handle(request: Any) -> Any:
        sent.append(request.headers.get("X-Cagent-Session-Id"))
        return module.Response(200)

    hook = session_id_hook(GATEWAY)
    options: dict[str, Any] = {
        "transport": module.MockTransport(handle),
        "event_hooks": {"request": [hook]},
    }

    async def call() -> None:
        async with module.AsyncClient(**options) as client:
            await client.post(GATEWAY, headers=MARKED)

    with session_scope("sess-1"):
        asyncio.run(call())
        with module.Client(**options) as client:
            client.post(GATEWAY, headers=MARKED)
    assert sent == ["sess-1", "sess-1"]
    assert async_session_id_hook is session_id_hook


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda hook: pickle.loads(pickle.dumps(hook))]
)
def test_a_hook_can_be_copied_and_pickled(
    network: Callable[..., Network], duplicate: Callable[[Any], Any]
) -> None:
    net = network()
    hook = duplicate(session_id_hook(GATEWAY, missing="raise"))
    assert hook.gateway == Gateway(GATEWAY, missing="raise")
    with net.client() as client, session_scope("sess-1"):
        client.event_hooks = {"request": [hook]}
        client.post(GATEWAY, headers=MARKED)
    assert net.session_ids == ["sess-1"]


def test_its_repr_shows_gateway_and_missing_but_no_query() -> None:
    hook = session_id_hook(f"{GATEWAY}/models?key=hunter2", missing="warn")
    assert repr(hook) == "session_id_hook(Gateway('https://gw.example/models', missing='warn'))"
    hook = session_id_hook(Gateway(GATEWAY), missing="warn")
    assert "missing='warn'" in repr(hook)


# Two hooks on one client


ONE, TWO = "https://one.example", "https://two.example"


def test_two_hooks_for_two_gateways_each_serve_their_own(network: Callable[..., Network]) -> None:
    net = network()
    headers = {**MARKED, "X-Cagent-Model": "gpt-4o"}
    with net.client() as client, session_scope("sess-1"):
        client.event_hooks = {"request": [session_id_hook(ONE), session_id_hook(TWO)]}
        for url in (ONE, TWO, "https://three.example"):
            request = client.build_request("POST", url, headers=headers)
            client.send(request)
            client.send(request)
    ours = {name.lower(): value for name, value in headers.items()}
    stamped = {**ours, "x-cagent-session-id": "sess-1"}
    assert [sent for _, sent in net.sent] == [stamped] * 4 + [{}, {}]


def test_two_hooks_hide_no_missing_session(network: Callable[..., Network]) -> None:
    net = network()
    with net.client() as client:
        hooks = [session_id_hook(ONE, missing="raise"), session_id_hook(TWO, missing="raise")]
        client.event_hooks = {"request": hooks}
        for url in (ONE, TWO):
            with pytest.raises(MissingSessionId):
                client.post(url, headers=MARKED)
            client.post(url, headers={**MARKED, "X-Cagent-Session-Id": "callers"})
    assert net.session_ids == ["callers", "callers"]


# Requests that are sent again


@pytest.mark.parametrize("gateway", [None, Gateway(ONE, TWO)])
def test_a_url_that_the_caller_changes_is_the_callers_decision(
    network: Callable[..., Network], gateway: Gateway | None, module: Any
) -> None:
    """Of an authentication that tries another host, or of a hook that balances."""

    class Elsewhere(module.Auth):  # type: ignore[misc]
        def auth_flow(self, request: Any) -> Any:
            yield request
            request.url = module.URL(TWO)
            yield request

    net = network()
    with net.client() as client, session_scope("sess-1"):
        client.event_hooks = {"request": [session_id_hook(gateway)]}
        client.post(ONE, headers=MARKED, auth=Elsewhere())
    assert [url for url, _ in net.sent] == [ONE, TWO]
    assert net.session_ids == ["sess-1", "sess-1"]


def test_a_request_that_went_elsewhere_first_has_its_headers_again(
    network: Callable[..., Network],
) -> None:
    """What the hook removed is the caller's: it is back when the request goes to the gateway."""
    net = network()
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
def test_the_headers_of_a_sent_request_given_to_a_new_call_bring_no_old_session(
    network: Callable[..., Network], callers: str | None
) -> None:
    net = network()
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


def test_headers_of_the_client_go_to_the_known_gateway_alone(
    network: Callable[..., Network],
) -> None:
    net = network()
    headers = gateway_headers("https://api.openai.com/v1", install_id="machine-1")
    with net.client(GATEWAY, headers=headers) as client, session_scope("sess-1"):
        client.post("https://other.example")
        client.post(GATEWAY)
    assert [set(ours) for _, ours in net.sent] == [
        set(),
        {name.lower() for name in [*headers, "X-Cagent-Session-Id"]},
    ]


def test_a_client_with_another_hook_sends_no_old_session(network: Callable[..., Network]) -> None:
    """The request was stamped by the hook of another client, in an earlier session."""
    net = network()
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
