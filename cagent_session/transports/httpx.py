"""``session_id_hook``: the request hook for httpx and httpx2."""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from cagent_session.decision import apply
from cagent_session.gateway import Gateway
from cagent_session.headers import PREFIX, ByName, as_text, by_lower_name, callers_by_name
from cagent_session.origins import left_origin
from cagent_session.reporting import Missing, report

Pairs = list[tuple[bytes, bytes]]

EXTENSION = "cagent_session"
_PREFIX = PREFIX.encode()


class SessionIdHook:
    """The result of :func:`session_id_hook`."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    def __call__(self, request: Any) -> SessionIdHook:
        """Apply the rule to *request*. Asynchronous clients can await the result."""
        url, memory = str(request.url), request.extensions.get(EXTENSION) or _Memory(request)
        known = [hook.gateway for hook in memory.hooks]
        gateways = [self.gateway, *known]
        present = _owned_by(gateways, request.headers)
        callers = callers_by_name(present)
        for key in self.gateway.names.stamped & callers.keys():
            if not callers[key][1]:  # a stamp that was pickled is blank
                del callers[key]
        is_redirect = memory.request() is not request
        has_left = memory.has_left or (is_redirect and left_origin(memory.url, url))
        if memory.hooks and not has_left:
            unchanged = _owned_by(known, request.headers)
            if unchanged == memory.sent:
                keys = by_lower_name(unchanged)
                others = {key: callers[key] for key in callers if key not in keys}
                callers = {**others, **memory.callers}  # with what the hooks have removed
        if is_redirect or any(hook is self for hook in memory.hooks):
            # It is another request, or is sent a second time.
            memory, gateways = _Memory(request), [self.gateway]
        request.extensions = {**request.extensions, EXTENSION: memory}
        memory.url, memory.has_left = url, has_left
        memory.callers = callers
        memory.hooks.append(self)

        decisions = [gateway.decide(url, callers, has_left=has_left) for gateway in gateways]
        report(self.gateway.missing, request, decisions[0])
        sent, stamps = apply(decisions, callers)
        _replace(request, present, {**sent, **stamps})
        memory.sent = _owned_by(gateways, request.headers)
        return self

    def __await__(self) -> Generator[Any, None, None]:
        yield from ()

    def __repr__(self) -> str:
        return f"session_id_hook({self.gateway!r})"


class _Memory:
    """What the hooks of a client did to a request when it was last sent.

    httpx passes it on to the next request of a redirect, with the other extensions. So *request*
    tells for which request object it was made.
    """

    def __init__(self, request: Any) -> None:
        self.request = weakref.ref(request)
        self.url = ""
        self.has_left = False  # whether a redirect has left the origin, at some time before
        self.hooks: list[SessionIdHook] = []
        self.callers: ByName = {}
        self.sent: Pairs = []


def session_id_hook(
    gateway: Gateway | str | None = None, *, missing: Missing | None = None
) -> Callable[[Any], Awaitable[None]]:
    """Return a request hook for a client of httpx or httpx2, synchronous or asynchronous.

    It adds the current session ID to requests that are bound for the gateway, by the same rule as
    :class:`~cagent_session.SessionIdAdapter`. It changes the client's request. If that request is
    sent again, the hook first undoes its changes. When a redirect leaves the origin, the hook
    removes every ``X-Cagent-*`` header and those that the gateway names, and they do not come back.
    If another hook sets the marker, put this hook after it.

    :param gateway: see :class:`~cagent_session.SessionIdAdapter`.
    :param missing: see :class:`~cagent_session.Gateway`. It replaces the gateway's own value. An
        error is raised by the client's call, before anything is sent.
    :returns: a hook, which can be copied and pickled.
    :raises InvalidGatewayURL: if the gateway's URL is invalid.
    :raises ValueError: for any other value of *missing*.

    >>> import httpx
    >>> hook = session_id_hook("https://gateway.example")
    >>> client = httpx.Client(event_hooks={"request": [hook]})
    """
    return SessionIdHook(Gateway.of(gateway, missing))


async_session_id_hook = session_id_hook


def _owned_by(gateways: list[Gateway], headers: Any) -> Pairs:
    """Return the names and values of *headers* that belong to one of *gateways*."""
    keys = {key.encode() for gateway in gateways for key in gateway.names.keys}
    pairs = ((pair, pair[0].lower()) for pair in headers.raw)
    return [pair for pair, key in pairs if key.startswith(_PREFIX) or key in keys]


def _replace(request: Any, present: Pairs, wanted: ByName) -> None:
    """Replace the *present* names and values of *request* by the *wanted* ones."""
    values = by_lower_name(present)
    if values.keys() - wanted.keys():  # a name that is not ASCII can't be deleted
        gone = [pair for pair in present if not by_lower_name([pair]).keys() & wanted.keys()]
        kept = [pair for pair in request.headers.raw if pair not in gone]
        request.headers = type(request.headers)(kept, request.headers.encoding)
    headers = request.headers
    for key, (name, value) in wanted.items():
        if key not in values or values[key][1] is not value:
            # httpx keeps the result of encode(), which remembers the caller's value.
            text = value.decode(headers.encoding) if isinstance(value, bytes) else value
            headers[as_text(name)] = text
