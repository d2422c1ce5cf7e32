"""Tests of ``explain``. It says why a call has a session ID or none, and what to do."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import aiohttp
import httpx
import httpx2
import pytest
import requests
import responses
from requests.adapters import HTTPAdapter

from cagent_session import (
    Gateway,
    SessionIdAdapter,
    compacting,
    explain,
    gateway_headers,
    mount,
    session_id_hook,
    session_id_trace_config,
    session_scope,
    sub_session,
)

GATEWAY = "https://gw.example"
URL = f"{GATEWAY}/v1/chat/completions"
MARKED = gateway_headers("https://api.openai.com/v1")


def mounted(gateway: Gateway | str | None = GATEWAY) -> requests.Session:
    return mount(requests.Session(), gateway)


def hooked(make: Any, gateway: Gateway | str | None = GATEWAY, **options: Any) -> Any:
    hooks = {"request": [session_id_hook(gateway)]}
    return make(event_hooks=hooks, verify=False, **options)  # it is slow to load certificates


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


def test_the_headers_of_another_gateway_are_named(client: Any) -> None:
    names: Any = {"session_header": "x-session-id", "root_header": "X-Root", "parent_header": "X-P"}
    anything = client(Gateway(GATEWAY, **names, marker=None))
    in_no_session = explain(anything, URL)
    with session_scope("root"), sub_session("sub"), compacting():
        told = explain(anything, URL)
        unmarked = explain(client(Gateway(GATEWAY, **names, marker="My-Marker")), URL)
    carries = f"A request to {URL} would carry"
    assert told == (
        f"{carries} x-session-id: sub, the ID of the current session. It would also carry "
        "X-P: root and X-Root: root and X-Cagent-Compacting: 1."
    )
    callers = {"x-session-id": "callers", "X-P": "theirs"}
    assert explain(anything, URL, callers) == (
        f"{carries} x-session-id: callers, the ID that the caller set. It would also carry "
        "X-P: theirs."
    )
    assert in_no_session.startswith(f"{carries} no session ID: no session is current.")
    assert unmarked.startswith(
        f"{carries} no session ID: it has no marker, the header My-Marker. Add it to the headers"
    )


def test_other_hooks_matter_only_if_a_marker_is_missing() -> None:
    def other_hook(request: Any) -> None: ...

    def explained(gateway: Gateway) -> str:
        hooks = {"request": [other_hook, session_id_hook(gateway)]}
        return explain(httpx.Client(event_hooks=hooks, verify=False), URL)

    with session_scope("sess-1"):
        assert "other hooks" in explained(Gateway(GATEWAY))
        assert "other hooks" not in explained(Gateway(GATEWAY, marker=None))


def test_a_call_that_is_attributed(client: Any) -> None:
    carries = f"A request to {URL} would carry X-Cagent-Session-Id"
    for gateway in (GATEWAY, None, Gateway("https://other.example", GATEWAY)):
        with session_scope("sess-1"):
            said = explain(client(gateway), URL, MARKED)
        assert said == f"{carries}: sess-1, the ID of the current session."
    said = explain(client(), URL, {**MARKED, "X-Cagent-Session-Id": "callers"})
    assert said == f"{carries}: callers, the ID that the caller set."


# The usual mistakes


NO_ID = f"A request to {URL} would carry no session ID: "
INSTRUMENT = (
    " Or call instrument(gateway) once, at the start of the program: it covers all clients."
)


@pytest.mark.parametrize(
    ("gateway", "url", "hint"),
    [
        (
            "http://localhost:8080",
            "http://127.0.0.1:8080",
            " These are different origins, although both mean this machine.",
        ),
        ("https://gateway.example:8443", "https://gw.example", ""),
        ("https://gw.example", "http://gw.example", " One is http, and the other is https."),
    ],
)
def test_a_host_port_or_scheme_that_is_not_the_gateways(
    client: Any, gateway: str, url: str, hint: str
) -> None:
    with session_scope("sess-1"):
        assert explain(client(gateway), f"{url}/v1", MARKED) == (
            f"A request to {url}/v1 would carry no session ID: its origin is {url}, but the "
            f"gateway's is {gateway}.{hint} Only calls to the gateway carry an ID. Write both URLs "
            "with the same scheme, host and port."
        )


@pytest.mark.parametrize("headers", [None, {"X-Cagent-Forward": ""}])
def test_no_marker(client: Any, headers: Any) -> None:
    with session_scope("sess-1"):
        assert explain(client(), URL, headers) == (
            f"{NO_ID}it has no marker, the header X-Cagent-Forward. Add it to the headers of the "
            "client or of the call: gateway.route(...).headers has it. Headers of the call must be "
            "given to explain(), too."
        )


def test_mount_on_another_session() -> None:
    mounted()
    with session_scope("sess-1"):
        assert explain(requests.Session(), URL, MARKED) == (
            f"{NO_ID}mount() was not called on this Session. It works for one Session only, so "
            "mounting another one does not help here. Call mount(session, gateway) on this one."
            + INSTRUMENT
        )


def test_an_sdk_that_replaced_the_adapter() -> None:
    session = mounted()
    session.mount("https://", HTTPAdapter(max_retries=2))
    with session_scope("sess-1"):
        assert explain(session, URL, MARKED) == (
            f"{NO_ID}this Session has an adapter of this library, but not for this URL. Perhaps an "
            "SDK mounted its own adapter after mount() was called, or ours was mounted for other "
            "URLs only. Call mount(session, gateway) now, after the SDK has set the Session up."
            + INSTRUMENT
        )


@pytest.mark.parametrize(
    ("module", "function"),
    [
        (requests, "requests.post()"),
        (httpx, "httpx.post()"),
        (httpx2, "httpx2.post()"),
        (aiohttp, "aiohttp.request()"),
    ],
)
def test_a_function_of_a_module(module: Any, function: str) -> None:
    assert explain(module, URL, MARKED) == (
        f"{NO_ID}the functions of the module {module.__name__}, such as {function}, make a new "
        "client for each call, and it was not prepared. Call instrument(gateway) once, at the "
        "start of the program, or make a client: explain() then says how to prepare it."
    )


def explain_aiohttp(*arguments: Any, **options: Any) -> str:
    """Explain a call of an ``aiohttp.ClientSession`` with these *options*."""

    async def explained() -> str:
        async with aiohttp.ClientSession(**options) as client:
            return explain(client, *arguments)

    return asyncio.run(explained())


def test_a_client_of_aiohttp_without_a_trace_config() -> None:
    with session_scope("sess-1"):
        said = explain_aiohttp(URL, MARKED, trace_configs=[aiohttp.TraceConfig()])
    assert said == (
        f"{NO_ID}this client has no trace config of this library. Make it with "
        "aiohttp.ClientSession(trace_configs=[session_id_trace_config(gateway)])." + INSTRUMENT
    )


@pytest.mark.parametrize(
    "make", [httpx.Client, httpx.AsyncClient, httpx2.Client, httpx2.AsyncClient]
)
def test_a_client_without_its_own_hook(make: Callable[..., Any]) -> None:
    with session_scope("sess-1"):
        assert explain(make(verify=False), URL, MARKED) == (
            f"{NO_ID}this client has no hook of this library. A hook works for one client only: an "
            "SDK's synchronous and asynchronous clients need one each. Make the client with "
            'event_hooks={"request": [session_id_hook(gateway)]}, or assign that to '
            "client.event_hooks." + INSTRUMENT
        )


def test_no_session(client: Any) -> None:
    problem = (
        f"{NO_ID}no session is current. Make the call inside session_scope(), or in a function "
        "decorated with in_session(). In threads and pools, use carry_session() or SessionExecutor."
    )
    assert explain(client(), URL, MARKED) == problem
    raising = client(Gateway(GATEWAY, missing="raise"))
    assert explain(raising, URL, MARKED) == (
        f"{problem} Because missing is 'raise', the call would raise MissingSessionId and send "
        "nothing."
    )


# What explain() considers


def test_it_considers_the_headers_and_the_trace_config_of_a_client_of_aiohttp() -> None:
    configs = [session_id_trace_config(Gateway(GATEWAY, missing="raise"))]
    said = explain_aiohttp(URL, trace_configs=configs, headers=MARKED)
    assert "Because missing is 'raise'" in said
    with session_scope("sess-1"):
        said = explain_aiohttp(URL, trace_configs=configs, headers=MARKED)
        assert said.endswith("carry X-Cagent-Session-Id: sess-1, the ID of the current session.")
        said = explain_aiohttp(URL, {"x-cagent-forward": ""}, trace_configs=configs, headers=MARKED)
        assert "no marker" in said
    with pytest.raises(ValueError, match="give an absolute one"):
        explain_aiohttp("/v1")


def test_it_considers_headers_of_the_client(client: Any) -> None:
    made = client()
    made.headers.update(MARKED)
    with session_scope("sess-1"):
        assert "sess-1" in explain(made, URL)
        assert "no marker" in explain(made, URL, {"X-Cagent-Forward": ""})


def test_headers_reused_from_a_sent_request_have_no_old_session_id() -> None:
    session = mounted()
    with responses.RequestsMock() as mocked, session_scope("sess-1"):
        mocked.post(URL)
        sent = session.post(URL, headers=MARKED).request
    assert "no session ID" in explain(session, URL, sent.headers)


class SdksAdapter(HTTPAdapter):
    """An SDK's adapter that wraps the mounted one."""

    def __init__(self, inside: Any) -> None:
        super().__init__()
        self.inside = inside


def test_it_considers_inner_adapters_and_all_hooks() -> None:
    ours = SessionIdAdapter(GATEWAY)
    client = hooked(httpx.Client, "https://other.example")
    client.event_hooks = {"request": [*client.event_hooks["request"], session_id_hook(GATEWAY)]}
    with session_scope("sess-1"):
        assert "sess-1" in explain(client, URL, MARKED)
        for adapter in (SessionIdAdapter("https://other.example", inner=ours), SdksAdapter(ours)):
            session = requests.Session()
            session.mount("https://", adapter)
            assert "sess-1" in explain(session, URL, MARKED)


def test_a_relative_url_is_resolved_against_the_clients_base_url() -> None:
    client = hooked(httpx.Client, base_url=GATEWAY)
    carries = "A request to https://gw.example/v1 would carry X-Cagent-Session-Id: sess-1"
    with session_scope("sess-1"):
        assert carries in explain(client, "/v1", MARKED)


def test_it_sends_nothing_and_changes_nothing() -> None:
    session = mounted()
    adapters, headers = dict(session.adapters), dict(session.headers)
    with responses.RequestsMock() as mocked:
        explain(session, URL, MARKED)
        assert len(mocked.calls) == 0
    assert (dict(session.adapters), dict(session.headers)) == (adapters, headers)


@pytest.mark.parametrize("headers", [None, {**MARKED, "Authorization": "Bearer hunter2"}])
@pytest.mark.parametrize("host", ["gw.example", "other.example"])
def test_it_shows_no_key_query_or_password(client: Any, host: str, headers: Any) -> None:
    url = f"https://user:hunter2@{host}/v1?key=hunter2#hunter2"
    made = client(f"{GATEWAY}/models?key=hunter2")
    for each in (made, requests.Session(), httpx.Client(verify=False), requests, httpx):
        said = explain(each, url, headers)
        assert f"A request to https://{host}/v1 would carry" in said
        assert "hunter2" not in said


@pytest.mark.parametrize("url", ["hunter2", "ssh://hunter2@gw.example", "https://[hunter2"])
def test_a_url_that_a_session_can_not_call_is_a_value_error(url: str) -> None:
    with pytest.raises(ValueError, match="can't call such a URL") as refused:
        explain(mounted(), url)
    assert "hunter2" not in str(refused.value)
    assert refused.value.__suppress_context__


def test_a_url_that_an_httpx_client_can_not_call_is_a_value_error(client: Any) -> None:
    with pytest.raises(ValueError, match="can't call such a URL"):
        explain(client(), "https://gw.example:hunter2")


def test_a_url_without_a_clear_origin_is_another_origin() -> None:
    problem = (
        "A request to a URL that can't be read would carry no session ID: its origin is unclear"
    )
    with session_scope("sess-1"):
        assert problem in explain(hooked(httpx.Client), "ftp://gw.example", MARKED)


@pytest.mark.parametrize("module", [requests, httpx, httpx2, aiohttp])
def test_functions_of_a_module_need_an_absolute_url(module: Any) -> None:
    with pytest.raises(ValueError, match="give an absolute one"):
        explain(module, "/v1")


def test_it_takes_the_url_objects_of_the_libraries(client: Any) -> None:
    url: Any = httpx.URL(URL)
    assert explain(client(), url, MARKED) == explain(client(), URL, MARKED)


def test_a_websocket_of_aiohttp_is_bound_as_its_first_request_is() -> None:
    configs = [session_id_trace_config(GATEWAY)]
    with session_scope("sess-1"):
        said = explain_aiohttp(URL.replace("https", "wss"), MARKED, trace_configs=configs)
    assert said.endswith("carry X-Cagent-Session-Id: sess-1, the ID of the current session.")


@pytest.mark.parametrize("thing", [None, "client", object(), sys])
def test_another_client_is_a_type_error_that_names_it(thing: Any) -> None:
    kind = rf"{type(thing).__module__}\.{type(thing).__qualname__}"
    problem = rf"takes a client of requests, .* or aiohttp, .* got {kind}: for an SDK"
    with pytest.raises(TypeError, match=problem):
        explain(thing, URL)


def test_it_works_without_httpx() -> None:
    program = (
        "import sys; sys.modules['httpx'] = sys.modules['httpx2'] = None\n"
        "import requests\n"
        "from cagent_session import explain\n"
        "print(explain(requests.Session(), 'https://gw.example'))"
    )
    command = [sys.executable, "-c", program]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "mount() was not called" in said


def test_it_says_that_other_hooks_were_not_run() -> None:
    client = hooked(httpx.Client)
    hooks = client.event_hooks["request"]
    client.event_hooks = {"request": [lambda request: request.headers.update(MARKED), *hooks]}
    with session_scope("sess-1"):
        assert explain(client, URL).endswith(
            " The client has other hooks, which may add the marker. explain() did not run them. "
            "They must come before session_id_hook()."
        )
        assert "other hooks" not in explain(client, URL, MARKED)
