"""A logging filter that writes the session's ID on each record."""

from __future__ import annotations

import logging

from cagent_session.context import current_session_id


class SessionIdFilter(logging.Filter):
    """A logging filter that sets each record's ``session_id`` to the current session's ID.

    It lets every record pass. On a handler, it sees all records that the handler gets. On a
    logger, it sees only the records that are logged to that logger, not those of child loggers.

    A record that already has a ``session_id`` keeps it, for example one that was given in
    ``extra``. A :class:`logging.handlers.QueueHandler` hands its records to a thread, which is in
    no session. Add the filter to the ``QueueHandler`` itself.

    :param default: a :class:`str`, or ``None``, for records of no session.

    >>> import logging.config, sys
    >>> from cagent_session import session_scope
    >>> logging.config.dictConfig({
    ...     "version": 1,
    ...     "disable_existing_loggers": False,
    ...     "filters": {
    ...         "session": {
    ...             "()": "cagent_session.integrations.logging.SessionIdFilter",
    ...             "default": "none",
    ...         },
    ...     },
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
        """Set the ``session_id`` of *record*, unless it has one, and let it pass."""
        if not hasattr(record, "session_id"):
            record.session_id = current_session_id() or self.default
        return True
