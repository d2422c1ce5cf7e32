"""Which session is current: the context variable and its scopes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from cagent_session.session_id import validate_session_id

if TYPE_CHECKING:
    import uuid

Purpose = Literal["generating_title", "compacting"]


class Attribution(NamedTuple):
    """What calls are attributed to: a session, the sessions above it, and the calls' purpose."""

    session_id: str | None = None
    parent_id: str | None = None
    root_id: str | None = None  # that of the session itself, if it is no sub-session
    purpose: Purpose | None = None


NOTHING = Attribution()


class _OpenScope:
    """A scope that was entered and not yet left, with a link to the scope around it.

    The context variable holds the innermost one. A copied context has a link to the same object,
    so tasks share the scopes that they inherit.
    """

    __slots__ = ("attribution", "outer", "scope", "token")

    def __init__(
        self,
        scope: session_scope,
        outer: _OpenScope | None,
        attribution: Attribution,
        token: Any = None,
    ) -> None:
        self.scope = scope
        self.outer = outer
        self.attribution = attribution
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
    scope = session_scope(session_id)
    _whole_program = _OpenScope(scope, None, scope.within(NOTHING))
    _leave_all_scopes()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no fork
    os.register_at_fork(after_in_child=_leave_all_scopes)


def current_attribution() -> Attribution:
    """Return what a call in the current context is attributed to."""
    innermost = _current.get()
    return innermost.attribution if innermost else NOTHING


def current_session_id() -> str | None:
    """Return the ID of the current session, or ``None``.

    It is the ID of the innermost :class:`session_scope` or :class:`sub_session` that is open in the
    current :class:`contextvars.Context`.

    >>> with session_scope("sess-1"):
    ...     current_session_id()
    'sess-1'
    """
    return current_attribution().session_id


def root_session_id() -> str | None:
    """Return the ID of the root of the current session, or ``None``.

    The root of a :class:`sub_session` is the session in which it was opened, or the root of that
    session. A session that is no sub-session is its own root.

    >>> with session_scope("sess-1"), sub_session("sub-1"), sub_session("sub-2"):
    ...     root_session_id()
    'sess-1'
    """
    return current_attribution().root_id


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
    around it is current again. The inner session is a session of its own: use :class:`sub_session`
    for work that belongs to the outer one. The same scope object can be entered several times, also
    by several threads and tasks at the same time.

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

    def within(self, outer: Attribution) -> Attribution:
        """Return what the calls in this scope are attributed to, if it is entered in *outer*."""
        if self.session_id is None:
            return NOTHING
        if self.session_id == outer.session_id:
            return outer  # it is the same session
        # A purpose that was set in another session is not this one's.
        purpose = outer.purpose if outer.session_id is None else None
        return Attribution(self.session_id, None, self.session_id, purpose)

    def __enter__(self) -> str | Any:  # Any stands for None: it is None only in no session
        outer = _current.get()
        attribution = self.within(outer.attribution if outer else NOTHING)
        opened = _OpenScope(self, outer, attribution)
        opened.token = _current.set(opened)
        return attribution.session_id

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
            attribution = each.attribution
            if each.scope.session_id is None:  # it names no session, so it must not keep this one
                attribution = each.scope.within(outer.attribution if outer else NOTHING)
            outer = _OpenScope(each.scope, outer, attribution, each.token)
        _current.set(outer)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.session_id!r})"


class sub_session(session_scope):  # noqa: N801 - see session_scope
    """Context manager that runs a block of code in a sub-session of the current session.

    Use it for an agent to which the current session's agent delegates work. A sub-session has an ID
    of its own. Its calls carry that ID and, if the :class:`~cagent_session.Gateway` has a name for
    them, the IDs of the root session and the parent session. So the gateway can add up what the
    root session has cost. It is otherwise like :class:`session_scope`.

    If no session is current, or the current session has the same ID, it does what
    ``session_scope(session_id)`` does.

    :param session_id: see :class:`session_scope`. Give each sub-session an ID of its own, such as
        one from :func:`new_session_id`.
    :raises InvalidSessionId: see :class:`session_scope`.

    >>> with session_scope("sess-1"), sub_session("sub-1"):
    ...     current_session_id(), root_session_id()
    ('sub-1', 'sess-1')
    """

    __slots__ = ()

    def within(self, outer: Attribution) -> Attribution:
        """Return what the calls in this scope are attributed to: see the base class."""
        if self.session_id is None or outer.session_id in (None, self.session_id):
            return super().within(outer)
        return Attribution(self.session_id, outer.session_id, outer.root_id, outer.purpose)


class purpose_scope(session_scope):  # noqa: N801 - see session_scope
    """The result of :func:`generating_title` and :func:`compacting`."""

    __slots__ = ("purpose",)

    def __init__(self, purpose: Purpose) -> None:
        super().__init__(None)
        self.purpose = purpose

    def within(self, outer: Attribution) -> Attribution:
        """Return *outer* with the purpose."""
        return outer._replace(purpose=self.purpose)

    def __repr__(self) -> str:
        return f"{self.purpose}()"


def generating_title() -> purpose_scope:
    """Return a context manager for the calls that generate the title of the current session.

    In its block, requests that are bound for the gateway carry ``X-Cagent-GeneratingTitle: 1``, as
    in docker-agent. This includes the calls of sub-sessions and of functions that
    :func:`carry_session` carries to threads. If a session was current before the block, it does not
    include the calls of other sessions that are entered inside. As with :class:`session_scope`,
    don't put it around a ``yield``. ``with`` gives the current session's ID, or ``None``.

    >>> with session_scope("sess-1"), generating_title():
    ...     pass  # here, ask the model for a title
    """
    return purpose_scope("generating_title")


def compacting() -> purpose_scope:
    """Return a context manager for the calls that compact the history of the current session.

    It is like :func:`generating_title`. The header is ``X-Cagent-Compacting: 1``.

    >>> with session_scope("sess-1"), compacting():
    ...     pass  # here, ask the model for a summary
    """
    return purpose_scope("compacting")


class carried_scope(session_scope):  # noqa: N801 - see session_scope
    """A scope that brings *attribution* to another context, whatever is current there."""

    __slots__ = ("attribution",)

    def __init__(self, attribution: Attribution) -> None:
        super().__init__(attribution.session_id)
        self.attribution = attribution

    def within(self, outer: Attribution) -> Attribution:  # noqa: ARG002 - the base class's
        """Return the attribution that this scope brings."""
        return self.attribution


class PausedScopes:
    """The open scopes of a generator or coroutine. They are kept here while it is suspended."""

    def __init__(self, scope: session_scope) -> None:
        self._variable = _current
        attribution = scope.within(current_attribution())
        self._innermost: _OpenScope | None = _OpenScope(scope, None, attribution)

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
