"""``in_session``: each call of a function, generator or coroutine runs in a session."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar, cast

from cagent_session.context import PausedScopes, session_scope, sub_session

if TYPE_CHECKING:
    import uuid

F = TypeVar("F", bound=Callable[..., Any])
GeneratorFunction = Callable[..., Generator[Any, Any, Any]]
SessionIdOf = Callable[..., "str | uuid.UUID | None"]


def in_session(of: str | SessionIdOf, *, as_sub_session: bool = False) -> Callable[[F], F]:
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
    :param as_sub_session: whether each call runs in a :class:`sub_session`. Its parent is the
        session in which the function is called, or in which the generator or coroutine starts.
    :returns: a decorator that keeps the function's kind, name and signature.
    :raises TypeError: at decoration: if there is no such parameter, if the decorated object is not
        a function, or if ``@in_session`` has no parentheses.
    :raises InvalidSessionId: if the ID is invalid: when the function is called, or when the
        generator or coroutine starts. Wrong arguments raise :class:`TypeError` at that time, too.

    >>> from types import SimpleNamespace
    >>> from cagent_session import current_session_id
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

    scope = sub_session if as_sub_session else session_scope

    def decorate(fn: F) -> F:
        if not callable(fn) or isinstance(fn, (type, staticmethod)):
            kind = type(fn).__name__
            raise TypeError(
                f"@in_session(...) decorates functions, got {kind}; put it below @staticmethod"
            )
        find = _argument_finder(fn, of) if isinstance(of, str) else of
        wrapper = scoped(fn, lambda *args, **kwargs: scope(find(*args, **kwargs)))
        return cast("F", functools.wraps(fn)(wrapper))

    return decorate


def scoped(fn: Callable[..., Any], scope_of: Callable[..., session_scope]) -> Callable[..., Any]:
    """Return a function of *fn*'s kind. Each call of it runs *fn* in the call's scope.

    :param scope_of: takes the arguments of a call, and returns its scope.
    """
    import inspect  # noqa: PLC0415 - imported late, to keep the import fast

    function = fn
    while isinstance(function, functools.partial):
        function = function.func

    def is_kind(check: Callable[[object], bool]) -> bool:
        return check(function) or check(type(function).__call__)  # it may be a callable object

    def new_scopes(*args: Any, **kwargs: Any) -> PausedScopes:
        return PausedScopes(scope_of(*args, **kwargs))

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
        with scope_of(*args, **kwargs):
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
