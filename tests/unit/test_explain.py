"""A user wonders why a call has no session: one line of code says why, and what to do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import httpx
import httpx2
import pytest
import requests
import responses
from requests.adapters import HTTPAdapter

from cagent_session import (
    Gateway,
    SessionIdAdapter,
    explain,
    gateway_headers,
    mount,
    session_id_hook,
    session_scope,
)

GATEWAY = "https://gw.example"
URL = f"{GATEWAY}/v1/chat/completions"
MARKED = gateway_headers("https://api.openai.com/v1")


def mounted(gateway: Gateway | str | None = GATEWAY) -> requests.Session:
    return mount(requests.Session(), gateway)


def hooked(make: Any, gateway: Gateway | str | None = GATEWAY) -> Any:
    return make(event_hooks={"request": [session_id_hook(gateway)]})


CLIENTS: dict[str, Callable[..., Any]] = {
    "requests": mounted,
    "httpx": lambda *args: hooked(httpx.Client, *args),
    "async httpx": lambda *args: hooked(httpx.AsyncClient, *args),
    "httpx2": lambda *args: hooked(httpx2.Client, *args),
    "async httpx2": lambda *args: hooked(httpx2.AsyncClient, *args),
}


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return CLIENTS[request.param]


def test_a_call_that_is_attributed(client: Callable[..., Any]) -> None:
    for gateway in (GATEWAY, None, Gateway("https://other.example", GATEWAY)):
        with session_scope("sess-1"):
            said = explain(client(gateway), URL, MARKED)
        assert (
            said
            == f"A request to {URL} would carry X-Cagent-Session-Id: sess-1, the ID of the current session."
        )


def test_a_call_with_an_id_that_the_caller_set(client: Callable[..., Any]) -> None:
    said = explain(client(), URL, {**MARKED, "X-Cagent-Session-Id": "callers"})
    assert said.endswith("X-Cagent-Session-Id: callers, the ID that the caller set.")


# The nine mistakes


NO_ID = f"A request to {URL} would carry no session ID: "


def test_1_the_gateways_host_is_spelled_differently(client: Callable[..., Any]) -> None:
    with session_scope("sess-1"):
        said = explain(client("http://localhost:8080"), "http://127.0.0.1:8080/v1", MARKED)
        other = explain(client("https://gateway.example:8443"), URL, MARKED)
    assert said == (
        "A request to http://127.0.0.1:8080/v1 would carry no session ID: its origin is "
        "http://127.0.0.1:8080, the gateway's is http://localhost:8080. These names are different "
        "origins, although they mean the same machine. Only calls to the gateway get an ID. Write "
        "both URLs with the same scheme, host and port."
    )
    assert (
        "its origin is https://gw.example, the gateway's is https://gateway.example:8443. Only"
        in other
    )


def test_2_http_instead_of_https(client: Callable[..., Any]) -> None:
    with session_scope("sess-1"):
        said = explain(client(), "http://gw.example/v1", MARKED)
    assert (
        "its origin is http://gw.example, the gateway's is https://gw.example. One is http, the other https."
        in said
    )


@pytest.mark.parametrize("headers", [None, {"X-Cagent-Forward": ""}])
def test_3_no_marker(client: Callable[..., Any], headers: Any) -> None:
    with session_scope("sess-1"):
        assert explain(client(), URL, headers) == (
            f"{NO_ID}it has no marker, the header X-Cagent-Forward. Add gateway_headers(...) to the "
            "headers of the call or of the client."
        )


def test_4_mount_on_another_session() -> None:
    mounted()
    with session_scope("sess-1"):
        assert explain(requests.Session(), URL, MARKED) == (
            f"{NO_ID}mount() was not called on this Session. It counts for one Session only: if "
            "another one is mounted, that makes no difference here. Call mount(session, gateway) on "
            "this one."
        )


def test_5_an_sdk_that_replaced_the_adapter() -> None:
    session = mounted()
    session.mount("https://", HTTPAdapter(max_retries=2))
    with session_scope("sess-1"):
        assert explain(session, URL, MARKED) == (
            f"{NO_ID}the adapter for this URL is not of this library, although another one of this "
            "Session is. It was mounted after mount() was called, perhaps by an SDK, or an adapter "
            "was mounted for other URLs only. Call mount(session, gateway) now, after the SDK has "
            "set the Session up."
        )


def test_6_plain_requests_post() -> None:
    assert explain(requests, URL, MARKED) == (
        f"{NO_ID}requests.post() and the like make a Session for each call, and nothing is mounted "
        "on it. Make a requests.Session(), call mount(session, gateway), and use session.post()."
    )


@pytest.mark.parametrize("module", [httpx, httpx2])
def test_6_plain_httpx_post(module: Any) -> None:
    name = module.__name__
    assert explain(module, URL, MARKED) == (
        f"{NO_ID}post() and the like of {name} make a client for each call, which has no hook. Make "
        f'a {name}.Client(event_hooks={{"request": [session_id_hook(gateway)]}}) and use '
        "client.post()."
    )


@pytest.mark.parametrize(
    "make", [httpx.Client, httpx.AsyncClient, httpx2.Client, httpx2.AsyncClient]
)
def test_7_and_8_a_client_without_a_hook_of_its_own(make: Callable[[], Any]) -> None:
    with session_scope("sess-1"):
        assert explain(make(), URL, MARKED) == (
            f"{NO_ID}this client has no hook of this library. A hook counts for one client only: an "
            "SDK's synchronous and asynchronous clients need one each. Make the client with "
            'event_hooks={"request": [session_id_hook(gateway)]}, or assign that to '
            "client.event_hooks."
        )


def test_9_no_scope(client: Callable[..., Any]) -> None:
    said = explain(client(), URL, MARKED)
    assert said == (
        f"{NO_ID}it is made in no session. Make it inside session_scope(), or in a function "
        "decorated with in_session(). For threads and pools, use carry_session() or SessionExecutor."
    )
    said = explain(client(Gateway(GATEWAY, missing="raise")), URL, MARKED)
    assert said.endswith(
        "As missing is 'raise', the call would raise MissingSessionId, and send nothing."
    )


# What it looks at


def test_headers_of_the_client_count(client: Callable[..., Any]) -> None:
    made = client()
    made.headers.update(MARKED)
    with session_scope("sess-1"):
        assert "sess-1" in explain(made, URL)
        assert "no marker" in explain(made, URL, {"X-Cagent-Forward": ""})


def test_the_headers_of_a_sent_request_bring_no_old_session() -> None:
    session = mounted()
    with responses.RequestsMock() as mocked, session_scope("sess-1"):
        mocked.post(URL)
        sent = session.post(URL, headers=MARKED).request
    assert "no session ID" in explain(session, URL, sent.headers)


def test_adapters_around_adapters_and_hooks_beside_hooks_count() -> None:
    session = requests.Session()
    inner = SessionIdAdapter(GATEWAY)
    session.mount("https://", SessionIdAdapter("https://other.example", inner=inner))
    client = hooked(httpx.Client, "https://other.example")
    client.event_hooks = {"request": [*client.event_hooks["request"], session_id_hook(GATEWAY)]}
    with session_scope("sess-1"):
        assert "sess-1" in explain(session, URL, MARKED)
        assert "sess-1" in explain(client, URL, MARKED)


def test_a_relative_url_is_one_of_the_clients_base_url() -> None:
    client = httpx.Client(base_url=GATEWAY, event_hooks={"request": [session_id_hook(GATEWAY)]})
    with session_scope("sess-1"):
        assert "https://gw.example/v1 would carry X-Cagent-Session-Id: sess-1" in explain(
            client, "/v1", MARKED
        )


def test_it_sends_and_changes_nothing() -> None:
    session = mounted()
    adapters, headers = dict(session.adapters), dict(session.headers)
    with responses.RequestsMock() as mocked:
        explain(session, URL, MARKED)
        assert len(mocked.calls) == 0
    assert (dict(session.adapters), dict(session.headers)) == (adapters, headers)


@pytest.mark.parametrize("headers", [None, {**MARKED, "Authorization": "Bearer hunter2"}])
@pytest.mark.parametrize("host", ["gw.example", "other.example"])
def test_it_shows_no_key_query_or_password(
    client: Callable[..., Any], host: str, headers: Any
) -> None:
    url = f"https://user:hunter2@{host}/v1?key=hunter2#hunter2"
    for made in (
        client(f"{GATEWAY}/models?key=hunter2"),
        requests.Session(),
        httpx.Client(),
        requests,
        httpx,
    ):
        said = explain(made, url, headers)
        assert f"A request to https://{host}/v1 would carry" in said
        assert "hunter2" not in said


@pytest.mark.parametrize("url", ["hunter2", "ssh://hunter2@gw.example", "https://[hunter2"])
def test_a_url_that_a_session_can_not_call_is_a_value_error_that_does_not_repeat_it(
    url: str,
) -> None:
    with pytest.raises(ValueError, match="can't call such a URL") as refused:
        explain(mounted(), url)
    assert "hunter2" not in str(refused.value)
    assert refused.value.__suppress_context__


def test_a_url_that_an_httpx_client_can_not_call_is_a_value_error(
    client: Callable[..., Any],
) -> None:
    with pytest.raises(ValueError, match="can't call such a URL"):
        explain(client(), "https://gw.example:hunter2")


def test_a_url_without_a_clear_origin_is_another_origin() -> None:
    with session_scope("sess-1"):
        said = explain(hooked(httpx.Client), "ftp://gw.example", MARKED)
    assert (
        "A request to a URL that can't be read would carry no session ID: its origin is unclear"
        in said
    )


@pytest.mark.parametrize("thing", [None, "client", object(), sys])
def test_another_client_is_a_type_error_that_names_it(thing: Any) -> None:
    kind = rf"{type(thing).__module__}\.{type(thing).__qualname__}"
    with pytest.raises(
        TypeError, match=rf"takes a requests\.Session or a client of httpx.*got {kind}: for an SDK"
    ):
        explain(thing, URL)


def test_it_needs_no_httpx() -> None:
    program = (
        "import sys; sys.modules['httpx'] = sys.modules['httpx2'] = None\n"
        "import requests\n"
        "from cagent_session import explain\n"
        "print(explain(requests.Session(), 'https://gw.example'))"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "mount() was not called" in said.stdout


class Around(HTTPAdapter):
    """An SDK's adapter around the one that was mounted."""

    def __init__(self, inside: Any) -> None:
        super().__init__()
        self.inside = inside


def test_an_adapter_of_an_sdk_around_ours_counts() -> None:
    session = mounted()
    session.mount("https://", Around(session.get_adapter(URL)))
    with session_scope("sess-1"):
        assert "sess-1" in explain(session, URL, MARKED)


def test_a_hook_that_adds_the_marker_is_not_run_and_this_is_said() -> None:
    client = hooked(httpx.Client)
    hooks = client.event_hooks["request"]
    client.event_hooks = {"request": [lambda request: request.headers.update(MARKED), *hooks]}
    with session_scope("sess-1"):
        said = explain(client, URL)
        assert said.endswith(
            "The client's other hooks, which may add it, were not run. They must come first."
        )
        assert "other hooks" not in explain(client, URL, MARKED)
