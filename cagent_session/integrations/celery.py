"""Whose session is a Celery task's? Its publisher's: the ID rides in the headers of the task's message."""

from __future__ import annotations

import functools
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from cagent_session.context import OwnScopes, current_session_id
from cagent_session.gateway import SESSION_ID_HEADER
from cagent_session.session_id import InvalidSessionId

try:
    from celery import Celery, current_task
    from celery.app.task import Context
    from celery.signals import before_task_publish, task_postrun, task_prerun
    from celery.utils.log import get_task_logger
except ImportError as error:
    needed = 'cagent_session.integrations.celery needs pip install "cagent-session[celery]"'
    raise ImportError(f"{error}: {needed}") from None

_logger = get_task_logger(__name__)
_instrumented: WeakSet[Celery] = WeakSet()
_running: WeakKeyDictionary[Context, OwnScopes] = WeakKeyDictionary()  # weak for tasks that lose their request
_publisher: ContextVar[Celery | None] = ContextVar("cagent_session_publisher", default=None)


def instrument(app: Celery) -> Celery:
    """Let the tasks of *app* run in the session in which they were published; return *app*.

    Call it where the app is made, so that producers and workers both do. A task's message has the ID of the session
    that is in scope as its header ``X-Cagent-Session-Id``, beside those given to ``apply_async(headers=…)``; the worker
    runs the task in that session, and in none where there is no such header. What a task publishes, its callbacks, the
    rest of its chain and the body of its chord included, is in its session. A retry is the same task, and stays in the
    session that the task started in. An eager task runs in its caller's session.

    Where a message has a malformed ID the task runs in no session, and the worker logs a warning.

    The session is there for every receiver of ``task_prerun``, ``task_success``, ``task_failure`` and ``task_retry``,
    but not for those of ``task_postrun`` that are connected after this module is imported. Nor is it for what Celery
    does before or after a task: in the worker's main process, where a child was lost or ran into its hard time limit;
    for a task that is delivered again after it had succeeded; where the result can't be stored. Callbacks that are
    published or called then are in no session.

    A copy of an app, and an app that was pickled, is to be instrumented by itself.

    :param app: a :class:`celery.Celery`; one that is instrumented already is left as it is.
    :raises TypeError: for anything else.

    >>> from cagent_session import current_session_id, session_scope
    >>> app = instrument(Celery("agent", task_always_eager=True))
    >>> @app.task
    ... def whose():
    ...     return current_session_id()
    >>> with session_scope("sess-1"):
    ...     whose.delay().get()
    'sess-1'
    """
    app = _checked(app, "instrument")
    _instrumented.add(app)
    if not isinstance(vars(app).get("send_task"), _SendTask):
        vars(app)["send_task"] = _SendTask(app)
    return app


def uninstrument(app: Celery) -> Celery:
    """Undo :func:`instrument`; return *app*. Tasks that are running stay in their sessions until they end.

    :param app: a :class:`celery.Celery`; one that is not instrumented is left as it is.
    :raises TypeError: for anything else.
    """
    app = _checked(app, "uninstrument")
    _instrumented.discard(app)
    send_task = vars(app).get("send_task")
    if isinstance(send_task, _SendTask):  # under another's wrapper it stays, and does nothing more
        del vars(app)["send_task"]
        vars(app).update(send_task.before)
    return app


class _SendTask:
    """An app's ``send_task``, through which all its tasks are published: the signal does not tell which app's they are.

    Celery's own is looked up when it is called: others may have replaced it in the class by then.
    """

    def __init__(self, app: Celery) -> None:
        functools.update_wrapper(self, app.send_task)
        self._app = app
        self.before = {name: value for name, value in vars(app).items() if name == "send_task"}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        send_task = self.before.get("send_task") or functools.partial(type(self._app).send_task, self._app)
        token = _publisher.set(self._app)
        try:
            return send_task(*args, **kwargs)
        finally:
            _publisher.reset(token)


def _stamp(headers: dict[str, Any], body: Any, **_: Any) -> None:
    """Write the session's ID into the headers of a message: a retry's is the task's, any other's is the current one."""
    if _publisher.get() not in _instrumented:
        return
    fields = body if isinstance(body, dict) else headers  # protocol 1, protocol 2
    is_retry = fields["retries"] and current_task and current_task.request.id == fields["id"]
    session_id = _given_in(current_task.request) if is_retry else current_session_id()
    if session_id is not None:
        headers[SESSION_ID_HEADER] = session_id


def _enter(task: Any, **_: Any) -> None:
    if task.app in _instrumented:
        scopes = _running[task.request] = _scopes_of(task.request)
        scopes.__enter__()


def _leave(task: Any, **_: Any) -> None:
    scopes = _running.pop(task.request, None)
    if scopes:
        scopes.__exit__()


def _scopes_of(request: Context) -> OwnScopes:
    """Return the scopes in which the task of *request* is to run: its session's, or that of no session."""
    session_id = current_session_id() if request.is_eager else None
    try:
        return OwnScopes(_given_in(request) if session_id is None else session_id)
    except InvalidSessionId as error:
        _logger.warning("%s of the message is malformed, so the task runs in no session: %s", SESSION_ID_HEADER, error)
        return OwnScopes(None)


def _given_in(request: Context) -> Any:
    """Return the session ID that the message of *request* gives, in whatever form, or ``None``.

    Tracers send a header named ``headers``, too, which is then all that Celery takes for the message's headers.
    """
    for headers in (vars(request), request.headers):
        if isinstance(headers, dict) and SESSION_ID_HEADER in headers:
            return headers[SESSION_ID_HEADER]
    return None


def _checked(app: Celery, call: str) -> Celery:
    """Return the app that *app* is, or stands for, as :data:`celery.current_app` does."""
    if not isinstance(app, Celery):
        raise TypeError(f"{call}() takes a celery.Celery, got {type(app).__name__}")
    return getattr(app, "_get_current_object", lambda: app)()


# For good, and for every app: what is no instrumented app's is passed over.
before_task_publish.connect(_stamp)
task_prerun.connect(_enter)
task_prerun.receivers.insert(0, task_prerun.receivers.pop())  # first: what others start there is in the session
task_postrun.connect(_leave)
