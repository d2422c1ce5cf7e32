"""Dramatiq actors run in the session in which their message was sent."""
# ruff: noqa: ARG002 - the signatures are Dramatiq's

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from cagent_session.context import current_session_id, open_scopes, session_scope
from cagent_session.session_id import InvalidSessionId

try:
    from dramatiq import Middleware
except ImportError as error:
    needed = 'cagent_session.integrations.dramatiq needs pip install "cagent-session[dramatiq]"'
    raise ImportError(f"{error}: {needed}") from None

if TYPE_CHECKING:
    from dramatiq import Broker, Message
    from dramatiq.broker import MessageProxy
    from dramatiq.worker import ConsumerThread

_OPTION = "cagent_session_id"
_logger = logging.getLogger(__name__)


class SessionMiddleware(Middleware):
    """Dramatiq middleware that runs each actor in the session in which its message was sent.

    Add it to the broker, in the producers and in the workers. A message gets the current session's
    ID as its option ``cagent_session_id``. The worker runs the actor in that session, or in no
    session if the message has no such option. Asynchronous actors are in the session, too.

    The messages that an actor sends are in its session. This includes its callbacks, the rest of
    its pipeline, and the completion callbacks of its group. A retry runs in the session of the
    message. An actor that is called like a function runs in its caller's session.

    If the ID in a message is malformed, the actor runs in no session, and the worker logs a
    warning.

    Other middleware that was added earlier begins its work on a message outside the session. If it
    should be in the session, put this one before it with ``add_middleware(…, before=…)``.

    >>> from dramatiq.brokers.stub import StubBroker
    >>> broker = StubBroker()
    >>> broker.add_middleware(SessionMiddleware())
    """

    def before_enqueue(self, broker: Broker, message: Message[Any], delay: int) -> None:
        """Write the current session's ID into the options of *message*."""
        session_id = _session_to_write(message)
        if session_id is not None:
            message.options[_OPTION] = session_id

    def after_enqueue(self, broker: Broker, message: Message[Any], delay: int) -> None:
        """Remove the ID again: the same message object may be sent again, in no session."""
        if _session_to_write(message) is not None:
            message.options.pop(_OPTION, None)

    def after_consumer_thread_boot(self, broker: Broker, thread: ConsumerThread) -> None:
        """Start in no session. This thread sends delayed messages, and may inherit a session."""
        session_scope(None).__enter__()

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        """Enter the session of *message*."""
        _scope_of(message).__enter__()

    def before_ack(self, broker: Broker, message: MessageProxy) -> None:
        """Leave the session of *message*.

        ``after_process_message`` would be too early. There, other middleware sends retries,
        callbacks and the rest of a pipeline.
        """
        _leave()

    def before_nack(self, broker: Broker, message: MessageProxy) -> None:
        """Leave the session of *message*, which has failed."""
        _leave()


class _MessageScope(session_scope):
    """The scope in which a worker's thread processes a message."""

    __slots__ = ()


def _session_to_write(message: Message[Any]) -> str | None:
    """Return the current session's ID. For a retry return ``None``, so that it keeps what it has.

    The actor may have left a scope open before the retry is sent.
    """
    return None if "retries" in message.options else current_session_id()


def _leave() -> None:
    """Leave the session of a message that was processed, and every scope that the actor left open.

    Otherwise the next message of the thread would be processed in them.
    """
    scopes = open_scopes()
    while any(isinstance(scope, _MessageScope) for scope in scopes):
        scopes.pop(0).__exit__()


def _scope_of(message: MessageProxy) -> _MessageScope:
    try:
        return _MessageScope(message.options.get(_OPTION))
    except InvalidSessionId as error:
        _logger.warning(
            "%s of message %s is malformed, so the actor runs in no session: %s",
            _OPTION,
            message.message_id,
            error,
        )
        return _MessageScope(None)
