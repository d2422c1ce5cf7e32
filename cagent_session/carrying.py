"""``carry_session`` and ``SessionExecutor``: sessions in threads, pools, processes and clusters."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from cagent_session.context import (
    Attribution,
    carried_scope,
    current_attribution,
    session_scope,
)
from cagent_session.decorating import scoped

P = ParamSpec("P")
R = TypeVar("R")
Function = Callable[..., Any]


def carry_session(fn: Callable[P, R]) -> Callable[P, R]:
    """Return a callable that runs *fn* in the session that is current now.

    A sub-session stays one: its parent and its root are carried, too. If no session is current,
    *fn* will run in no session. Use it for threads, timers, callbacks, processes and cluster jobs.
    The result can be pickled if *fn* can. As with :func:`in_session`, the result for a coroutine
    function or a generator function is of the same kind.

    :param fn: any callable.
    :returns: a callable with the same parameters, result and name.
    :raises TypeError: if *fn* can't be called.

    >>> from cagent_session import current_session_id
    >>> with session_scope("sess-1"):
    ...     later = carry_session(current_session_id)
    >>> later()
    'sess-1'
    """
    if not callable(fn):
        raise TypeError(f"carry_session() takes a callable, got {type(fn).__name__}")
    return _carried(fn, current_attribution())


class SessionExecutor(Executor):
    """Executor that runs each job in the session of the code that submitted it.

    It wraps another executor. The threads and processes of a plain pool are in no session. (If
    threads inherit the context, as on free-threaded builds of Python 3.14, the threads of a plain
    pool are in the session of its first job. Those inside a ``SessionExecutor`` are in no session.)

    ``shutdown``, and so the end of a ``with`` statement, shuts the inner executor down. All other
    methods and attributes are the inner executor's. For :func:`isinstance` it is also an instance
    of the inner executor's class.

    :param executor: any :class:`concurrent.futures.Executor`.
    :raises TypeError: for any other object.

    >>> from concurrent.futures import ThreadPoolExecutor
    >>> from cagent_session import current_session_id
    >>> with SessionExecutor(ThreadPoolExecutor()) as pool, session_scope("sess-1"):
    ...     pool.submit(current_session_id).result()
    'sess-1'
    """

    def __init__(self, executor: Executor) -> None:
        if not isinstance(executor, Executor):
            raise TypeError(f"SessionExecutor() takes an Executor, got {type(executor).__name__}")
        self._executor = executor

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Submit *fn* to the inner executor, with the current session. Return its future."""
        job = carry_session(fn)
        with session_scope(None):  # a thread that starts now may inherit the context
            return self._executor.submit(job, *args, **kwargs)

    def map(self, fn: Callable[..., R], *iterables: Iterable[Any], **kwargs: Any) -> Iterator[R]:
        """Call the inner executor's ``map``, with the current session and the same parameters."""
        job = carry_session(fn)
        with session_scope(None):
            return self._executor.map(job, *iterables, **kwargs)

    def shutdown(self, *args: Any, **kwargs: Any) -> None:
        """Shut the inner executor down. The parameters are those of its ``shutdown``."""
        self._executor.shutdown(*args, **kwargs)

    if not TYPE_CHECKING:

        @property
        def __class__(self) -> type[Any]:
            """The inner executor's class, because ``loop.set_default_executor()`` checks it."""
            return type(self._executor)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._executor, name)

        def __reduce__(self) -> tuple[Any, ...]:
            return type(self), (self._executor,)


class _Carried:
    """The result of :func:`carry_session`. It is not a closure, because those can't be pickled."""

    # Like a nested function, it can't be imported by its name. A job store that keeps only the name
    # reads this, and refuses it. APScheduler's would otherwise drop the job when it is due.
    __qualname__ = "carry_session.<locals>.carried"

    def __init__(self, fn: Function, attribution: Attribution, run: Function) -> None:
        functools.update_wrapper(self, fn)
        self._fn = fn
        self._attribution = attribution
        self._run = run

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._run(*args, **kwargs)

    def __reduce__(self) -> tuple[Function, tuple[Function, Attribution]]:
        return _carried, (self._fn, self._attribution)

    def __repr__(self) -> str:
        return f"carry_session({self._fn!r})"


class _CarriedCoroutineFunction(_Carried):
    """A carried coroutine function. Frameworks check whether its ``__call__`` is ``async``."""

    __qualname__ = _Carried.__qualname__

    async def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return await self._run(*args, **kwargs)


def _carried(fn: Function, attribution: Attribution) -> _Carried:
    scope = carried_scope(attribution)
    run = scoped(fn, lambda *_args, **_kwargs: scope)
    if not inspect.iscoroutinefunction(run):
        return _Carried(fn, attribution, run)
    from asyncio import coroutines  # noqa: PLC0415 - only asynchronous programs need asyncio

    carried = _CarriedCoroutineFunction(fn, attribution, run)
    # asyncio.iscoroutinefunction() looks for this attribute, and inspect's for the mark that
    # Python 3.12 introduced.
    vars(carried)["_is_coroutine"] = getattr(coroutines, "_is_coroutine", None)
    mark = getattr(inspect, "markcoroutinefunction", lambda unmarked: unmarked)
    return cast("_Carried", mark(carried))
