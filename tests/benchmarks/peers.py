"""Measurements of what OpenTelemetry, Sentry, ``instrument`` and our hook add to one call."""

from __future__ import annotations

from functools import partial
from typing import Any

import httpx
import loopback
import requests
import sentry_sdk
from opentelemetry import baggage, context
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.sdk.trace import TracerProvider, sampling
from sending import BODY, CASES, MARKER, NULL, SESSION_ID, URL, prepared
from sentry_sdk.integrations.stdlib import StdlibIntegration
from turns import Case, Turns, in_turns

from cagent_session import instrument, mount, session_id_hook, session_scope

PATCHED: Any = ((requests.Session, "get_adapter"), (httpx.Client, "send"))
# They keep the methods of now, so instrument() has no effect on them.
bare, bare_httpx = (type("Bare", (kind,), {name: getattr(kind, name)}) for kind, name in PATCHED)


def cases_without_network() -> dict[str, Case]:
    """Return calls by requests and httpx: bare, with ours and traced by OpenTelemetry."""
    instrument(URL)
    sessions = {"Session": bare(), "mounted": bare(), "instrumented": requests.Session()}
    for session in sessions.values():
        session.trust_env = False  # a search for proxies would take longer than all the rest
        session.mount("http://", NULL)
    mount(sessions["mounted"], URL)
    cases: dict[str, Case] = {n: partial(s.send, prepared(MARKER)) for n, s in sessions.items()}
    context.attach(baggage.set_baggage("session.id", SESSION_ID))
    for name, sampler in (("sampled", sampling.ALWAYS_ON), ("not sampled", sampling.ALWAYS_OFF)):
        instrumentor: Any = RequestsInstrumentor()
        instrumentor.instrument(tracer_provider=TracerProvider(sampler=sampler))
        cases[name] = partial(sessions["Session"].send, prepared(MARKER))
        instrumentor.uninstrument()
    kinds: dict[str, Any] = {"": bare_httpx, " hooked": bare_httpx, " instrumented": httpx.Client}
    for way, kind in kinds.items():
        client = kind(transport=httpx.MockTransport(lambda _: httpx.Response(200)))
        client.event_hooks = {"request": [session_id_hook(URL)] if way == " hooked" else []}
        cases[f"httpx{way}"] = partial(client.post, URL, headers=MARKER, json=BODY)
    return cases


def sentry_cases(call: Case) -> dict[str, Case]:
    """Return *call* with Sentry's patches of ``http.client``, and without."""
    sentry_sdk.init(default_integrations=False, integrations=[StdlibIntegration()])
    scope = sentry_sdk.get_global_scope()

    def call_with(client: Any) -> None:
        scope.set_client(client)
        call()

    return {"Sentry": partial(call_with, scope.client), "no Sentry": partial(call_with, None)}


def turns(*names: str) -> Turns:
    with loopback.cases() as wire, session_scope(SESSION_ID):
        cases = CASES | cases_without_network() | sentry_cases(wire["bare"])
        return in_turns(cases, names, by_cpu="Sentry" not in names)
