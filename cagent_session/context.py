"""Whose session is it? The context variable, its scopes, and how they follow the work."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import sys
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar, cast

from cagent_session.session_id import validate_session_id

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])
SessionIdOf = Callable[..., "str | uuid.UUID | None"]

# The innermost open scope, linked to the one around it. Linked scopes, not one value and reset tokens: a scope takes
# itself out wherever it stands, so leaving scopes in any order, or in another context, brings no closed one back.
Scopes = tuple["session_scope", "Scopes | None"]
_scopes: ContextVar[Scopes | None] = ContextVar("cagent_session", default=None)

if hasattr(os, "register_at_fork"):  # pragma: no branch  (Windows has no fork)
    # A process starts in no session, however it was started: a forked pool worker would keep its maker's for life.
    os.register_at_fork(after_in_child=lambda: _scopes.set(None))


def current_session_id() -> str | None:
    """Return the ID of the session that is in scope, or ``None``.

    It is that of the innermost :class:`session_scope` still open in the current :class:`contextvars.Context`.
    """
    scopes = _scopes.get()
    return scopes[0].session_id if scopes else None


def open_scopes() -> list[session_scope]:
    """Return the scopes that are open in the current :class:`contextvars.Context`, the innermost first."""
    found, scopes = [], _scopes.get()
    while scopes:
        found.append(scopes[0])
        scopes = scopes[1]
    return found


class session_scope:  # noqa: N801 - reads as a verb where it is used, like contextlib.suppress
    """Context manager: everything inside belongs to this session.

    ``with`` yields the ID as a :class:`str`. Scopes nest, and leaving one brings back the one around it. A scope holds
    no state of its own: it may be entered again, also from several threads and tasks at once.

    Tasks and :func:`asyncio.to_thread` inherit the scope; threads, pools and processes start in none, and
    :func:`carry_session` takes it there. Around a ``yield`` it would leak to the generator's consumer (:pep:`568` was
    never accepted): decorate the generator with :func:`in_session` instead. Left in another context than it was
    entered in, as when a task closes another's asynchronous generator, it changes nothing there.

    :param session_id: 1 to 256 visible ASCII characters, or a :class:`uuid.UUID`; ``None`` for "to no session".
    :raises InvalidSessionId: for any other value, before the scope is entered.

    >>> with session_scope("sess-1"):
    ...     current_session_id()
    'sess-1'
    """

    __slots__ = ("session_id",)

    session_id: str | None

    def __init__(self, session_id: str | uuid.UUID | None) -> None:
        self.session_id = None if session_id is None else validate_session_id(session_id)

    def __enter__(self) -> str | Any:  # Any for None, which only who gave None has to expect
        _scopes.set((self, _scopes.get()))
        return self.session_id

    def __exit__(self, *exc_info: object) -> None:
        scopes, inner = _scopes.get(), []
        while scopes and scopes[0] is not self:
            inner.append(scopes[0])
            scopes = scopes[1]
        if scopes:
            _scopes.set(functools.reduce(lambda outer, scope: (scope, outer), reversed(inner), scopes[1]))


def in_session(of: str | SessionIdOf) -> Callable[[F], F]:
    """Decorate a function so that each call of it runs in its own session.

    Functions, generator functions, coroutine functions and asynchronous generator functions stay what they are. A
    generator's session is fixed when it starts; each ``next``, ``send``, ``throw`` and ``close`` runs in the scope,
    and nothing in between does. Close a generator that you abandon: in a reference cycle, the garbage collector may
    end its body in whatever session it runs in. Put it below decorators that hide what kind of function they decorate.

    :param of: where a call's session ID is found: the name of a parameter (``"session_id"``), a dotted path that
        starts at one (``"sess.id"``), or a callable that is given the call's arguments and returns the ID. ``None``
        as the ID means no session.
    :returns: a decorator that keeps the function's kind, name and signature.
    :raises TypeError: at decoration, for a name that is not a parameter's, or for something that is no function.
    :raises InvalidSessionId: from the call; a generator's or a coroutine's is raised, like the :class:`TypeError` for
        arguments that do not fit, where it starts.

    >>> from types import SimpleNamespace
    >>> @in_session("sess.id")
    ... def run_loop(sess):
    ...     yield current_session_id()
    >>> list(run_loop(SimpleNamespace(id="sess-1")))
    ['sess-1']
    """
    if not isinstance(of, str) and not callable(of):
        raise TypeError(f"in_session() takes a parameter's name, a dotted path or a callable, got {type(of).__name__}")

    def decorate(fn: F) -> F:
        if not callable(fn) or isinstance(fn, (type, staticmethod)):
            raise TypeError(f"@in_session decorates functions (put it below @staticmethod), got {type(fn).__name__}")
        wrapper = _scoped(fn, _argument(fn, of) if isinstance(of, str) else of)
        return cast("F", functools.wraps(fn)(wrapper))

    return decorate


def carry_session(fn: Callable[P, R]) -> Callable[P, R]:
    """Return a callable that runs *fn* in the session that is current now, or in none if none is.

    For threads, timers, callbacks, processes and cluster jobs: the result pickles wherever *fn* does. Coroutine
    functions and generator functions are carried as :func:`in_session` decorates them; to
    :func:`inspect.iscoroutinefunction` a carried coroutine function is one from Python 3.12 on.

    :param fn: any callable.
    :returns: a callable with the same parameters, result and name.
    :raises TypeError: if *fn* can't be called.

    >>> with session_scope("sess-1"):
    ...     later = carry_session(current_session_id)
    >>> later()
    'sess-1'
    """
    if not callable(fn):
        raise TypeError(f"carry_session() takes a callable, got {type(fn).__name__}")
    return _carried(fn, current_session_id())


class SessionExecutor(Executor):
    """An executor around any other one; each job runs in the session of whoever submitted it.

    Without it a pool's threads and processes know no session. ``map`` is the inner executor's, chunks and all;
    ``shutdown``, and so the end of a ``with`` statement, shuts the inner executor down.

    :param executor: any :class:`concurrent.futures.Executor`.
    :raises TypeError: if it is none.

    >>> from concurrent.futures import ThreadPoolExecutor
    >>> with SessionExecutor(ThreadPoolExecutor()) as pool, session_scope("sess-1"):
    ...     pool.submit(current_session_id).result()
    'sess-1'
    """

    def __init__(self, executor: Executor) -> None:
        if not isinstance(executor, Executor):
            raise TypeError(f"SessionExecutor() takes a concurrent.futures.Executor, got {type(executor).__name__}")
        self._executor = executor

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Submit *fn* to the inner executor, carrying the current session; return its future."""
        return self._executor.submit(carry_session(fn), *args, **kwargs)

    def map(self, fn: Callable[..., R], *iterables: Iterable[Any], **kwargs: Any) -> Iterator[R]:
        """Map *fn* with the inner executor's ``map``, its keywords included, carrying the current session."""
        return self._executor.map(carry_session(fn), *iterables, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut the inner executor down."""
        options = {"cancel_futures": True} if cancel_futures else {}  # not every executor has the option
        self._executor.shutdown(wait, **options)


class _Carried:
    """What :func:`carry_session` returns: a class, so that it pickles."""

    def __init__(self, fn: Callable[..., Any], session_id: str | None, run: Callable[..., Any]) -> None:
        functools.update_wrapper(self, fn)
        self._fn = fn
        self._session_id = session_id
        self._run = run

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._run(*args, **kwargs)

    def __reduce__(self) -> tuple[Callable[..., _Carried], tuple[Callable[..., Any], str | None]]:
        return _carried, (self._fn, self._session_id)

    def __repr__(self) -> str:
        return f"carry_session({self._fn!r})"


class _CarriedCoroutineFunction(_Carried):
    """A carried coroutine function: frameworks run a callable on the event loop if its ``__call__`` is one."""

    async def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return await self._run(*args, **kwargs)


def _carried(fn: Callable[..., Any], session_id: str | None) -> _Carried:
    run = _scoped(fn, lambda *_args, **_kwargs: session_id)
    if not inspect.iscoroutinefunction(run):
        return _Carried(fn, session_id, run)
    mark: Callable[[_Carried], _Carried] = getattr(inspect, "markcoroutinefunction", lambda carried: carried)
    return mark(_CarriedCoroutineFunction(fn, session_id, run))  # new in Python 3.12


def _argument(fn: Callable[..., Any], path: str) -> SessionIdOf:
    """Return what finds the argument or the attribute of one that *path* names, in a call of *fn*."""
    try:
        signature = inspect.signature(fn)
    except ValueError as error:
        raise TypeError(f"in_session({path!r}): {error}; give a callable that finds the session ID") from error
    names = [p.name for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    name, *attributes = path.split(".")
    if name not in names or not all(map(str.isidentifier, attributes)):
        raise TypeError(f"in_session({path!r}): {fn!r} has no such parameter; it has {', '.join(names) or 'none'}")

    def find(*args: Any, **kwargs: Any) -> Any:
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        return functools.reduce(getattr, attributes, call.arguments[name])

    return find


class OwnScopes:
    """Scopes of one's own: in place while it is entered, and kept aside while it is not.

    A generator's are in place while a step of it runs, and aside while its consumer does. None is left to whoever runs
    next, not even one that was entered and never left. They may be entered again, but not while they are.

    :param session_id: as :class:`session_scope` takes it, of the outermost scope.
    :raises InvalidSessionId: as that does.
    """

    def __init__(self, session_id: str | uuid.UUID | None) -> None:
        self._scopes: Scopes | None = (session_scope(session_id), None)

    def __enter__(self) -> None:
        self._token = _scopes.set(self._scopes)

    def __exit__(self, *exc_info: object) -> None:
        self._scopes = _scopes.get()
        with contextlib.suppress(ValueError):  # closed in another context, in which there is nothing to put back
            _scopes.reset(self._token)
        del self._token  # it would keep the context of the last step alive
        if self._scopes is None:  # the step has forked, and this is the child
            _scopes.set(None)


def _first_step(agen: AsyncGenerator[Any, Any]) -> Awaitable[Any]:
    """Start *agen* unknown to the event loop, which would close it outside its session: its wrapper is to do that."""
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(firstiter=None, finalizer=lambda _: None)
    try:
        return agen.asend(None)
    finally:
        sys.set_asyncgen_hooks(*hooks)


def _scoped(fn: Callable[..., Any], session_id_of: SessionIdOf) -> Callable[..., Any]:  # noqa: C901 - four kinds
    """Return a function of *fn*'s kind whose body runs in the session that *session_id_of* finds in its arguments."""
    function = fn
    while isinstance(function, functools.partial):
        function = function.func

    def is_kind(check: Callable[[object], bool]) -> bool:
        return check(function) or check(type(function).__call__)  # the latter for callable objects

    if is_kind(inspect.isasyncgenfunction):

        async def asyncgen_wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
            steps = OwnScopes(session_id_of(*args, **kwargs))
            agen = fn(*args, **kwargs)
            step = _first_step(agen)
            while True:
                with steps:
                    try:
                        item = await step
                    except StopAsyncIteration:
                        return
                    finally:
                        del step
                try:
                    step = agen.asend((yield item))
                except BaseException as error:  # noqa: BLE001 - as in generator_wrapper
                    step = agen.athrow(error)

        return asyncgen_wrapper

    if is_kind(inspect.isgeneratorfunction):

        def generator_wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            steps = OwnScopes(session_id_of(*args, **kwargs))
            gen = fn(*args, **kwargs)
            resume, argument = gen.send, None
            while True:
                with steps:
                    try:
                        item = resume(argument)
                    except StopIteration as stop:
                        return stop.value
                    finally:
                        del argument  # an exception kept here would keep itself alive, through its traceback
                try:
                    resume, argument = gen.send, (yield item)
                except BaseException as error:  # noqa: BLE001 - close() too is the generator's own affair
                    resume, argument = gen.throw, error

        return generator_wrapper

    if is_kind(inspect.iscoroutinefunction):

        async def coroutine_wrapper(*args: Any, **kwargs: Any) -> Any:
            with session_scope(session_id_of(*args, **kwargs)):
                return await fn(*args, **kwargs)

        return coroutine_wrapper

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with session_scope(session_id_of(*args, **kwargs)):
            return fn(*args, **kwargs)

    return wrapper
