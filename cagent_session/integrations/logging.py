"""Whose session does a log record belong to? A filter writes it on the record."""

from __future__ import annotations

import logging

from cagent_session.context import current_session_id


class SessionIdFilter(logging.Filter):
    """A logging filter that lets every record pass, with the current session's ID as its ``session_id``.

    On a handler it sees all that the handler gets; on a logger, only what is logged to that very logger. Where a
    :class:`logging.handlers.QueueHandler` hands records to a thread, which is in no session, put it on that handler: a
    record that has a ``session_id`` keeps it, like one that is given as ``extra``.

    :param default: a :class:`str`, or ``None``, for records of no session.

    >>> import logging.config, sys
    >>> from cagent_session import session_scope
    >>> logging.config.dictConfig({
    ...     "version": 1,
    ...     "disable_existing_loggers": False,
    ...     "filters": {"session": {"()": "cagent_session.integrations.logging.SessionIdFilter", "default": "none"}},
    ...     "formatters": {"short": {"format": "%(session_id)s: %(message)s"}},
    ...     "handlers": {
    ...         "out": {
    ...             "class": "logging.StreamHandler",
    ...             "stream": sys.stdout,
    ...             "filters": ["session"],
    ...             "formatter": "short",
    ...         },
    ...     },
    ...     "loggers": {"agent": {"handlers": ["out"], "level": "INFO", "propagate": False}},
    ... })
    >>> with session_scope("sess-1"):
    ...     logging.getLogger("agent").info("calling a tool")
    sess-1: calling a tool
    >>> logging.getLogger("agent").info("waiting")
    none: waiting
    """

    def __init__(self, *, default: str | None = "-") -> None:
        super().__init__()
        self.default = default

    def filter(self, record: logging.LogRecord) -> bool:
        """Write the session's ID on *record*, unless it has one, and let it pass."""
        if not hasattr(record, "session_id"):
            record.session_id = current_session_id() or self.default
        return True
