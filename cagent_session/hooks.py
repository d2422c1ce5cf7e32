"""How does a session ID get onto the requests of httpx and httpx2? The request hooks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any

from cagent_session.gateway import (
    FORWARD_HEADER,
    SESSION_ID_HEADER,
    Missing,
    Rule,
    leaves_origin,
    remove_cagent_headers,
    set_session_id,
)

_EXTENSION = "cagent_session"


def session_id_hook(gateway: str | None = None, *, missing: Missing = "omit") -> Callable[[Any], None]:
    """Return a request hook for a client of httpx or httpx2: ``Client(event_hooks={"request": [hook]})``.

    It adds the session ID in scope to gateway-bound requests, by the same rule as
    :class:`~cagent_session.SessionIdAdapter`. It changes the client's own request, and takes that back when the request
    is sent again. After a redirect off the origin it removes every ``X-Cagent-*`` header, for good. Put it last, after
    a hook that sets the marker.

    :param gateway: see :class:`~cagent_session.SessionIdAdapter`.
    :param missing: see :class:`~cagent_session.SessionIdAdapter`; what is raised leaves the client as it is.
    :raises InvalidGatewayURL: for another gateway URL, and :class:`ValueError` for another *missing*.
    """
    rule = Rule(gateway, missing)

    def hook(request: Any) -> None:
        url = str(request.url)
        earlier_url, stamp = request.extensions.get(_EXTENSION, (url, None))
        if url != earlier_url and leaves_origin(earlier_url, url):
            remove_cagent_headers(request.headers)
        forward, present = request.headers.get(FORWARD_HEADER), request.headers.get(SESSION_ID_HEADER)
        new_stamp = rule.stamp_for(request, forward, present, stamp)
        if new_stamp is not None:
            set_session_id(request.headers, new_stamp[0])
            stamp = new_stamp
        # A dict of the request's own: some releases of httpx share one over all hops of a redirect.
        request.extensions = {**request.extensions, _EXTENSION: (url, stamp)}

    return hook


def async_session_id_hook(gateway: str | None = None, *, missing: Missing = "omit") -> Callable[[Any], Awaitable[None]]:
    """Return the same for an ``AsyncClient``; parameters and errors are those of :func:`session_id_hook`."""
    hook = session_id_hook(gateway, missing=missing)

    def async_hook(request: Any) -> Awaitable[None]:
        hook(request)  # at once: on a client that is not asynchronous, which awaits nothing, the rule holds as well
        return _Done()

    return async_hook


class _Done:
    """An awaitable that is done."""

    def __await__(self) -> Generator[Any, None, None]:
        yield from ()
