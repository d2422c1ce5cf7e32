"""How the session ID gets on the requests of httpx and httpx2: a request hook."""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from cagent_session.gateway import BOUND, NO_SESSION, STAMPED, Gateway, Missing
from cagent_session.headers import (
    FORWARD_HEADER,
    PREFIX,
    SESSION_ID_HEADER,
    StampedBytes,
    StampedId,
)
from cagent_session.origins import left_origin

Pairs = list[tuple[bytes, bytes]]

_EXTENSION = "cagent_session"
_PREFIX, _SESSION_ID = PREFIX.encode(), SESSION_ID_HEADER.lower().encode()


class SessionIdHook:
    """The result of :func:`session_id_hook`."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    def __call__(self, request: Any) -> SessionIdHook:
        """Apply the rule to *request*. Asynchronous clients await the result, which is done."""
        url, left, present = str(request.url), False, _our_headers(request.headers)
        callers = _callers(present)
        memory: _Memory | None = request.extensions.get(_EXTENSION)
        if memory is not None:
            is_redirect = memory.request() is not request
            left = is_redirect and left_origin(memory.url, url)
            if not left and memory.sent == present:
                callers = memory.callers
            if is_redirect or any(hook is self for hook in memory.hooks):
                memory = None  # another request, or the same one that is sent once more
        if memory is None:
            memory = _Memory(request)
            request.extensions = {**request.extensions, _EXTENSION: memory}
        memory.url, memory.callers = url, [] if left else callers

        forward, own = value_of(callers, FORWARD_HEADER), value_of(callers, SESSION_ID_HEADER)
        hooks = [self, *memory.hooks]  # it may be bound for the gateway of another one
        decided = [hook.gateway.decide(url, forward, own, left=left) for hook in hooks]
        reason, session_id = next((d for d in decided if d[0] in BOUND), decided[0])
        self.gateway.report(request, decided[0][0], forward, decided[0][1])
        if self.gateway.removes_all(reason):
            callers = []
        elif reason != NO_SESSION or session_id is None:
            callers = [pair for pair in callers if not _is_session_id(pair)]
        if reason is STAMPED:
            stamp = StampedId.of(session_id, own).encode()
            callers = [*callers, (SESSION_ID_HEADER.encode(), stamp)]
        memory.hooks.append(self)
        memory.sent = callers
        _change(request, present, callers)
        return self

    def __await__(self) -> Generator[Any, None, None]:
        yield from ()

    def __repr__(self) -> str:
        return f"session_id_hook({self.gateway!r})"


class _Memory:
    """What the hooks of a client did to a request when it was last sent.

    Only the same object is the same request: httpx gives the extensions to the next request of a
    redirect, which is another object.
    """

    def __init__(self, request: Any) -> None:
        self.request = weakref.ref(request)
        self.url = ""
        self.hooks: list[SessionIdHook] = []
        self.callers: Pairs = []
        self.sent: Pairs = []


def session_id_hook(
    gateway: Gateway | str | None = None, *, missing: Missing | None = None
) -> Callable[[Any], Awaitable[None]]:
    """Return a request hook for a client of httpx or httpx2, synchronous or asynchronous.

    It adds the current session ID to requests that are bound for the gateway, by the same rule as
    :class:`~cagent_session.SessionIdAdapter`. It changes the client's request. If that request is
    sent again, the hook first takes its changes back. After a redirect that leaves the origin it
    removes every ``X-Cagent-*`` header for good. Put it after hooks that set the marker.

    :param gateway: see :class:`~cagent_session.SessionIdAdapter`.
    :param missing: see :class:`~cagent_session.Gateway`, whose value it replaces. An error is
        raised by the client's call, before anything is sent.
    :returns: a hook, which can be copied and pickled.
    :raises InvalidGatewayURL: for another gateway URL.
    :raises ValueError: for another value of *missing*.

    >>> import httpx
    >>> hook = session_id_hook("https://gateway.example")
    >>> client = httpx.Client(event_hooks={"request": [hook]})
    """
    return SessionIdHook(Gateway.of(gateway, missing))


async_session_id_hook = session_id_hook


def callers_headers(headers: Any) -> Pairs:
    """Return the ``X-Cagent-*`` headers that the caller set in *headers*."""
    return _callers(_our_headers(headers))


def value_of(pairs: Pairs, name: str) -> bytes | None:
    """Return the value of the header *name* among *pairs*, or ``None``."""
    key = name.lower().encode()
    return b", ".join([value for name_, value in pairs if name_.lower() == key]) or None


def _our_headers(headers: Any) -> Pairs:
    return [pair for pair in headers.raw if pair[0].lower().startswith(_PREFIX)]


def _callers(present: Pairs) -> Pairs:
    """Return *present* without what we have set there, also if it was in another request."""
    callers = []
    for name, value in present:
        own: Any = value.stamped.callers if isinstance(value, StampedBytes) else value
        if own is not None:
            callers.append((name, own))
    return callers


def _is_session_id(pair: tuple[bytes, bytes]) -> bool:
    return pair[0].lower() == _SESSION_ID


def _change(request: Any, present: Pairs, wanted: Pairs) -> None:
    """Let *request* have the *wanted* ``X-Cagent-*`` headers, in place of the *present* ones."""
    headers = request.headers
    others = [pair for pair in present if not _is_session_id(pair)]
    if wanted and wanted[:-1] == others and isinstance(wanted[-1][1], StampedBytes):
        headers[SESSION_ID_HEADER] = wanted[-1][1].stamped  # the usual case, and the fastest way
    elif wanted != present:
        kept = [pair for pair in headers.raw if pair in wanted or pair not in present]
        added = [pair for pair in wanted if pair not in present]
        request.headers = type(headers)([*kept, *added], headers.encoding)
