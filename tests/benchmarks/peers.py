"""Measurements of what OpenTelemetry, Sentry and our hook for httpx add to one call.

The peers are set up in the way that costs least: they export nothing.
"""

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

from cagent_session import session_id_hook, session_scope


def cases_without_network() -> dict[str, Case]:
    """Return calls by requests, bare and instrumented, and by httpx, bare and with our hook."""
    session, bare_send = requests.Session(), requests.Session.send
    session.trust_env = False  # a search for proxies would take longer than all the rest
    session.mount("http://", NULL)
    request, traced_request = prepared(MARKER), prepared(MARKER)
    cases: dict[str, Case] = {"Session": partial(bare_send, session, request)}
    context.attach(baggage.set_baggage("session.id", SESSION_ID))
    for name, sampler in (("sampled", sampling.ALWAYS_ON), ("not sampled", sampling.ALWAYS_OFF)):
        instrumentor: Any = RequestsInstrumentor()
        instrumentor.instrument(tracer_provider=TracerProvider(sampler=sampler))
        cases[name] = partial(requests.Session.send, session, traced_request)
        instrumentor.uninstrument()
    for name, hooks in (("httpx", []), ("httpx hooked", [session_id_hook(URL)])):
        answer = httpx.MockTransport(lambda _: httpx.Response(200))
        client = httpx.Client(transport=answer, event_hooks={"request": hooks})
        cases[name] = partial(client.post, URL, headers=MARKER, json=BODY)
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
