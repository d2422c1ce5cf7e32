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
GeneratorFunction = Callable[..., Generator[Any, Any, Any]]
SessionIdOf = Callable[..., "str | uuid.UUID | None"]


class _OpenScope:
    """A scope that was entered and not yet left, with a link to the scope around it.

    The context variable holds the innermost one. A copied context has a link to the same object,
    so tasks share the scopes that they inherit.
    """

    __slots__ = ("outer", "scope", "token")

    def __init__(self, scope: session_scope, outer: _OpenScope | None, token: Any = None) -> None:
        self.scope = scope
        self.outer = outer
        self.token = token


_whole_program: _OpenScope | None = None  # see run_program_in()
_current: ContextVar[_OpenScope | None] = ContextVar("cagent_session", default=None)


def _leave_all_scopes() -> None:
    """Leave the scopes of every context of this process. A fork has copied some to it."""
    global _current  # noqa: PLW0603 - the contexts have values for the old variable only
    _current = ContextVar("cagent_session", default=_whole_program)


def run_program_in(session_id: str) -> None:
    """Start every context of this process and of its forks in a session, those of threads too.

    Call this before the program enters a scope.

    :raises InvalidSessionId: if the ID is invalid.
    """
    global _whole_program  # noqa: PLW0603 - there is one program
    _whole_program = _OpenScope(session_scope(session_id), None)
    _leave_all_scopes()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no fork
    os.register_at_fork(after_in_child=_leave_all_scopes)


def current_session_id() -> str | None:
    """Return the ID of the current session, or ``None``.

    It is the ID of the innermost :class:`session_scope` that is open in the current
    :class:`contextvars.Context`.

    >>> with session_scope("sess-1"):
    ...     current_session_id()
    'sess-1'
    """
    innermost = _current.get()
    return innermost.scope.session_id if innermost else None


def open_scopes() -> list[session_scope]:
    """Return the scopes that are open in the current context, the innermost first."""
    scopes, opened = [], _current.get()
    while opened:
        scopes.append(opened.scope)
        opened = opened.outer
    return scopes


class session_scope:  # noqa: N801 - it reads as a verb, like contextlib.suppress
    """Context manager that runs a block of code in a session.

    ``with`` gives the ID as a :class:`str`. Scopes can be nested: when a scope is left, the scope
    around it is current again. The same scope object can be entered several times, also by several
    threads and tasks at the same time.

    Tasks and :func:`asyncio.to_thread` inherit the scope. Threads, pools and processes start in no
    session: use :func:`carry_session` or :class:`SessionExecutor` for them. (With some builds and
    settings of Python 3.14 and later, threads inherit the context. A plain ``ThreadPoolExecutor``
    then runs all its jobs in the session of the first one.)

    Don't put a scope around a ``yield``. The generator's consumer would be in the session, too,
    because generators share their consumer's context (:pep:`568` was not accepted). Decorate the
    generator with :func:`in_session` instead. If a scope is left in a context in which it is not
    open, nothing changes there.

    :param session_id: 1 to 256 visible ASCII characters without spaces, or a :class:`uuid.UUID`.
        ``None`` means that the block runs in no session.
    :raises InvalidSessionId: for any other value, before the scope is entered.

    >>> with session_scope("sess-1"):
    ...     current_session_id()
    'sess-1'
    """

    __slots__ = ("session_id",)

    def __init__(self, session_id: str | uuid.UUID | None) -> None:
        self.session_id = None if session_id is None else validate_session_id(session_id)

    def __enter__(self) -> str | Any:  # Any stands for None: it is None only for None
        opened = _OpenScope(self, _current.get())
        opened.token = _current.set(opened)
        return self.session_id

    def __exit__(self, *exc_info: object) -> None:
        opened, inner = _current.get(), list[_OpenScope]()
        while opened and opened.scope is not self:
            inner.append(opened)
            opened = opened.outer
        if not opened:
            return
        outer = opened.outer
        with contextlib.suppress(TypeError, ValueError, RuntimeError):
            # reset() fails if the scope was entered in another context. If it succeeds, cut the
            # link to the outer scopes: the contexts that were copied inside this scope don't need
            # them. Without this, work that starts its own successor would keep ever more scopes.
            _current.reset(opened.token)
            opened.outer = opened.token = None
        for each in reversed(inner):  # other contexts share these objects, so make new ones
            outer = _OpenScope(each.scope, outer, each.token)
        _current.set(outer)


def in_session(of: str | SessionIdOf) -> Callable[[F], F]:
    """Decorate a function so that each call of it runs in a session.

    It works for functions, generator functions, coroutine functions and asynchronous generator
    functions. The decorated function is of the same kind. The session ID of a generator or a
    coroutine is read when it starts. Only its body runs in the session. The code that consumes a
    generator, or that drives a coroutine, stays in its own session.

    Some decorators hide which kind of function they decorate. Put ``@in_session`` below those. If
    you don't read a generator to its end, close it: in a reference cycle, the garbage collector may
    finish it in another session.

    :param of: where to find the session ID of a call: the name of a parameter (``"session_id"``), a
        dotted path that starts with one (``"sess.id"``), or a callable that takes the call's
        arguments and returns the ID. An ID of ``None`` means no session.
    :returns: a decorator that keeps the function's kind, name and signature.
    :raises TypeError: at decoration: if there is no such parameter, if the decorated object is not
        a function, or if ``@in_session`` has no parentheses.
    :raises InvalidSessionId: if the ID is invalid: when the function is called, or when the
        generator or coroutine starts. Wrong arguments raise :class:`TypeError` at that time, too.

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
        _require_parentheses(of, sys._getframe(1))  # noqa: SLF001 - the code that decorates

    def decorate(fn: F) -> F:
        if not callable(fn) or isinstance(fn, (type, staticmethod)):
            kind = type(fn).__name__
            raise TypeError(
                f"@in_session(...) decorates functions, got {kind}; put it below @staticmethod"
            )
        wrapper = scoped(fn, _argument_finder(fn, of) if isinstance(of, str) else of)
        return cast("F", functools.wraps(fn)(wrapper))

    return decorate


def scoped(fn: Callable[..., Any], session_id_of: SessionIdOf) -> Callable[..., Any]:
    """Return a function of *fn*'s kind. Each call of it runs *fn* in the call's session.

    :param session_id_of: takes the arguments of a call, and returns its session ID or ``None``.
    """
    import inspect  # noqa: PLC0415 - imported late, to keep the import fast

    function = fn
    while isinstance(function, functools.partial):
        function = function.func

    def is_kind(check: Callable[[object], bool]) -> bool:
        return check(function) or check(type(function).__call__)  # it may be a callable object

    def new_scopes(*args: Any, **kwargs: Any) -> _PausedScopes:
        return _PausedScopes(session_id_of(*args, **kwargs))

    if is_kind(inspect.isasyncgenfunction):
        return _scoped_asyncgen(fn, new_scopes)

    if is_kind(inspect.isgeneratorfunction):
        return _in_scopes(new_scopes, fn)

    if is_kind(inspect.iscoroutinefunction):

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await fn(*args, **kwargs)

        run = types.coroutine(_in_scopes(new_scopes, call))

        async def coroutine_wrapper(*args: Any, **kwargs: Any) -> Any:
            return await run(*args, **kwargs)

        return coroutine_wrapper

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with session_scope(session_id_of(*args, **kwargs)):
            return fn(*args, **kwargs)

    return wrapper


def _scoped_asyncgen(fn: Callable[..., Any], new_scopes: Callable[..., Any]) -> Callable[..., Any]:
    run_step = types.coroutine(_in_scopes(lambda scopes, _: scopes, lambda _, step: step))

    async def asyncgen_wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        scopes = new_scopes(*args, **kwargs)
        agen = fn(*args, **kwargs)
        step = _first_step(agen)
        while True:
            try:
                item = await run_step(scopes, step)
            except StopAsyncIteration:
                return
            finally:
                del step  # its reference would keep an exception alive
            try:
                step = agen.asend((yield item))
            except BaseException as error:  # noqa: BLE001 - the generator handles it
                step = agen.athrow(error)

    return asyncgen_wrapper


class _PausedScopes:
    """The open scopes of a generator or coroutine. They are kept here while it is suspended."""

    def __init__(self, session_id: str | uuid.UUID | None) -> None:
        self._variable = _current
        self._innermost: _OpenScope | None = _OpenScope(session_scope(session_id), None)

    def run(self, resume: Callable[[Any], Any], argument: Any) -> Any:
        """Return ``resume(argument)``, which runs one step in the scopes. The caller's stay."""
        if self._variable is not _current:  # this process was forked
            self._variable, self._innermost = _current, _whole_program
        variable, before = self._variable, _current.get()
        try:
            variable.set(self._innermost)
            return resume(argument)
        finally:  # in one line: a signal handler may raise an exception between two lines
            self._innermost = variable.set(before).old_value
            del resume, argument  # in a traceback, they would keep a thrown exception alive


def _in_scopes(scopes_of: Callable[..., Any], fn: Callable[..., Any]) -> GeneratorFunction:
    """Return a generator function that runs each step of what *fn* returns in its own scopes.

    Engines such as Ray pickle the result by value. So its code must not refer to the context
    variable, which can't be pickled.

    :param scopes_of: returns the scopes for the arguments of a call.
    :param fn: returns a generator, a coroutine or a step of an asynchronous generator.
    """

    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        scopes, generator = scopes_of(*args, **kwargs), fn(*args, **kwargs)
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
                except BaseException as error:  # noqa: BLE001 - the generator also handles close()
                    resume, argument = generator.throw, error
        except StopIteration as stop:
            return stop.value
        finally:
            del resume, generator

    return wrapper


def _first_step(agen: AsyncGenerator[Any, Any]) -> Awaitable[Any]:
    """Start *agen* without telling the event loop, which would close it outside its session.

    The event loop knows the wrapper around *agen*, and the wrapper closes *agen*.
    """
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(firstiter=None, finalizer=lambda _: None)
    try:
        return agen.asend(None)
    finally:
        sys.set_asyncgen_hooks(*hooks)


def _require_parentheses(of: Callable[..., Any], frame: types.FrameType) -> None:
    """Raise TypeError if *of* is the function to decorate: ``@in_session`` without parentheses.

    The code of *frame* defines such a function, and has not yet given it its name.
    """
    import inspect  # noqa: PLC0415

    code = getattr(inspect.unwrap(of), "__code__", None)
    if code is None or code not in frame.f_code.co_consts or code.co_name == "<lambda>":
        return
    named: Any = frame.f_locals.get(code.co_name)
    if any(value is of for value in (*frame.f_locals.values(), *frame.f_globals.values())):
        return
    if getattr(inspect.unwrap(named), "__code__", None) is not code:
        raise TypeError('@in_session needs an argument: @in_session("name_of_a_parameter")')


def _argument_finder(fn: Callable[..., Any], path: str) -> SessionIdOf:
    """Return a function that finds what *path* names among the arguments of a call of *fn*."""
    import inspect  # noqa: PLC0415

    options: dict[str, Any] = {}
    if sys.version_info >= (3, 14):  # some annotations can't be evaluated yet
        options["annotation_format"] = import_module("annotationlib").Format.FORWARDREF
    try:
        signature = inspect.signature(fn, **options)
    except ValueError as error:
        raise TypeError(f"in_session({path!r}): {error}; give a callable instead") from error
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    names = [p.name for p in signature.parameters.values() if p.kind not in variadic]
    name, *attributes = path.split(".")
    if name not in names or not all(map(str.isidentifier, attributes)):
        known = ", ".join(names) or "none"
        raise TypeError(f"in_session({path!r}): {fn!r} has no such parameter; it has {known}")

    def find(*args: Any, **kwargs: Any) -> Any:
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        return functools.reduce(getattr, attributes, call.arguments[name])

    return find
