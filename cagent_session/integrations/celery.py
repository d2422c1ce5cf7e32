"""Celery tasks run in the session in which they were published."""

from __future__ import annotations

import functools
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from cagent_session.context import carried_scope
from cagent_session.headers import SESSION_ID_HEADER
from cagent_session.integrations.messages import MessageFields, leave

try:
    from celery import Celery, current_task
    from celery.app.task import Context
    from celery.signals import before_task_publish, task_postrun, task_prerun
    from celery.utils.log import get_task_logger
except ImportError as error:
    needed = 'cagent_session.integrations.celery needs pip install "cagent-session[celery]"'
    raise ImportError(f"{error}: {needed}") from None

_FIELDS = MessageFields(
    get_task_logger(__name__),
    "task",
    SESSION_ID_HEADER,
    "X-Cagent-Parent-Session",
    "X-Cagent-Root-Session",
    "X-Cagent-Purpose",
)
_instrumented: WeakSet[Celery] = WeakSet()
_publishing_app: ContextVar[Celery | None] = ContextVar("cagent_session_app", default=None)

# The scopes of the tasks that are running, by the task's request. The keys are weak because
# task_postrun may get another request than task_prerun did.
_scopes: WeakKeyDictionary[Context, carried_scope] = WeakKeyDictionary()


def instrument(app: Celery) -> Celery:
    """Let the tasks of *app* run in the session in which they were published; return *app*.

    Call it where the app is created, so that both the producers and the workers call it. The
    message of a task gets the current session's ID as its header ``X-Cagent-Session-Id``, next to
    the headers that are passed to ``apply_async(headers=…)``. The worker runs the task in that
    session, or in no session if the message has no such header.

    A task that is published in a :class:`~cagent_session.sub_session` runs in that sub-session. It
    also has the same purpose, such as :func:`~cagent_session.compacting`. For this, the message has
    the header ``X-Cagent-Root-Session`` and, if they have a value, ``X-Cagent-Parent-Session`` and
    ``X-Cagent-Purpose``.

    The tasks that a task publishes are in its session. This includes its callbacks, the rest of
    its chain and the body of its chord. A retry is the same task: it runs in the session in which
    the task started. An eager task runs in its caller's session.

    If an ID in a message is malformed, the task runs in no session, and the worker logs a warning.

    All receivers of ``task_prerun``, ``task_success``, ``task_failure`` and ``task_retry`` run in
    the session. A receiver of ``task_postrun`` does not, if it was connected after this module was
    imported. Celery also publishes or calls callbacks outside a task. These are in no session:

    - in the worker's main process, after a child process was lost or exceeded its hard time limit
    - for a task that is delivered again although it had succeeded
    - if the result can't be stored

    Instrument copies of an app, and apps that were unpickled, by themselves.

    :param app: a :class:`celery.Celery`. If it is instrumented already, nothing changes.
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
    app = _require_app(app, "instrument")
    _instrumented.add(app)
    if not isinstance(vars(app).get("send_task"), _SendTask):
        vars(app)["send_task"] = _SendTask(app)
    return app


def uninstrument(app: Celery) -> Celery:
    """Undo :func:`instrument`; return *app*. Running tasks stay in their sessions until they end.

    :param app: a :class:`celery.Celery`. If it is not instrumented, nothing changes.
    :raises TypeError: for anything else.
    """
    app = _require_app(app, "uninstrument")
    _instrumented.discard(app)
    send_task = vars(app).get("send_task")
    # If another library has wrapped ours, ours must stay, but it has no effect any more.
    if isinstance(send_task, _SendTask):
        del vars(app)["send_task"]
        vars(app).update(send_task.replaced)
    return app


class _SendTask:
    """Replaces an app's ``send_task``, through which the app publishes all its tasks.

    It remembers which app publishes, because the signal ``before_task_publish`` does not say it.
    Celery's own method is looked up at each call, because other libraries may replace it in the
    class.
    """

    def __init__(self, app: Celery) -> None:
        functools.update_wrapper(self, app.send_task)
        self._app = app
        # The app's own attribute. Empty if the app has only the method of its class.
        self.replaced = {name: value for name, value in vars(app).items() if name == "send_task"}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        method = functools.partial(type(self._app).send_task, self._app)
        send_task = self.replaced.get("send_task", method)
        token = _publishing_app.set(self._app)
        try:
            return send_task(*args, **kwargs)
        finally:
            _publishing_app.reset(token)


def _stamp(headers: dict[str, Any], body: Any, **_: Any) -> None:
    """Write the current session into the headers of a message.

    For a retry, it is the session in the message of the task.
    """
    if _publishing_app.get() not in _instrumented:
        return
    fields = body if isinstance(body, dict) else headers  # protocol 1, protocol 2
    if fields["retries"] and current_task and current_task.request.id == fields["id"]:
        headers.update(_fields_in_message(current_task.request))
    else:
        _FIELDS.write(headers)


def _enter(task: Any, **_: Any) -> None:
    """Enter the session of a task that is about to run."""
    if task.app in _instrumented:
        fields = _fields_in_message(task.request)
        if task.request.is_eager:
            _FIELDS.write(fields)
        scope = _scopes[task.request] = carried_scope(_FIELDS.read(fields, "the message"))
        scope.__enter__()


def _leave(task: Any, **_: Any) -> None:
    """Leave the session of a task that has run."""
    # The scope is missing in a forked child, and in a context that does not know it.
    leave(_scopes.pop(task.request, None))


def _fields_in_message(request: Context) -> dict[str, Any]:
    """Return those of our fields that the message of *request* has. They may be malformed.

    Some tracers send a header that is named ``headers``. Then ``request.headers`` is the value of
    that header, and the message's other headers are attributes of *request*.
    """
    for headers in (vars(request), request.headers):
        names = _FIELDS.names if isinstance(headers, dict) else ()
        if fields := {name: headers[name] for name in names if name in headers}:
            return fields
    return {}


def _require_app(app: Celery, caller: str) -> Celery:
    """Return *app*, or the app that a proxy such as :data:`celery.current_app` stands for."""
    if not isinstance(app, Celery):
        raise TypeError(f"{caller}() takes a celery.Celery, got {type(app).__name__}")
    return getattr(app, "_get_current_object", lambda: app)()


# These stay connected, for all apps of the process. They ignore apps that are not instrumented.
before_task_publish.connect(_stamp)
task_prerun.connect(_enter)
# Ours becomes the first receiver, so that the others run in the session. One may start a span.
task_prerun.receivers.insert(0, task_prerun.receivers.pop())
task_postrun.connect(_leave)
