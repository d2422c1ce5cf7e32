"""Which session is current: the context variable, its scopes, and ``in_session``."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import types
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextvars import ContextVar
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar, cast

from cagent_session.session_id import validate_session_id

if TYPE_CHECKING:
    import uuid

F = TypeVar("F", bound=Callable[..., Any])
SessionIdOf = Callable[..., "str | uuid.UUID | None"]


class _Entered:
    """A scope that was entered, linked to the one around it.

    The context variable holds the innermost one. A context copies the link, not the chain: tasks
    share what they inherit.
    """

    __slots__ = ("outer", "scope", "token")

    def __init__(self, scope: session_scope, outer: _Entered | None, token: Any = None) -> None:
        self.scope = scope
        self.outer = outer
        self.token = token


_current: ContextVar[_Entered | None] = ContextVar("cagent_session", default=None)


def _start_in_no_session() -> None:
    """Forget every scope of the parent process, in all contexts that were copied to this one."""
    global _current  # noqa: PLW0603 - contexts that were copied have the old one
    _current = ContextVar("cagent_session", default=None)


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no fork
    os.register_at_fork(after_in_child=_start_in_no_session)


def current_session_id() -> str | None:
    """Return the ID of the current session, or ``None``.

    It is the ID of the innermost :class:`session_scope` that is open in the current
    :class:`contextvars.Context`.

    >>> with session_scope("sess-1"):
    ...     current_session_id()
    'sess-1'
    """
    entered = _current.get()
    return entered.scope.session_id if entered else None


def open_scopes() -> list[session_scope]:
    """Return the scopes that are open in the current context, the innermost first."""
    found, entered = [], _current.get()
    while entered:
        found.append(entered.scope)
        entered = entered.outer
    return found


class session_scope:  # noqa: N801 - it reads as a verb, like contextlib.suppress
    """Context manager: the code inside belongs to this session.

    ``with`` returns the ID as a :class:`str`. Scopes nest. Leaving a scope makes the one around it
    current again. One scope object can be entered several times, also by several threads and tasks
    at once.

    Tasks and :func:`asyncio.to_thread` inherit the scope. Threads, pools and processes start in no
    session: use :func:`carry_session` or :class:`SessionExecutor` for them. (Some builds and
    settings of Python 3.14 and later let threads inherit the context. There a plain
    ``ThreadPoolExecutor`` keeps the session of its first job for all later ones.)

    Don't use a scope around a ``yield``: the generator's consumer would be in the session, too
    (:pep:`568` was never accepted). Decorate the generator with :func:`in_session` instead. If a
    scope is left in a context that does not have it, nothing changes there.

    :param session_id: 1 to 256 visible ASCII characters without spaces, or a :class:`uuid.UUID`.
        ``None`` means that the code inside belongs to no session.
    :raises InvalidSessionId: for any other value, before the scope is entered.

    >>> with session_scope("sess-1"):
    ...     current_session_id()
    'sess-1'
    """

    __slots__ = ("session_id",)

    def __init__(self, session_id: str | uuid.UUID | None) -> None:
        self.session_id = None if session_id is None else validate_session_id(session_id)

    def __enter__(self) -> str | Any:  # Any stands for None: only who passed None has to expect it
        entered = _Entered(self, _current.get())
        entered.token = _current.set(entered)
        return self.session_id

    def __exit__(self, *exc_info: object) -> None:
        entered, inner = _current.get(), list[_Entered]()
        while entered and entered.scope is not self:
            inner.append(entered)
            entered = entered.outer
        if not entered:
            return
        outer = entered.outer
        with contextlib.suppress(TypeError, ValueError, RuntimeError):
            # This fails unless the scope was entered here, in this context. If it succeeds, other
            # contexts have no use for what is around the scope: they can't leave it. If they kept
            # it, a task that starts its own successor would make the chain longer each time.
            _current.reset(entered.token)
            entered.outer = entered.token = None
        for scope in reversed(inner):  # others share these links, so they are made anew
            outer = _Entered(scope.scope, outer, scope.token)
        _current.set(outer)


def in_session(of: str | SessionIdOf) -> Callable[[F], F]:
    """Decorate a function so that each call of it runs in a session.

    It works for functions, generator functions, coroutine functions and asynchronous generator
    functions. Each stays what it is. A generator's session is chosen when it starts. The generator
    is in the session only while its body runs, and its consumer never is. The same holds for a
    coroutine and the code that drives it.

    Put it below decorators that hide which kind of function they decorate. Close a generator that
    you don't read to its end: if it is part of a reference cycle, the garbage collector may finish
    it in another session.

    :param of: where to find the session ID of a call: the name of a parameter (``"session_id"``), a
        dotted path that starts with one (``"sess.id"``), or a callable that takes the call's
        arguments and returns the ID. An ID of ``None`` means no session.
    :returns: a decorator that keeps the function's kind, name and signature.
    :raises TypeError: at decoration, for a name that is not a parameter's, for an object that is
        not a function, and for ``@in_session`` without parentheses.
    :raises InvalidSessionId: when the function is called; for a generator or a coroutine, when it
        starts. The same holds for the :class:`TypeError` for wrong arguments.

    >>> from types import SimpleNamespace
    >>> @in_session("sess.id")
    ... def run_loop(sess):
    ...     yield current_session_id()
    >>> list(run_loop(SimpleNamespace(id="sess-1")))
    ['sess-1']
    """
    if not isinstance(of, str):
        if not callable(of):
            kind = type(of).__name__
            raise TypeError(f"in_session() takes a name, a dotted path or a callable, got {kind}")
        _require_parentheses(of, sys._getframe(1))  # noqa: SLF001 - the frame that decorates

    def decorate(fn: F) -> F:
        if not callable(fn) or isinstance(fn, (type, staticmethod)):
            kind = type(fn).__name__
            raise TypeError(
                f"@in_session(...) decorates functions (below @staticmethod), not {kind}"
            )
        wrapper = scoped(fn, _argument(fn, of) if isinstance(of, str) else of)
        return cast("F", functools.wraps(fn)(wrapper))

    return decorate


def scoped(fn: Callable[..., Any], session_id_of: SessionIdOf) -> Callable[..., Any]:
    """Return a function of the same kind as *fn* that runs *fn* in the session of each call."""
    import inspect  # noqa: PLC0415 - loaded when needed: it would slow down the import

    function = fn
    while isinstance(function, functools.partial):
        function = function.func

    def is_kind(check: Callable[[object], bool]) -> bool:
        return check(function) or check(type(function).__call__)  # the latter: callable objects

    if is_kind(inspect.isasyncgenfunction):
        return _scoped_asyncgen(fn, session_id_of)

    if is_kind(inspect.isgeneratorfunction):
        return _in_steps(lambda *a, **kw: (_Scopes(session_id_of(*a, **kw)), fn(*a, **kw)))

    if is_kind(inspect.iscoroutinefunction):

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await fn(*args, **kwargs)

        run = types.coroutine(
            _in_steps(lambda *a, **kw: (_Scopes(session_id_of(*a, **kw)), call(*a, **kw)))
        )

        async def coroutine_wrapper(*args: Any, **kwargs: Any) -> Any:
            return await run(*args, **kwargs)

        return coroutine_wrapper

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with session_scope(session_id_of(*args, **kwargs)):
            return fn(*args, **kwargs)

    return wrapper


def _scoped_asyncgen(fn: Callable[..., Any], session_id_of: SessionIdOf) -> Callable[..., Any]:
    step_in = types.coroutine(_in_steps(lambda scopes, step: (scopes, step)))

    async def asyncgen_wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        scopes = _Scopes(session_id_of(*args, **kwargs))
        agen = fn(*args, **kwargs)
        step = _first_step(agen)
        while True:
            try:
                item = await step_in(scopes, step)
            except StopAsyncIteration:
                return
            finally:
                del step  # it would keep an exception alive
            try:
                step = agen.asend((yield item))
            except BaseException as error:  # noqa: BLE001 - the generator handles them all
                step = agen.athrow(error)

    return asyncgen_wrapper


class _Scopes:
    """The scopes of a generator or coroutine, set aside while it does not run."""

    def __init__(self, session_id: str | uuid.UUID | None) -> None:
        self._variable = _current
        self._entered: _Entered | None = _Entered(session_scope(session_id), None)

    def run(self, resume: Callable[[Any], Any], argument: Any) -> Any:
        """Return ``resume(argument)``, one step, and leave the caller in its own session."""
        if self._variable is not _current:  # this process was forked
            self._variable, self._entered = _current, None
        variable, before = self._variable, _current.get()
        try:
            variable.set(self._entered)
            return resume(argument)
        finally:  # at once: a signal handler may raise an exception after any line
            self._entered = variable.set(before).old_value
            del resume, argument  # an exception would keep itself alive, by its traceback


def _in_steps(start: Callable[..., Any]) -> Callable[..., Generator[Any, Any, Any]]:
    """Return a generator function that runs what *start* returns, each step of it in its scopes.

    Engines such as Ray pickle it by value. So it must not name the context variable, which can't
    be pickled.

    :param start: returns a :class:`_Scopes`, and a generator, a coroutine or a step of an
        asynchronous generator.
    """

    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        scopes, generator = start(*args, **kwargs)
        del args, kwargs
        resume, argument = generator.send, None
        try:
            while True:
                try:
                    item = scopes.run(resume, argument)
                finally:
                    del argument
                try:
                    resume, argument = generator.send, (yield item)
                except BaseException as error:  # noqa: BLE001 - the generator handles close(), too
                    resume, argument = generator.throw, error
        except StopIteration as stop:
            return stop.value
        finally:
            del resume, generator

    return wrapper


def _first_step(agen: AsyncGenerator[Any, Any]) -> Awaitable[Any]:
    """Start *agen*, and hide it from the event loop, which would close it outside its session.

    The event loop knows the wrapper, which closes *agen*.
    """
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(firstiter=None, finalizer=lambda _: None)
    try:
        return agen.asend(None)
    finally:
        sys.set_asyncgen_hooks(*hooks)


def _require_parentheses(of: Callable[..., Any], frame: types.FrameType) -> None:
    """Raise TypeError if *frame* is just decorating the function *of*: ``@in_session`` alone.

    Such a function is defined in the code of *frame*, which has no name for it yet.
    """
    import inspect  # noqa: PLC0415

    code = getattr(inspect.unwrap(of), "__code__", None)
    if code is None or code not in frame.f_code.co_consts or code.co_name == "<lambda>":
        return
    named: Any = frame.f_locals.get(code.co_name)
    if any(value is of for value in (*frame.f_locals.values(), *frame.f_globals.values())):
        return
    if getattr(inspect.unwrap(named), "__code__", None) is not code:
        raise TypeError('not @in_session alone: write @in_session("name_of_a_parameter")')


def _argument(fn: Callable[..., Any], path: str) -> SessionIdOf:
    """Return a function that finds what *path* names among the arguments of a call of *fn*."""
    import inspect  # noqa: PLC0415

    lazily: dict[str, Any] = {}
    if sys.version_info >= (3, 14):  # annotations that can't be evaluated yet must do no harm
        lazily["annotation_format"] = import_module("annotationlib").Format.FORWARDREF
    try:
        signature = inspect.signature(fn, **lazily)
    except ValueError as error:
        raise TypeError(f"in_session({path!r}): {error}; give a callable instead") from error
    collected = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    names = [p.name for p in signature.parameters.values() if p.kind not in collected]
    name, *attributes = path.split(".")
    if name not in names or not all(map(str.isidentifier, attributes)):
        known = ", ".join(names) or "none"
        raise TypeError(f"in_session({path!r}): {fn!r} has no such parameter; it has {known}")

    def find(*args: Any, **kwargs: Any) -> Any:
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        return functools.reduce(getattr, attributes, call.arguments[name])

    return find
