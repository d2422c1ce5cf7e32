"""``SessionIdAdapter``: the transport adapter for requests."""

from __future__ import annotations

from typing import Any

import requests
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict

from cagent_session.gateway import Gateway
from cagent_session.headers import (
    FORWARD_HEADER,
    PREFIX,
    SESSION_ID_HEADER,
    SentMarker,
    StampedId,
    cagent_names,
    callers_value,
)
from cagent_session.reporting import BOUND, STAMPED, Missing, is_watched, report
from cagent_session.transports.sent_headers import (
    ByName,
    SentHeaders,
    by_lower_name,
    copy_of,
    hand_back,
    remember,
    without_ours,
)
from cagent_session.transports.wrapping import WrappingAdapter

_SEND_ARGUMENTS = ("stream", "timeout", "verify", "cert", "proxies")  # BaseAdapter.send's, in order
_ABSENT = (None, None)
_FORWARD, _SESSION_ID = FORWARD_HEADER.lower(), SESSION_ID_HEADER.lower()


class SessionIdAdapter(WrappingAdapter):
    """Transport adapter that adds the current session ID to requests bound for the gateway.

    The ID is set on a copy of the request, which becomes ``response.request``. The caller's request
    keeps its values. If an inner adapter changes the copy, the caller's request is changed, too.
    The type of the request's headers becomes a subclass of
    :class:`requests.structures.CaseInsensitiveDict` that remembers where they were sent.

    After a redirect that leaves the origin, no ``X-Cagent-*`` header is sent. This works for all
    code that follows redirects with ``request.copy()``, as requests does, and sends the copy
    through an adapter of this class. So mount it for ``http://`` and ``https://``, as
    :func:`~cagent_session.mount` does. An inner adapter must not follow redirects itself, because
    this adapter does not see them.

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
        try:
            response = send(outgoing, **kwargs)
        finally:
            hand_back(outgoing, request)
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
    by_name = by_lower_name(callers)
    try:
        has_ours = PREFIX in "".join(by_name)
    except TypeError:  # some names are bytes, which a look-up does not find
        callers = dict(callers.items())
        by_name = by_lower_name(callers)
        has_ours = bool(cagent_names(by_name))
    if not has_ours and not gateway.marking:
        if is_watched():
            reason, _ = gateway.decide(str(request.url), None, None)
            report(gateway.missing, request, reason, None, None)
        return request
    is_unchanged = callers is headers
    if type(headers) is not SentHeaders:
        is_unchanged = is_unchanged and type(headers) is CaseInsensitiveDict
        headers = remember(request)
        by_name = by_lower_name(headers) if is_unchanged else by_name
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
    url = request.url or ""
    forward, present = by_name.get(_FORWARD, _ABSENT)[1], by_name.get(_SESSION_ID, _ABSENT)[1]
    has_left = headers.is_copy or type(forward) is SentMarker
    if has_left:  # it is a copy of a sent request, so it may have left the origin
        has_left, by_name = headers.moved_to(url, by_name)
    callers_id = present and callers_value(present)
    reason, session_id = gateway.decide(url, forward, callers_id, has_left=has_left)
    if session_id is None or is_watched():
        report(gateway.missing, request, reason, forward, session_id)
    if has_left:  # change the request itself: it was made for this redirect
        request.headers = SentHeaders.of(without_ours(by_name), url)
        return request
    headers.url = url
    if headers.callers is not None and reason not in BOUND:
        return request  # it may be bound for the outer adapter's gateway
    is_right = is_unchanged and session_id == present and present is callers_id
    added = gateway.marking and gateway.added_to(reason, forward)
    if is_right and not added and not gateway.removes_all(reason):
        return request
    if session_id is not None:
        by_name = {**by_name, _SESSION_ID: (SESSION_ID_HEADER, session_id)}
    elif gateway.removes_all(reason):
        by_name = without_ours(by_name)
    else:
        by_name = {name: by_name[name] for name in by_name if name != _SESSION_ID}
    if added:
        by_name = {**by_name, **{name.lower(): (name, added[name]) for name in added}}
    stamp = StampedId.of(session_id, callers_id) if reason is STAMPED else None
    return copy_of(request, SentHeaders.of(by_name, url=url, callers=headers, stamp=stamp))
