"""How does a session ID get onto a request of requests? The transport adapter, and mounting it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload
from urllib.parse import urljoin, urlparse

import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from requests.models import REDIRECT_STATI
from requests.sessions import SessionRedirectMixin
from requests.structures import CaseInsensitiveDict
from requests.utils import requote_uri

from cagent_session.gateway import (
    FORWARD_HEADER,
    SESSION_ID_HEADER,
    HeaderValue,
    Missing,
    Rule,
    Stamp,
    leaves_origin,
    remove_cagent_headers,
    require_sendable,
    set_session_id,
)

P = ParamSpec("P")
S = TypeVar("S", bound=requests.Session)

_SEND_ARGUMENTS = ("stream", "timeout", "verify", "cert", "proxies")  # those of BaseAdapter.send, in its order
_SHARED = ("max_retries", "poolmanager")  # what an inner adapter's users most often set
_FORWARD, _SESSION_ID = FORWARD_HEADER.lower(), SESSION_ID_HEADER.lower()
# Where requests keeps headers: in one dict, names and values by the names in lower case. To look for what isn't there
# and to copy takes a fifth of the time of the public methods, which serve where headers are kept otherwise.
_STORED = getattr(CaseInsensitiveDict(A="b"), "_store", None) == {"a": ("A", "b")}
_NOT_THERE = (None, None)
_redirects: Any = SessionRedirectMixin()


class SessionIdAdapter(HTTPAdapter):
    """Transport adapter that adds the session ID in scope to gateway-bound requests, and to no others.

    The ID goes on a copy of the request, which becomes ``response.request``. The caller's own request is changed in
    one case: when the answer redirects off the origin, its ``X-Cagent-*`` headers are removed, because requests
    copies every later hop from it.

    :param gateway: URL of the models gateway: http or https, without user, password, query and fragment. With it, no
        other origin is ever sent a session ID. ``None`` leaves it to the marker, ``X-Cagent-Forward``.
    :param inner: an adapter that does the sending; its ``max_retries``, ``poolmanager`` and own attributes show
        through.
    :param missing: what a gateway-bound request with no session does: ``"omit"`` goes without, ``"warn"`` issues
        :class:`~cagent_session.MissingSessionIdWarning`, ``"raise"`` raises
        :class:`~cagent_session.MissingSessionId` before anything is sent.
    :param http_adapter_kwargs: the parameters of :class:`requests.adapters.HTTPAdapter`; not together with *inner*.
    :raises InvalidGatewayURL: for another gateway URL.
    :raises ValueError: for another value of *missing*.
    :raises TypeError: for an *inner* that can't send, or that comes with *http_adapter_kwargs*.
    """

    def __init__(
        self,
        gateway: str | None = None,
        *,
        inner: BaseAdapter | None = None,
        missing: Missing = "omit",
        **http_adapter_kwargs: Any,
    ) -> None:
        self._rule = Rule(gateway, missing)
        self.inner = inner
        if inner is None:
            super().__init__(**http_adapter_kwargs)
        elif http_adapter_kwargs:
            raise TypeError(f"configure the inner adapter with {', '.join(http_adapter_kwargs)}, not its wrapper")
        elif not callable(getattr(inner, "send", None)):
            raise TypeError(f"inner must be a transport adapter of requests, got {type(inner).__name__}")

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send *request*; urllib3's retries and a streamed body stay in the session that is in scope now.

        Parameters, result and errors are those of :meth:`requests.adapters.HTTPAdapter.send`.

        :raises MissingSessionId: before anything is sent, if *missing* is ``"raise"`` and the session is.
        """
        if args:  # several adapters take them by keyword only
            kwargs.update(zip(_SEND_ARGUMENTS, args, strict=False))
        headers = request.headers
        forward, present = _marker_and_session_id(headers)
        earlier = headers.stamp if type(headers) is _StampedHeaders else None
        stamp = self._rule.stamp_for(request, forward, present, earlier)
        outgoing = request if stamp is None else _stamped(request, stamp)
        response = super().send(outgoing, **kwargs) if self.inner is None else self.inner.send(outgoing, **kwargs)
        response.connection = _Resender(self, request) if request.hooks.get("response") else self
        if response.status_code in REDIRECT_STATI and _leaves_origin(outgoing, response):
            remove_cagent_headers(request.headers)
        return response

    def close(self) -> None:
        """Close the connections, the inner adapter's where there is one."""
        if self.inner is None:
            super().close()
        else:
            self.inner.close()

    if not TYPE_CHECKING:  # a type checker would take every attribute for one of ours

        def __getattr__(self, name: str) -> Any:
            inner = vars(self).get("inner")
            if inner is None or name.startswith("__"):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            return getattr(inner, name)

        def __setattr__(self, name: str, value: Any) -> None:
            inner = vars(self).get("inner")
            if inner is None or name in vars(self) or not (name in _SHARED or name in vars(inner)):
                super().__setattr__(name, value)
            else:
                setattr(inner, name, value)

    def __getstate__(self) -> dict[str, Any]:
        adapter: Any = super()  # this half of pickling and the other are not in the stubs of requests before 2.34
        if self.inner is not None:
            return dict(vars(self))
        return {"inner": None, "_rule": self._rule, **adapter.__getstate__()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        adapter: Any = super()
        vars(self).update(state)
        if self.inner is None:
            adapter.__setstate__(state)


class _Mounted(SessionIdAdapter):
    """A wrapper that :func:`mount` has made, and that :func:`unmount` may take off; any other is the caller's own."""


class _Resender(SessionIdAdapter):
    """The ``response.connection`` for response hooks, through which digest authentication sends again.

    requests goes on with the *first* request, also when it is the hook's response that redirects off the origin.
    """

    def __init__(self, adapter: SessionIdAdapter, first: requests.PreparedRequest) -> None:
        vars(self).update(inner=adapter, _first=first)

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send *request* through the adapter."""
        adapter: Any = self.inner
        response: requests.Response = adapter.send(request, *args, **kwargs)
        response.connection = self
        if response.status_code in REDIRECT_STATI and _leaves_origin(request, response):
            remove_cagent_headers(vars(self)["_first"].headers)
        return response


class _StampedHeaders(CaseInsensitiveDict[Any]):
    """Headers that remember what we set in them, also where requests copies them, as for a redirect."""

    stamp: Stamp

    def __init__(self, headers: Any, stamp: Stamp) -> None:
        if _is_stored(headers):
            self._store: Any = headers._store.copy()  # noqa: SLF001 - see _STORED
        else:
            super().__init__(headers)
        self.stamp = stamp

    def copy(self) -> _StampedHeaders:
        return _StampedHeaders(self, self.stamp)


def mount(session: S, gateway: str | None = None, *, missing: Missing = "omit") -> S:
    """Wrap every adapter mounted on *session*, so that its gateway-bound requests carry the session ID in scope.

    Adapters are wrapped, not replaced: retries, pools, caches and longer prefixes keep working. Mounting again wraps
    what was mounted since, and gives what is wrapped the settings of this call. A :class:`SessionIdAdapter` that the
    caller mounted stays as it is. Mount at set-up, before threads send.

    :param session: a :class:`requests.Session`, such as a provider SDK's.
    :param gateway: see :class:`SessionIdAdapter`.
    :param missing: see :class:`SessionIdAdapter`.
    :returns: *session*.
    :raises InvalidGatewayURL: for another gateway URL; after any error *session* is as it was.
    :raises ValueError: for another value of *missing*.
    :raises TypeError: where *session* is no :class:`requests.Session`.

    >>> session = mount(requests.Session(), gateway="https://gateway.example")
    """
    rule = Rule(gateway, missing)
    _require_session(session)
    session.adapters.update({prefix: _wrapped(adapter, rule) for prefix, adapter in session.adapters.items()})
    return session


def unmount(session: S) -> S:
    """Put back the adapters that :func:`mount` has wrapped, the very same objects.

    :param session: a :class:`requests.Session`; where nothing is wrapped it stays as it is.
    :returns: *session*.
    :raises TypeError: where *session* is no :class:`requests.Session`.
    """
    _require_session(session)
    wrapped = {prefix: adapter for prefix, adapter in session.adapters.items() if isinstance(adapter, _Mounted)}
    session.adapters.update({prefix: adapter.inner for prefix, adapter in wrapped.items() if adapter.inner is not None})
    return session


@overload
def session_factory(
    *,
    gateway: str | None = ...,
    missing: Missing = ...,
    headers: Mapping[str, str] | None = ...,
    **http_adapter_kwargs: Any,
) -> Callable[[], requests.Session]: ...
@overload
def session_factory(
    make: Callable[P, S],
    gateway: str | None = ...,
    *,
    missing: Missing = ...,
    headers: Mapping[str, str] | None = ...,
) -> Callable[P, S]: ...
def session_factory(
    make: Callable[..., Any] = requests.Session,
    gateway: str | None = None,
    *,
    missing: Missing = "omit",
    headers: Mapping[str, str] | None = None,
    **http_adapter_kwargs: Any,
) -> Callable[..., Any]:
    """Return a factory of mounted sessions, for SDKs that take one.

    :param make: a class or function that returns a :class:`requests.Session`; it gets the factory's arguments.
    :param gateway: see :class:`SessionIdAdapter`.
    :param missing: see :class:`SessionIdAdapter`.
    :param headers: headers that each session sends with every request, such as those of
        :func:`~cagent_session.gateway_headers`, for an SDK that has no other place for them.
    :param http_adapter_kwargs: parameters of :class:`requests.adapters.HTTPAdapter`, such as the retries that an SDK
        gives to the sessions it makes itself; not together with *make*, which mounts what it likes.
    :raises InvalidGatewayURL: here, not when a session is made; likewise :class:`ValueError` for *missing*, and for a
        header that is not visible ASCII characters, with spaces only inside; the message does not repeat its value.
    :raises TypeError: if *make* can't be called, *headers* is no mapping, or HTTPAdapter has no such parameter.

    >>> make_session = session_factory(gateway="https://gateway.example", max_retries=2)
    """
    Rule(gateway, missing)
    if not callable(make):
        raise TypeError(f"session_factory() takes a callable that makes sessions, got {type(make).__name__}")
    if make is not requests.Session and http_adapter_kwargs:
        raise TypeError(f"mount adapters with {', '.join(http_adapter_kwargs)} where sessions are made, in {make!r}")
    HTTPAdapter(**http_adapter_kwargs)  # what it refuses fails here, not when an SDK makes its first session
    if headers is not None:
        require_sendable(headers)
    return functools.partial(_make_mounted, make, gateway, missing, dict(headers or {}), http_adapter_kwargs)


def _require_session(session: object) -> None:
    if not isinstance(session, requests.Session):
        kind = f"{type(session).__module__}.{type(session).__qualname__}"
        raise TypeError(f"expected a requests.Session, got {kind}; a client of httpx takes session_id_hook()")


def _make_mounted(
    make: Callable[..., S],
    gateway: str | None,
    missing: Missing,
    headers: dict[str, str],
    http_adapter_kwargs: dict[str, Any],
    /,
    *args: Any,
    **kwargs: Any,
) -> S:
    session = make(*args, **kwargs)
    _require_session(session)
    session.headers.update(headers)
    if http_adapter_kwargs:
        for prefix in ("https://", "http://"):
            session.mount(prefix, HTTPAdapter(**http_adapter_kwargs))
    return mount(session, gateway, missing=missing)


def _wrapped(adapter: BaseAdapter, rule: Rule) -> BaseAdapter:
    inner: BaseAdapter | None = adapter
    if isinstance(adapter, SessionIdAdapter):
        if not isinstance(adapter, _Mounted) or vars(adapter._rule) == vars(rule):  # noqa: SLF001 - our own class
            return adapter
        inner = adapter.inner
    return _Mounted(rule.gateway, inner=inner, missing=rule.missing)


def _marker_and_session_id(headers: Any) -> tuple[HeaderValue | None, HeaderValue | None]:
    """Return the values of the two headers, ``None`` for one that isn't there."""
    if _is_stored(headers):
        names_and_values = headers._store  # noqa: SLF001 - see _STORED
        return names_and_values.get(_FORWARD, _NOT_THERE)[1], names_and_values.get(_SESSION_ID, _NOT_THERE)[1]
    if not isinstance(headers, CaseInsensitiveDict):  # set by hand after preparation
        headers = CaseInsensitiveDict(headers)
    return headers.get(FORWARD_HEADER), headers.get(SESSION_ID_HEADER)


def _is_stored(headers: Any) -> bool:
    """Tell whether *headers* are kept as requests keeps them: a class of somebody else's may do otherwise."""
    return _STORED and type(headers) in (CaseInsensitiveDict, _StampedHeaders)


def _stamped(request: requests.PreparedRequest, stamp: Stamp) -> requests.PreparedRequest:
    """Return a shallow copy of *request* that carries the session ID of *stamp*."""
    stamped = type(request).__new__(type(request))
    vars(stamped).update(vars(request), headers=_StampedHeaders(request.headers, stamp))
    set_session_id(stamped.headers, stamp[0])
    return stamped


def _leaves_origin(request: requests.PreparedRequest, response: requests.Response) -> bool:
    """Tell whether *response* redirects *request* off the origin.

    The target is found by the very steps of ``Session.resolve_redirects``: ``////host`` leads off by no others.
    """
    try:
        location = _redirects.get_redirect_target(response)
        if not location:
            return False
        scheme = f"{urlparse(response.url).scheme}:" if location.startswith("//") else ""
        parsed = urlparse(scheme + location)
        target = requote_uri(parsed.geturl())
        return leaves_origin(request.url or "", target if parsed.netloc else urljoin(response.url, target))
    except ValueError:  # what can't be read is nobody's origin
        return True
