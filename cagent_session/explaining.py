"""``explain``: a text that says why a call is attributed to a session, or why not."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import requests
from requests.sessions import merge_setting
from requests.structures import CaseInsensitiveDict

from cagent_session.gateway import Gateway
from cagent_session.headers import ByName, as_text, callers_by_name
from cagent_session.instrumentation import Added, instrumented_gateway
from cagent_session.origins import DEFAULT_PORTS, Origin, origin_of, without_secrets
from cagent_session.reporting import ANOTHER_ORIGIN, NO_MARKER, STAMPED
from cagent_session.transports.httpx import SessionIdHook
from cagent_session.transports.requests import SessionIdAdapter

_FUNCTIONS = {"requests": "post", "httpx": "post", "httpx2": "post", "aiohttp": "request"}
_LOOPBACK = {"localhost", "127.0.0.1", "[::1]"}

_INSTRUMENT = (
    " Or call instrument(gateway) once, at the start of the program: it covers all clients."
)
_NOT_MOUNTED = (
    "mount() was not called on this Session. It works for one Session only, so mounting another "
    "one does not help here. Call mount(session, gateway) on this one."
)
_REPLACED = (
    "this Session has an adapter of this library, but not for this URL. Perhaps an SDK mounted its "
    "own adapter after mount() was called, or ours was mounted for other URLs only. Call "
    "mount(session, gateway) now, after the SDK has set the Session up."
)
_NO_HOOK = (
    "this client has no hook of this library. A hook works for one client only: an SDK's "
    "synchronous and asynchronous clients need one each. Make the client with "
    'event_hooks={"request": [session_id_hook(gateway)]}, or assign that to client.event_hooks.'
)
_NO_CONFIG = (
    "this client has no trace config of this library. Make it with "
    "aiohttp.ClientSession(trace_configs=[session_id_trace_config(gateway)])."
)
_NO_CLIENT_OBJECT = (
    "the functions of the module {0}, such as {0}.{1}(), make a new client for each call, and it "
    "was not prepared. Call instrument(gateway) once, at the start of the program, or make a "
    "client: explain() then says how to prepare it."
)
_NO_MARKER = (
    "it has no marker, the header {}. Add it to the headers of the client or of the call: "
    "gateway.route(...).headers has it. Headers of the call must be given to explain(), too."
)
_NO_SESSION = (
    "no session is current. Make the call inside session_scope(), or in a function decorated with "
    "in_session(). In threads and pools, use carry_session() or SessionExecutor."
)
_OTHER_HOOKS = (
    " The client has other hooks, which may add the marker. explain() did not run them. They must "
    "come before session_id_hook()."
)
_RAISES = " Because missing is 'raise', the call would raise MissingSessionId and send nothing."


def explain(client: Any, url: str, headers: Mapping[str, Any] | None = None) -> str:
    """Return a text that says which session ID a call to *url* would carry now, or why none.

    Nothing is sent. The client's hooks and its authentication do not run.

    :param client: the object that makes the call: a :class:`requests.Session`, a ``Client`` or
        ``AsyncClient`` of httpx or httpx2, or an ``aiohttp.ClientSession``. For an SDK, pass the
        client that it uses. For calls such as ``requests.post()``, pass the module: ``requests``,
        ``httpx``, ``httpx2`` or ``aiohttp``.
    :param url: the URL of the call, as it is given to the client.
    :param headers: the headers of the call, in addition to the client's own headers.
    :returns: a few sentences, without keys, queries and passwords.
    :raises TypeError: for any other client.
    :raises ValueError: if the client can't call this URL.

    >>> print(explain(requests, "https://gateway.example/v1"))  # doctest: +ELLIPSIS
    A request to https://gateway.example/v1 would carry no session ID: the functions of ...
    """
    url = str(url)  # the clients also take a URL of httpx or yarl
    if isinstance(client, requests.Session):
        target, carried = _with_session(client, url, headers)
    elif hasattr(client, "build_request") and hasattr(client, "event_hooks"):
        target, carried = _with_httpx_client(client, url, headers)
    elif "aiohttp" in sys.modules and isinstance(client, sys.modules["aiohttp"].ClientSession):
        target, carried = _with_aiohttp_client(client, url, headers)
    elif isinstance(client, ModuleType) and client.__name__ in _FUNCTIONS:
        target, carried = url, _with_functions_of(client.__name__, url, headers)
    else:
        kind = f"{type(client).__module__}.{type(client).__qualname__}"
        raise TypeError(
            "explain() takes a client of requests, httpx, httpx2 or aiohttp, or one of these "
            f"modules, got {kind}: for an SDK, give the client that it uses, or the module; for an "
            "SDK on boto3, read the log"
        )
    return f"A request to {without_secrets(target)} would carry {carried}"


def _with_session(
    session: requests.Session, url: str, headers: Mapping[str, Any] | None
) -> tuple[str, str]:
    request = requests.PreparedRequest()
    try:
        request.prepare_url(url, None)
        adapter: Any = session.get_adapter(str(request.url))
    except Exception:  # noqa: BLE001 - requests raises many, and some repeat the URL
        raise ValueError("a requests.Session can't call such a URL: give an absolute one") from None
    target, gateways = str(request.url), list[Gateway]()
    while adapter is not None:
        if isinstance(adapter, SessionIdAdapter):
            gateways.append(adapter.gateway)
        inside = getattr(adapter, "__dict__", {}).values()  # ours may be inside an SDK's adapter
        adapter = next((value for value in inside if isinstance(value, SessionIdAdapter)), None)
    if not gateways:
        mounted = [a for a in session.adapters.values() if isinstance(a, SessionIdAdapter)]
        return target, f"no session ID: {_REPLACED if mounted else _NOT_MOUNTED}{_INSTRUMENT}"
    merge: Any = merge_setting  # the stubs of requests before 2.34 have no types for it
    merged = merge(headers, session.headers, dict_class=CaseInsensitiveDict)
    return target, _carried_with(merged, gateways, target)


def _with_httpx_client(client: Any, url: str, headers: Mapping[str, Any] | None) -> tuple[str, str]:
    try:
        request = client.build_request("POST", url, headers=headers)
    except Exception:  # noqa: BLE001 - httpx.InvalidURL has no base class but Exception
        raise ValueError("this client can't call such a URL") from None
    target = str(request.url)
    hooks = [h for h in client.event_hooks["request"] if isinstance(h, SessionIdHook)]
    gateways = _gateways_of(hooks)
    if not gateways:
        return target, f"no session ID: {_NO_HOOK}{_INSTRUMENT}"
    by_name = callers_by_name(request.headers.raw)
    carried = _carried(gateways, target, by_name)
    has_others = len(hooks) < len(client.event_hooks["request"])
    needs_marker = all(g.marker and not g.decide(target, by_name).is_marked for g in gateways)
    return target, carried + _OTHER_HOOKS if has_others and needs_marker else carried


def _with_aiohttp_client(
    client: Any, url: str, headers: Mapping[str, Any] | None
) -> tuple[str, str]:
    from cagent_session.transports.trace_config import SessionIdTraceConfig  # noqa: PLC0415

    url = f"http{url[2:]}" if url.startswith("ws") else url  # a websocket begins so
    if origin_of(url) is None:
        raise ValueError("this client can't call such a URL: give an absolute one")
    configs = [c for c in client.trace_configs if isinstance(c, SessionIdTraceConfig)]
    gateways = _gateways_of(configs)
    if not gateways:
        return url, f"no session ID: {_NO_CONFIG}{_INSTRUMENT}"
    return url, _carried_with({**client.headers, **(headers or {})}, gateways, url)


def _with_functions_of(module: str, url: str, headers: Mapping[str, Any] | None) -> str:
    if origin_of(url) is None:
        raise ValueError("it can't call such a URL: give an absolute one")
    gateways = _instrumented()
    if not gateways:
        return f"no session ID: {_NO_CLIENT_OBJECT.format(module, _FUNCTIONS[module])}"
    return _carried_with(headers or {}, gateways, url)


def _gateways_of(hooks: list[Any]) -> list[Gateway]:
    """Return the gateways of the user's hooks, or else that of ``instrument``."""
    own = [hook.gateway for hook in hooks if not isinstance(hook, Added)]
    return own or _instrumented()


def _instrumented() -> list[Gateway]:
    return [gateway] if (gateway := instrumented_gateway()) else []


def _carried_with(headers: Mapping[Any, Any], gateways: list[Gateway], url: str) -> str:
    return _carried(gateways, url, callers_by_name(headers.items()))


def _carried(gateways: list[Gateway], url: str, headers: ByName) -> str:
    """Return what the rule says: which session ID the request carries, and why."""
    decisions = [gateway.decide(url, headers) for gateway in gateways]
    decision = next((each for each in decisions if each.attribution), decisions[0])
    gateway = decision.gateway
    if decision.session_id is not None:
        whose = "of the current session" if decision.reason is STAMPED else "that the caller set"
        text = f"{gateway.session_header}: {as_text(decision.session_id)}, the ID {whose}."
        sent, _ = decision.applied_to(headers)
        keys = gateway.names.stamped - {gateway.names.session_key}
        found = [sent[key] for key in sent if key in keys]
        others = " and ".join(f"{as_text(name)}: {as_text(value)}" for name, value in found)
        return f"{text} It would also carry {others}." if others else text
    if decision.reason is ANOTHER_ORIGIN:
        return f"no session ID: {_another_origin(gateway, url)}"
    if decision.reason is NO_MARKER:
        return f"no session ID: {_NO_MARKER.format(gateway.marker)}"
    return f"no session ID: {_NO_SESSION}{_RAISES if gateway.missing == 'raise' else ''}"


def _another_origin(gateway: Gateway, url: str) -> str:
    target, hint = origin_of(url), ""
    scheme, host, _ = target or ("", "", 0)
    for other_scheme, other_host, _ in gateway.origins:
        if host == other_host and scheme != other_scheme:
            hint = " One is http, and the other is https."
        elif host != other_host and {host, other_host} <= _LOOPBACK:
            hint = " These are different origins, although both mean this machine."
    known = " or ".join(map(_as_url, sorted(gateway.origins)))
    return (
        f"its origin is {_as_url(target)}, but the gateway's is {known}.{hint} Only calls to the "
        "gateway carry an ID. Write both URLs with the same scheme, host and port."
    )


def _as_url(origin: Origin | None) -> str:
    if origin is None:
        return "unclear"
    scheme, host, port = origin
    return f"{scheme}://{host}" if port == DEFAULT_PORTS[scheme] else f"{scheme}://{host}:{port}"
