"""``session_id_hook``: the request hook for httpx and httpx2."""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from cagent_session.gateway import Gateway
from cagent_session.headers import (
    FORWARD_HEADER,
    PREFIX,
    SESSION_ID_HEADER,
    StampedBytes,
    StampedId,
)
from cagent_session.origins import left_origin
from cagent_session.reporting import BOUND, NO_SESSION, STAMPED, Missing, report

Pairs = list[tuple[bytes, bytes]]

EXTENSION = "cagent_session"
_PREFIX, _SESSION_ID = PREFIX.encode(), SESSION_ID_HEADER.lower().encode()


class SessionIdHook:
    """The result of :func:`session_id_hook`."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    def __call__(self, request: Any) -> SessionIdHook:
        """Apply the rule to *request*. Asynchronous clients can await the result."""
        url, has_left, present = str(request.url), False, _our_headers(request.headers)
        pairs = _without_stamps(present)
        memory: _Memory | None = request.extensions.get(EXTENSION)
        if memory is not None:
            is_redirect = memory.request() is not request
            has_left = is_redirect and left_origin(memory.url, url)
            if not has_left and memory.sent == present:
                pairs = memory.callers_pairs
            if is_redirect or any(hook is self for hook in memory.hooks):
                memory = None  # it is another request, or is sent a second time
        if memory is None:
            memory = _Memory(request)
            request.extensions = {**request.extensions, EXTENSION: memory}
        memory.url, memory.callers_pairs = url, [] if has_left else pairs

        forward, callers_id = value_of(pairs, FORWARD_HEADER), value_of(pairs, SESSION_ID_HEADER)
        gateways = [self.gateway, *[hook.gateway for hook in memory.hooks]]
        decided = [(*g.decide(url, forward, callers_id, has_left=has_left), g) for g in gateways]
        report(self.gateway.missing, request, decided[0][0], forward, decided[0][1])
        # It may be bound for another hook's gateway.
        reason, session_id, gateway = next((d for d in decided if d[0] in BOUND), decided[0])
        if self.gateway.removes_all(reason):
            pairs = []
        elif reason != NO_SESSION or session_id is None:
            pairs = [pair for pair in pairs if not _is_session_id(pair)]
        if added := gateway.added_to(reason, forward):
            replaced = {name.lower().encode() for name in added}
            pairs = [pair for pair in pairs if pair[0].lower() not in replaced]
            pairs += [(name.encode(), value.encode()) for name, value in added.items()]
        if reason is STAMPED:
            stamp = StampedId.of(session_id, callers_id).encode()
            pairs = [*pairs, (SESSION_ID_HEADER.encode(), stamp)]
        memory.hooks.append(self)
        memory.sent = pairs
        _replace(request, present, pairs)
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
        self.hooks: list[SessionIdHook] = []
        self.callers_pairs: Pairs = []
        self.sent: Pairs = []


def session_id_hook(
    gateway: Gateway | str | None = None, *, missing: Missing | None = None
) -> Callable[[Any], Awaitable[None]]:
    """Return a request hook for a client of httpx or httpx2, synchronous or asynchronous.

    It adds the current session ID to requests that are bound for the gateway, by the same rule as
    :class:`~cagent_session.SessionIdAdapter`. It changes the client's request. If that request is
    sent again, the hook first undoes its changes. When a redirect leaves the origin, the hook
    removes every ``X-Cagent-*`` header, and they do not come back. If another hook sets the marker,
    put this hook after it.

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


def callers_headers(headers: Any) -> Pairs:
    """Return the ``X-Cagent-*`` headers that the caller set in *headers*."""
    return _without_stamps(_our_headers(headers))


def value_of(pairs: Pairs, name: str) -> bytes | None:
    """Return the value of the header *name* among *pairs*, or ``None``."""
    key = name.lower().encode()
    return b", ".join([value for name_, value in pairs if name_.lower() == key]) or None


def _our_headers(headers: Any) -> Pairs:
    return [pair for pair in headers.raw if pair[0].lower().startswith(_PREFIX)]


def _without_stamps(present: Pairs) -> Pairs:
    """Return the caller's part of *present*, without the IDs that a hook has set."""
    callers = []
    for name, value in present:
        own: Any = value.stamped.replaced if isinstance(value, StampedBytes) else value
        if own is not None:
            callers.append((name, own))
    return callers


def _is_session_id(pair: tuple[bytes, bytes]) -> bool:
    return pair[0].lower() == _SESSION_ID


def _replace(request: Any, present: Pairs, wanted: Pairs) -> None:
    """Replace the *present* ``X-Cagent-*`` headers of *request* by the *wanted* ones."""
    headers = request.headers
    others = [pair for pair in present if not _is_session_id(pair)]
    if wanted and wanted[:-1] == others and isinstance(wanted[-1][1], StampedBytes):
        headers[SESSION_ID_HEADER] = wanted[-1][1].stamped  # the usual case, done quickly
    elif wanted != present:
        unchanged = [pair for pair in headers.raw if pair in wanted or pair not in present]
        added = [pair for pair in wanted if pair not in present]
        request.headers = type(headers)([*unchanged, *added], headers.encoding)
