"""``stamp_botocore``: the handler for clients and sessions of boto3, botocore and aiobotocore."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from cagent_session.gateway import Gateway
from cagent_session.transports.mappings import stamp

C = TypeVar("C")

_EVENT = "before-send"  # botocore emits it after a request was signed, once for each attempt
_STAMPED = "cagent_session"  # the name of an attribute of requests


class _Handler:
    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    def __call__(self, request: Any, **_: Any) -> None:  # another result would be the answer
        stamp(request, request.headers, self.gateway)
        setattr(request, _STAMPED, True)


def stamp_botocore(
    client_or_session: C,
    gateway: Gateway | str | None = None,
    *,
    headers: Mapping[str, str] | None = None,
) -> C:
    """Add the current session ID to requests of a boto3 client that are bound for the gateway.

    The rule is that of :class:`~cagent_session.SessionIdAdapter`. The headers are added after the
    request was signed, so the signature stays valid if the gateway removes them. Each retry carries
    them, too. A second call replaces the settings of the first one. An asynchronous client of
    aiobotocore sends through aiohttp, which follows redirects: see the guide to SDKs.

    :param client_or_session: a client or resource of boto3 or aiobotocore, or a session of boto3,
        botocore or aiobotocore. A session covers the clients that it makes later.
    :param gateway: see :class:`~cagent_session.SessionIdAdapter`. With
        ``Gateway(url, missing="raise")`` a call in no session raises
        :class:`~cagent_session.MissingSessionId`.
    :param headers: headers of :func:`~cagent_session.gateway_headers`, for requests to the gateway
        that have no marker. Clients of boto3 have no other place for them.
    :returns: *client_or_session*.
    :raises InvalidGatewayURL: if the gateway's URL is invalid.
    :raises ValueError: if a header is neither ``X-Cagent-*`` nor the marker or can't be sent
        unchanged, if there is no marker among them, and if *headers* are given without a gateway's
        URL.
    :raises TypeError: if *client_or_session* is none of these.
    """
    handler = _Handler(Gateway.of(gateway).with_marking(headers))
    events = _events_of(client_or_session)
    events.unregister(_EVENT, unique_id=_STAMPED)
    events.register_last(_EVENT, handler, unique_id=_STAMPED)
    return client_or_session


def stamp_request(request: Any, gateway: Gateway) -> None:
    """Apply the rule to a request that is sent now, unless a handler has just done so."""
    if vars(request).pop(_STAMPED, None) is None:
        stamp(request, request.headers, gateway)


def _events_of(client_or_session: Any) -> Any:
    """Return the object with which handlers are registered for a client or session."""
    meta = getattr(client_or_session, "meta", None)
    client_meta = getattr(getattr(meta, "client", None), "meta", meta)  # a resource has a client
    events = getattr(client_meta, "events", getattr(client_or_session, "events", None))
    if events is None and hasattr(client_or_session, "get_component"):  # a session of botocore
        events = client_or_session.get_component("event_emitter")
    if not hasattr(events, "register_last"):
        kind = f"{type(client_or_session).__module__}.{type(client_or_session).__qualname__}"
        raise TypeError(
            "stamp_botocore() takes a client, a resource or a session of boto3, botocore or "
            f"aiobotocore, got {kind}; give it an asynchronous client inside its async with"
        )
    return events
