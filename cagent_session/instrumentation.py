"""``instrument`` and ``uninstrument``: every HTTP client of this process, by one line."""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from cagent_session.gateway import Gateway
from cagent_session.importing import ImportHook
from cagent_session.reporting import Missing
from cagent_session.transports.botocore import stamp_request
from cagent_session.transports.httpx import EXTENSION, SessionIdHook

Wrap = Callable[[Any], Any]

_lock = threading.RLock()  # the handler of a signal may make a call, too
_gateway: Gateway | None = None  # not None while instrument() is in force
_patches: list[tuple[type, str, Any, Any]] = []  # a class, a name, the object there, and ours
_added: weakref.WeakSet[Added] = weakref.WeakSet()  # the hooks and configs of ours
_adapters: weakref.WeakSet[Any] = weakref.WeakSet()  # those that have a wrapper of ours

_WRAPPER = "_cagent_session"  # the attribute of an adapter that has its wrapper


def _unlock() -> None:
    """Make a new lock: in the process that was forked, another thread's lock stays locked."""
    global _lock  # noqa: PLW0603 - see above
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no fork
    os.register_at_fork(after_in_child=_unlock)


def instrument(
    gateway: Gateway | str | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    missing: Missing | None = None,
) -> None:
    """Add the current session ID to the calls of every HTTP client of this process.

    It covers requests, httpx, httpx2, aiohttp and botocore, with all SDKs that use them: clients
    that exist, clients that are made later, and functions such as ``requests.post()``. None of
    these libraries is imported. A client that you have prepared yourself, by
    :func:`~cagent_session.mount`, a hook, a trace config or
    :func:`~cagent_session.stamp_botocore`, keeps its own settings.

    It also covers the threads in which the agents and teams of agno make memories: they work in
    the session of the run.

    Only requests to the gateway get headers. Others lose those that are meant for the gateway: the
    ``X-Cagent-*`` headers, and the headers that its :class:`~cagent_session.Gateway` names. The
    rule is that of :class:`~cagent_session.SessionIdAdapter`. If the function is called again, the
    new settings replace the old ones. Call it before the program starts threads: a library that
    another thread is just importing may be missed.

    :param gateway: the models gateway: its URL or a :class:`~cagent_session.Gateway`. If it is
        ``None``, the URL comes from the environment: see
        :meth:`~cagent_session.Gateway.from_environment`.
    :param headers: the headers of a :class:`~cagent_session.Route`, or of
        :func:`~cagent_session.gateway_headers`, for requests to the gateway that have no marker.
    :param missing: see :class:`~cagent_session.Gateway`. It replaces the gateway's own value.
    :raises ValueError: if there is no URL of a gateway, for any other value of *missing*, if a
        header is neither ``X-Cagent-*`` nor the marker or can't be sent unchanged, if none of them
        is the marker, and if *headers* are given for a gateway that has no marker.
    :raises InvalidGatewayURL: if the gateway's URL is invalid. Any error leaves everything as it
        was.

    >>> instrument("https://gateway.example")
    >>> uninstrument()
    """
    global _gateway  # noqa: PLW0603 - it is for the whole process
    known = Gateway.from_environment() if gateway is None else gateway
    wanted = Gateway.of(known, missing).with_marking(headers)
    if not wanted.urls:
        raise ValueError(
            "instrument() needs the gateway's URL: give it, or set the environment variable "
            "DOCKER_AGENT_MODELS_GATEWAY. To decide by the marker alone, use mount() or a hook."
        )
    with _lock:
        _gateway = wanted
        _import_hook.start()
    for name in _LIBRARIES:
        if sys.modules.get(name) is not None:
            _patch(name, import_module(name))  # waits if another thread imports it now


def uninstrument() -> None:
    """Undo :func:`instrument`: put back the very objects that were there. Else do nothing.

    A call that has already begun may still get its session ID.
    """
    global _gateway  # noqa: PLW0603 - see instrument()
    with _lock:
        _gateway = None
        _import_hook.stop()
        while _patches:
            owner, name, original, ours = _patches.pop()
            # If another library has put its own function there since, that calls ours. Ours then
            # stays, and only passes the calls on.
            if vars(owner)[name] is ours:
                setattr(owner, name, original)
        for ours_of_client in list(_added):
            ours_of_client.remove()
        for adapter in list(_adapters):
            vars(adapter).pop(_WRAPPER, None)
        _adapters.clear()


def instrumented_gateway() -> Gateway | None:
    """Return the gateway of :func:`instrument`, or ``None`` while it is not in force."""
    return _gateway


def _patch(library: str, module: ModuleType) -> None:
    """Patch the clients of *module*, which is this library, unless that is done."""
    client, patches_of = _LIBRARIES[library]
    if not hasattr(module, client):
        return  # a module of the program's own has the same name
    patches = list(patches_of(module))  # imports modules, so without the lock
    with _lock:
        for cls, name, wrap in patches if _gateway else ():
            # Others may have put a subclass or a mock there.
            classes = getattr(cls, "__mro__", ())
            owner = next((each for each in classes if name in vars(each)), None)
            if owner is None:
                continue
            present = vars(owner)[name]
            if all(present is not ours for _, _, _, ours in _patches):
                ours = functools.wraps(present)(wrap(present))
                setattr(owner, name, ours)
                _patches.append((owner, name, present, ours))


@functools.cache
def _adapter_classes() -> tuple[type, type[Any]]:
    """Return ``SessionIdAdapter``, and its subclass that wraps adapters for :func:`instrument`."""
    # Imported late: that module may just be importing requests.
    from cagent_session.transports.requests import SessionIdAdapter  # noqa: PLC0415

    class Wrapper(SessionIdAdapter):
        # After uninstrument() it is None. A wrapper that somebody has kept then passes requests on.
        gateway = property(lambda _: _gateway)

        def __init__(self, inner: Any) -> None:  # the base class would make a connection pool
            vars(self)["inner"] = inner

        def __reduce__(self) -> tuple[Any, ...]:
            return copy.copy, (self.inner,)

    return SessionIdAdapter, Wrapper


def _requests(module: Any) -> Iterator[tuple[type, str, Wrap]]:
    def wrap(get_adapter: Callable[..., Any]) -> Callable[..., Any]:
        def instrumented(session: Any, url: str) -> Any:
            adapter, (ours, wrapper_class) = get_adapter(session, url), _adapter_classes()
            if _gateway is None or isinstance(adapter, ours):
                return adapter
            wrapper: Any = getattr(adapter, _WRAPPER, None)
            if type(wrapper) is wrapper_class and wrapper.inner is adapter:  # it is no copy's
                return wrapper
            wrapper = wrapper_class(adapter)
            # uninstrument() may just be reading the set. Some adapters can't be hashed.
            with contextlib.suppress(TypeError), _lock:
                _adapters.add(adapter)
                vars(adapter)[_WRAPPER] = wrapper
            return wrapper

        return instrumented

    yield module.Session, "get_adapter", wrap


def _httpx(module: Any) -> Iterator[tuple[type, str, Wrap]]:
    hooks = _Hooks(lambda client: client.event_hooks["request"], SessionIdHook, _Hook)

    @contextlib.contextmanager
    def sending(client: Any) -> Iterator[None]:
        with _lock:
            hook = hooks.prepare(client)
            if hook is not None:
                hook.calls += 1
        if hook is None:
            yield
            return
        try:
            yield
        finally:
            with _lock:
                hook.calls -= 1
                if _gateway is None:
                    hook.remove()

    def wrap(send: Callable[..., Any]) -> Callable[..., Any]:
        def instrumented(client: Any, *args: Any, **kwargs: Any) -> Any:
            with sending(client):
                return send(client, *args, **kwargs)

        return instrumented

    def wrap_async(send: Callable[..., Any]) -> Callable[..., Any]:
        async def instrumented(client: Any, *args: Any, **kwargs: Any) -> Any:
            with sending(client):
                return await send(client, *args, **kwargs)

        return instrumented

    yield module.Client, "send", wrap
    yield module.AsyncClient, "send", wrap_async


def _aiohttp(module: Any) -> Iterator[tuple[type, str, Wrap]]:
    from cagent_session.transports.trace_config import SessionIdTraceConfig  # noqa: PLC0415

    class Config(Added, SessionIdTraceConfig):
        def __init__(self, gateway: Gateway) -> None:
            super().__init__(gateway)
            self.freeze()

    configs = _Hooks(lambda client: client.trace_configs, SessionIdTraceConfig, Config)

    def wrap_request(request: Callable[..., Any]) -> Callable[..., Any]:
        async def instrumented(client: Any, *args: Any, **kwargs: Any) -> Any:
            configs.prepare(client)
            return await request(client, *args, **kwargs)

        return instrumented

    def wrap_init(init: Callable[..., None]) -> Callable[..., None]:
        def instrumented(client: Any, *args: Any, **kwargs: Any) -> None:
            init(client, *args, **kwargs)
            configs.prepare(client)

        return instrumented

    # Existing clients can be reached only here. It is private, but all public methods use it.
    yield module.ClientSession, "_request", wrap_request
    yield module.ClientSession, "__init__", wrap_init  # vcrpy replaces _request


def _botocore(module: Any) -> Iterator[tuple[type, str, Wrap]]:
    def wrap(send: Callable[..., Any]) -> Callable[..., Any]:
        def instrumented(client: Any, request: Any) -> Any:
            if (gateway := _gateway) is not None:
                stamp_request(request, gateway)
            return send(client, request)

        return instrumented

    yield module.URLLib3Session, "send", wrap


class _Property(property):
    """A property to which :func:`functools.wraps` can add attributes."""


def _agno(cls: type) -> Iterator[tuple[type, str, Wrap]]:
    from cagent_session.carrying import SessionExecutor  # noqa: PLC0415

    def wrap(background_executor: Any) -> _Property:
        def instrumented(owner: Any) -> Any:
            executor = background_executor.__get__(owner)
            return executor if _gateway is None else SessionExecutor(executor)

        return _Property(instrumented)

    yield cls, "background_executor", wrap  # its jobs make the memories of a synchronous run


# The modules, the name of a class that they have, and the functions above.
_LIBRARIES: dict[str, tuple[str, Callable[[Any], Iterator[tuple[type, str, Wrap]]]]] = {
    "requests": ("Session", _requests),
    "httpx": ("AsyncClient", _httpx),
    "httpx2": ("AsyncClient", _httpx),
    "aiohttp": ("ClientSession", _aiohttp),
    "botocore.httpsession": ("URLLib3Session", _botocore),
    "agno.agent": ("Agent", lambda module: _agno(module.Agent)),
    "agno.team": ("Team", lambda module: _agno(module.Team)),
}


class Added:
    """A base class of the hooks and trace configs that :func:`instrument` adds to clients."""

    gateway: Gateway
    hooks: list[Any]  # the list that it was added to
    calls = 0  # how many calls of httpx clients use it now

    def remove(self) -> None:
        """Remove it from the client, unless a call has begun: a redirect still needs it."""
        if not self.calls:
            self.hooks[:] = [hook for hook in self.hooks if hook is not self]
            _added.discard(self)


class _Hook(Added, SessionIdHook):
    def __call__(self, request: Any) -> SessionIdHook:
        # After uninstrument() it serves only the redirects of calls that had begun before.
        is_over = _gateway is None and EXTENSION not in request.extensions
        return self if is_over else super().__call__(request)


class _Hooks:
    """The hooks of httpx clients, or the trace configs of aiohttp clients.

    :param of: returns the list of a client's hooks. It is changed in place.
    :param kind: the class of hooks that users add themselves.
    :param ours: the class of hooks to add. Its instances are made with a gateway.
    """

    def __init__(
        self, of: Callable[[Any], list[Any]], kind: type, ours: Callable[[Gateway], Any]
    ) -> None:
        self._of, self._kind, self._ours = of, kind, ours

    def prepare(self, client: Any) -> Added | None:
        """Return our hook, the last one of *client*, or ``None`` if the user has added one."""
        with _lock:  # if two threads added a hook each, the first one's call would lose its own
            hooks, gateway = self._of(client), _gateway  # the client may call uninstrument()
            if gateway is None or not isinstance(hooks, list):
                return None
            last = hooks[-1] if hooks else None
            if isinstance(last, Added) and last.gateway is gateway:
                return last
            wanted = [hook for hook in hooks if not isinstance(hook, Added)]
            if any(isinstance(hook, self._kind) for hook in wanted):
                if len(wanted) < len(hooks):
                    hooks[:] = wanted
                return None
            ours: Added = self._ours(gateway)
            ours.hooks = hooks
            hooks[:] = [*wanted, ours]
            _added.add(ours)
        return ours


_import_hook = ImportHook(_LIBRARIES, lambda module: _patch(module.__name__, module))
