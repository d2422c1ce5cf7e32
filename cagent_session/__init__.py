"""Tell a models gateway which agent session each LLM call belongs to.

A *models gateway* is a proxy between agents and LLM providers. A request is bound for it if it has
the *marker*, the header ``X-Cagent-Forward``. This library adds the header ``X-Cagent-Session-Id``
to such requests. Call :func:`instrument` once, and enter a session where the agent's work begins::

    from cagent_session import gateway_headers, instrument, session_scope

    instrument("https://gateway.example", headers=gateway_headers("https://api.openai.com/v1"))
    with session_scope("sess-1"):
        ...  # calls of requests, httpx, httpx2, aiohttp and botocore, and of SDKs on them

Names that say which session is current:

- ``session_scope``: a block of code runs in a session
- ``in_session``: each call of a function, generator or coroutine runs in a session
- ``sub_session``: a block of code runs in a sub-session of the current session
- ``generating_title``, ``compacting``: what the calls in a block of code are for
- ``carry_session``, ``SessionExecutor``: take the session to threads, pools and processes
- ``current_session_id``, ``root_session_id``, ``new_session_id``

Names that put the session ID on requests:

- ``instrument``, ``uninstrument``: for all clients of the process
- ``mount``, ``unmount``, ``SessionIdAdapter``, ``session_factory``: for ``requests``
- ``session_id_hook``: for clients of ``httpx`` and ``httpx2``, synchronous and asynchronous
- ``session_id_trace_config``: for clients of ``aiohttp``
- ``stamp_botocore``: for clients of ``boto3`` and ``botocore``
- ``Gateway``: the gateway's URLs, and what to do about a call in no session
- ``Route``: what a client needs to call a provider through the gateway, from ``Gateway.route()``
- ``gateway_headers``: the marker, and the headers that identify the caller

If a call is not attributed, ``print(explain(client, url, headers))`` says why. The logger
``cagent_session`` says it at level DEBUG.

PYTEST_DONT_REWRITE: this package has no assertions that pytest could rewrite. Without this word
pytest warns if the package is imported early.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cagent_session.context import (
    compacting,
    current_session_id,
    generating_title,
    root_session_id,
    session_scope,
    sub_session,
)
from cagent_session.decorating import in_session
from cagent_session.session_id import InvalidSessionId, new_session_id

if TYPE_CHECKING:
    from cagent_session.carrying import SessionExecutor, carry_session
    from cagent_session.explaining import explain
    from cagent_session.gateway import Gateway
    from cagent_session.headers import FORWARD_HEADER, SESSION_ID_HEADER, gateway_headers
    from cagent_session.instrumentation import instrument, uninstrument
    from cagent_session.mounting import mount, session_factory, unmount
    from cagent_session.origins import InvalidGatewayURL
    from cagent_session.reporting import MissingSessionId, MissingSessionIdWarning
    from cagent_session.routes import Route
    from cagent_session.transports.aiohttp import session_id_trace_config
    from cagent_session.transports.botocore import stamp_botocore
    from cagent_session.transports.httpx import async_session_id_hook, session_id_hook
    from cagent_session.transports.requests import SessionIdAdapter

__version__ = "0.1.0"

__all__ = [
    "FORWARD_HEADER",
    "SESSION_ID_HEADER",
    "Gateway",
    "InvalidGatewayURL",
    "InvalidSessionId",
    "MissingSessionId",
    "MissingSessionIdWarning",
    "Route",
    "SessionExecutor",
    "SessionIdAdapter",
    "async_session_id_hook",
    "carry_session",
    "compacting",
    "current_session_id",
    "explain",
    "gateway_headers",
    "generating_title",
    "in_session",
    "instrument",
    "mount",
    "new_session_id",
    "root_session_id",
    "session_factory",
    "session_id_hook",
    "session_id_trace_config",
    "session_scope",
    "stamp_botocore",
    "sub_session",
    "uninstrument",
    "unmount",
]

# These names are imported when they are first used. So a program that only enters scopes, such as
# a pytest plugin, does not load requests.
_MODULES = {
    "FORWARD_HEADER": "headers",
    "SESSION_ID_HEADER": "headers",
    "Gateway": "gateway",
    "InvalidGatewayURL": "origins",
    "MissingSessionId": "reporting",
    "MissingSessionIdWarning": "reporting",
    "Route": "routes",
    "SessionExecutor": "carrying",
    "SessionIdAdapter": "transports.requests",
    "async_session_id_hook": "transports.httpx",
    "carry_session": "carrying",
    "explain": "explaining",
    "gateway_headers": "headers",
    "instrument": "instrumentation",
    "mount": "mounting",
    "session_factory": "mounting",
    "session_id_hook": "transports.httpx",
    "session_id_trace_config": "transports.aiohttp",
    "stamp_botocore": "transports.botocore",
    "uninstrument": "instrumentation",
    "unmount": "mounting",
}

if not TYPE_CHECKING:  # a type checker would accept every name

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
