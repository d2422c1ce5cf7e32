"""``SessionIdAdapter``: the transport adapter for requests."""

from __future__ import annotations

from typing import Any

import requests
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict

from cagent_session.decision import apply
from cagent_session.gateway import Gateway
from cagent_session.headers import (
    ABSENT,
    PREFIX,
    ByName,
    SentMarker,
    callers_by_name,
)
from cagent_session.reporting import Missing, is_watched, report
from cagent_session.transports.sent_headers import (
    SentHeaders,
    copy_of,
    hand_back,
    remember,
    stored_in,
)
from cagent_session.transports.wrapping import WrappingAdapter

_SEND_ARGUMENTS = ("stream", "timeout", "verify", "cert", "proxies")  # BaseAdapter.send's, in order


class SessionIdAdapter(WrappingAdapter):
    """Transport adapter that adds the current session ID to requests bound for the gateway.

    The ID is set on a copy of the request, which becomes ``response.request``. The caller's request
    keeps its values. If an inner adapter changes the copy, the caller's request is changed, too.
    The type of the request's headers becomes a subclass of
    :class:`requests.structures.CaseInsensitiveDict` that remembers where they were sent.

    After a redirect that leaves the origin, no ``X-Cagent-*`` header is sent, and none of those
    that the gateway names. This works for all code that follows redirects with ``request.copy()``,
    as requests does, and sends the copy through an adapter of this class. So mount it for
    ``http://`` and ``https://``, as :func:`~cagent_session.mount` does. An inner adapter must not
    follow redirects itself, because this adapter does not see them.

    :param gateway: the models gateway: its URL or a :class:`~cagent_session.Gateway`. If a URL is
        known, requests to other origins get no ``X-Cagent-*`` header. If it is ``None``, every
        request with the marker ``X-Cagent-Forward`` is bound for the gateway.
    :param inner: an adapter that sends the requests. Its methods and attributes can be used through
        this adapter.
    :param missing: see :class:`~cagent_session.Gateway`. It replaces the gateway's own value.
    :param http_adapter_kwargs: the parameters of :class:`requests.adapters.HTTPAdapter`, if there
        is no *inner*.
    :raises InvalidGatewayURL: if the gateway's URL is invalid.
    :raises ValueError: for any other value of *missing*.
    :raises TypeError: if *inner* can't send, or is given together with *http_adapter_kwargs*.

    >>> session = requests.Session()
    >>> session.mount("https://", SessionIdAdapter("https://gateway.example", max_retries=2))
    """

    def __init__(
        self,
        gateway: Gateway | str | None = None,
        *,
        inner: BaseAdapter | None = None,
        missing: Missing | None = None,
        **http_adapter_kwargs: Any,
    ) -> None:
        self.gateway = Gateway.of(gateway, missing)
        self.inner = inner
        if inner is None:
            super().__init__(**http_adapter_kwargs)
        elif http_adapter_kwargs:
            names = ", ".join(http_adapter_kwargs)
            raise TypeError(f"set {names} on the inner adapter, not here")
        elif not callable(getattr(inner, "send", None)):
            kind = type(inner).__name__
            raise TypeError(f"inner must be a transport adapter of requests, got {kind}")

    def send(
        self, request: requests.PreparedRequest, *args: Any, **kwargs: Any
    ) -> requests.Response:
        """Send *request* with the ID of the session that is current now.

        urllib3's retries send the same ID. Parameters, result and errors are those of
        :meth:`requests.adapters.HTTPAdapter.send`.

        :raises MissingSessionId: if *missing* is ``"raise"`` and there is no session ID. Nothing is
            sent.
        """
        if args:  # some inner adapters take keywords only
            kwargs.update(zip(_SEND_ARGUMENTS, args, strict=False))
        send = super().send if self.inner is None else self.inner.send
        outgoing = _outgoing(request, gateway) if (gateway := self.gateway) else request
        headers = outgoing.headers
        try:
            response = send(outgoing, **kwargs)
        finally:
            hand_back(outgoing, headers, request)
        response.connection = self
        return response

    def __repr__(self) -> str:
        inner = "" if self.inner is None else f", inner={self.inner!r}"
        return f"{type(self).__name__}({self.gateway!r}{inner})"

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "gateway": self.gateway}


def _outgoing(request: requests.PreparedRequest, gateway: Gateway) -> requests.PreparedRequest:
    """Return what to send: *request* itself, or a copy of it with other headers."""
    headers: Any = request.headers
    # An outer adapter, for another gateway, may have removed headers that this one needs.
    callers = getattr(headers, "callers", None) or headers
    by_name = stored_in(callers)
    try:
        has_ours = PREFIX in "".join(by_name)
    except TypeError:  # some names are bytes, which a look-up does not find
        by_name = callers_by_name(callers.items())
        has_ours = any(map(gateway.names.owns, by_name))
        callers = None
    if not has_ours and not gateway.decides_all:
        if is_watched():
            report(gateway.missing, request, gateway.decide(str(request.url), {}))
        return request
    is_unchanged = callers is headers
    if type(headers) is not SentHeaders:
        is_unchanged = is_unchanged and type(headers) is CaseInsensitiveDict
        headers = remember(request)
        by_name = stored_in(headers) if is_unchanged else by_name
    return _decided(request, gateway, headers, by_name, is_unchanged)


def _decided(
    request: requests.PreparedRequest,
    gateway: Gateway,
    headers: SentHeaders,
    by_name: ByName,
    is_unchanged: bool,
) -> requests.PreparedRequest:
    """Apply the rule to *request*, which has or may get our headers, and return what to send.

    :param by_name: the headers that the caller set.
    :param is_unchanged: whether *headers* contains exactly these.
    """
    url, marker_key = request.url or "", gateway.names.marker_key
    has_left = headers.has_left
    if headers.is_copy or type(by_name.get(marker_key, ABSENT)[1]) is SentMarker:
        # It is a copy of a sent request, so it may have left the origin.
        has_moved, by_name = headers.moved_to(url, by_name, marker_key)
        has_left = has_left or has_moved
    if not by_name.keys().isdisjoint(gateway.names.stamped):  # they may be those of a sent request
        present, by_name = by_name, callers_by_name(by_name.values())
        is_unchanged = is_unchanged and by_name == present
    decision = gateway.decide(url, by_name, has_left=has_left)
    if decision.session_id is None or is_watched():
        report(gateway.missing, request, decision)
    if headers.callers is None:
        sent, stamps = decision.applied_to(by_name)
    else:  # an outer adapter is for another gateway, and the request may be bound for that one
        sent, stamps = apply([decision, headers.decision], by_name)
    if has_left:  # change the request itself: it was made for this redirect
        request.headers = SentHeaders.of(sent, url)
        request.headers.has_left = True
        return request
    headers.url, headers.marker_key = url, marker_key
    if is_unchanged and not stamps and sent == by_name:
        return request
    outgoing = SentHeaders.of(sent, url)
    outgoing.callers, outgoing.stamps, outgoing.decision = headers, stamps, decision
    return copy_of(request, outgoing)
