"""``mount``, ``unmount`` and ``session_factory``: the adapter on a ``requests.Session``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar, overload

import requests
from requests.adapters import BaseAdapter, HTTPAdapter

from cagent_session.gateway import Gateway
from cagent_session.headers import require_sendable
from cagent_session.reporting import Missing
from cagent_session.transports.requests import SessionIdAdapter

P = ParamSpec("P")
S = TypeVar("S", bound=requests.Session)


class _Mounted(SessionIdAdapter):
    """A wrapper that :func:`mount` made. :func:`unmount` removes only wrappers of this class."""


def mount(session: S, gateway: Gateway | str | None = None, *, missing: Missing | None = None) -> S:
    """Wrap every adapter of *session*. Its requests to the gateway then carry the session ID.

    Adapters are wrapped, not replaced: retries, pools, caches and adapters for longer prefixes keep
    working. A second call also wraps the adapters that were mounted since the first one, and
    applies the new settings to all wrappers. A :class:`SessionIdAdapter` that the caller mounted
    stays as it is. Call this function when you set the session up, before threads use it.

    :param session: a :class:`requests.Session`, such as a provider SDK's.
    :param gateway: see :class:`SessionIdAdapter`.
    :param missing: see :class:`~cagent_session.Gateway`. It replaces the gateway's own value.
    :returns: *session*.
    :raises InvalidGatewayURL: if the gateway's URL is invalid. Any error leaves *session* as it
        was.
    :raises ValueError: for any other value of *missing*.
    :raises TypeError: if *session* is not a :class:`requests.Session`.

    >>> session = mount(requests.Session(), gateway="https://gateway.example")
    """
    gateway = Gateway.of(gateway, missing)
    _require_session(session)
    adapters = session.adapters
    adapters.update({prefix: _wrapped(adapters[prefix], gateway) for prefix in adapters})
    return session


def unmount(session: S) -> S:
    """Undo :func:`mount`: put back the same adapter objects that were mounted before.

    :param session: a :class:`requests.Session`. If nothing is wrapped it stays as it is.
    :returns: *session*.
    :raises TypeError: if *session* is not a :class:`requests.Session`.

    >>> session = unmount(mount(requests.Session()))
    """
    _require_session(session)
    for prefix, adapter in session.adapters.items():
        if isinstance(adapter, _Mounted) and adapter.inner is not None:
            session.adapters[prefix] = adapter.inner
    return session


@overload
def session_factory(
    *,
    gateway: Gateway | str | None = ...,
    missing: Missing | None = ...,
    headers: Mapping[str, str] | None = ...,
    **http_adapter_kwargs: Any,
) -> Callable[[], requests.Session]: ...
@overload
def session_factory(
    make: Callable[P, S],
    gateway: Gateway | str | None = ...,
    *,
    missing: Missing | None = ...,
    headers: Mapping[str, str] | None = ...,
) -> Callable[P, S]: ...
def session_factory(
    make: Callable[..., Any] = requests.Session,
    gateway: Gateway | str | None = None,
    *,
    missing: Missing | None = None,
    headers: Mapping[str, str] | None = None,
    **http_adapter_kwargs: Any,
) -> Callable[..., Any]:
    """Return a function that makes mounted sessions, for SDKs that take such a function.

    :param make: a class or function that returns a :class:`requests.Session`. It gets the arguments
        of the returned function.
    :param gateway: see :class:`SessionIdAdapter`.
    :param missing: see :class:`~cagent_session.Gateway`. It replaces the gateway's own value.
    :param headers: headers that each session sends with every request, such as those of
        :func:`~cagent_session.gateway_headers`. Use it for SDKs that take no headers themselves.
    :param http_adapter_kwargs: parameters of :class:`requests.adapters.HTTPAdapter`, such as the
        retries that an SDK sets in its own sessions. They can't be used together with *make*.
    :raises InvalidGatewayURL: if the gateway's URL is invalid. This and all other errors are raised
        here, not when a session is made.
    :raises ValueError: for any other value of *missing*, and for a header that can't be sent
        unchanged. The message does not repeat the header's value.
    :raises TypeError: if *make* can't be called, *headers* is not a mapping, or HTTPAdapter has no
        such parameter.

    >>> make_session = session_factory(gateway="https://gateway.example", max_retries=2)
    """
    gateway = Gateway.of(gateway, missing)
    if not callable(make):
        kind = type(make).__name__
        raise TypeError(f"session_factory() takes a callable that makes sessions, got {kind}")
    if make is not requests.Session and http_adapter_kwargs:
        names = ", ".join(http_adapter_kwargs)
        raise TypeError(f"set {names} on the adapters that {make!r} mounts, not here")
    HTTPAdapter(**http_adapter_kwargs)  # raises errors here, not when an SDK makes a session
    if headers is not None:
        require_sendable(headers)
    return functools.partial(_make_mounted, make, gateway, dict(headers or {}), http_adapter_kwargs)


def _make_mounted(
    make: Callable[..., S],
    gateway: Gateway,
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
    return mount(session, gateway)


def _require_session(session: object) -> None:
    if not isinstance(session, requests.Session):
        kind = f"{type(session).__module__}.{type(session).__qualname__}"
        hint = "; use session_id_hook() for a client of httpx" if kind.startswith("httpx") else ""
        raise TypeError(f"expected a requests.Session, got {kind}{hint}")


def _wrapped(adapter: BaseAdapter, gateway: Gateway) -> BaseAdapter:
    inner: BaseAdapter | None = adapter
    if isinstance(adapter, SessionIdAdapter):
        if not isinstance(adapter, _Mounted) or adapter.gateway == gateway:
            return adapter
        inner = adapter.inner
    return _Mounted(gateway, inner=inner)
