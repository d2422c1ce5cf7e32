"""Dramatiq actors run in the session in which their message was sent."""
# ruff: noqa: ARG002 - the signatures are Dramatiq's

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from cagent_session.context import carried_scope, open_scopes, session_scope
from cagent_session.integrations.messages import MessageFields, leave

try:
    from dramatiq import Middleware
except ImportError as error:
    needed = 'cagent_session.integrations.dramatiq needs pip install "cagent-session[dramatiq]"'
    raise ImportError(f"{error}: {needed}") from None

if TYPE_CHECKING:
    from dramatiq import Broker, Message
    from dramatiq.broker import MessageProxy
    from dramatiq.worker import ConsumerThread

_FIELDS = MessageFields(
    logging.getLogger(__name__),
    "actor",
    "cagent_session_id",
    "cagent_parent_session_id",
    "cagent_root_session_id",
    "cagent_purpose",
)


class SessionMiddleware(Middleware):
    """Dramatiq middleware that runs each actor in the session in which its message was sent.

    Add it to the broker, in the producers and in the workers. A message gets the current session's
    ID as its option ``cagent_session_id``. The worker runs the actor in that session, or in no
    session if the message has no such option. Asynchronous actors are in the session, too.

    If the message is sent in a :class:`~cagent_session.sub_session`, the actor runs in that
    sub-session. It also has the same purpose, such as :func:`~cagent_session.compacting`. For this,
    the message has the option ``cagent_root_session_id`` and, if they have a value,
    ``cagent_parent_session_id`` and ``cagent_purpose``.

    The messages that an actor sends are in its session. This includes its callbacks, the rest of
    its pipeline, and the completion callbacks of its group. A retry runs in the session of the
    message. An actor that is called like a function runs in its caller's session.

    If an ID in a message is malformed, the actor runs in no session, and the worker logs a warning.

    Other middleware that was added earlier begins its work on a message outside the session. If it
    should be in the session, put this one before it with ``add_middleware(…, before=…)``.

    >>> from dramatiq.brokers.stub import StubBroker
    >>> broker = StubBroker()
    >>> broker.add_middleware(SessionMiddleware())
    """

    def before_enqueue(self, broker: Broker, message: Message[Any], delay: int) -> None:
        """Write the current session into the options of *message*."""
        if not _is_retry(message):
            _FIELDS.write(message.options)

    def after_enqueue(self, broker: Broker, message: Message[Any], delay: int) -> None:
        """Remove it again: the same message object may be sent again, in no session."""
        if not _is_retry(message):
            _FIELDS.remove(message.options)

    def after_consumer_thread_boot(self, broker: Broker, thread: ConsumerThread) -> None:
        """Start in no session. This thread sends delayed messages, and may inherit a session."""
        session_scope(None).__enter__()

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        """Enter the session of *message*."""
        attribution = _FIELDS.read(message.options, f"message {message.message_id}")
        _MessageScope(attribution).__enter__()

    def before_ack(self, broker: Broker, message: MessageProxy) -> None:
        """Leave the session of *message*.

        ``after_process_message`` would be too early. There, other middleware sends retries,
        callbacks and the rest of a pipeline.
        """
        _leave()

    def before_nack(self, broker: Broker, message: MessageProxy) -> None:
        """Leave the session of *message*, which has failed."""
        _leave()


class _MessageScope(carried_scope):
    """The scope in which a worker's thread processes a message."""

    __slots__ = ()


def _is_retry(message: Message[Any]) -> bool:
    """Return whether *message* keeps the session that it has. An actor may leave a scope open."""
    return "retries" in message.options


def _leave() -> None:
    """Leave the session of a message that was processed, and of each that was not acknowledged."""
    for scope in open_scopes():
        if isinstance(scope, _MessageScope):
            leave(scope)
