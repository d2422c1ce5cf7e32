"""A logging filter that writes the IDs of the session and its root on each record."""

from __future__ import annotations

import logging

from cagent_session.context import current_attribution


class SessionIdFilter(logging.Filter):
    """A logging filter that writes the current session on each record.

    It sets ``session_id`` to the current session's ID, and ``root_session_id`` to the ID of its
    root session: see :func:`~cagent_session.root_session_id`. Outside a
    :class:`~cagent_session.sub_session`, they are the same.

    It lets every record pass. On a handler, it sees all records that the handler gets. On a
    logger, it sees only the records that are logged to that logger, not those of child loggers.

    A record that already has one of them keeps it, for example if it was given in ``extra``. If a
    record has only a ``session_id`` and this is not the current session, the filter does not know
    its root. It then takes it as the root itself.

    A :class:`logging.handlers.QueueHandler` hands its records to a thread, which is in no session.
    Add the filter to the ``QueueHandler`` itself.

    :param default: a :class:`str`, or ``None``, for records of no session.

    >>> import logging.config, sys
    >>> from cagent_session import session_scope, sub_session
    >>> logging.config.dictConfig({
    ...     "version": 1,
    ...     "disable_existing_loggers": False,
    ...     "filters": {
    ...         "session": {
    ...             "()": "cagent_session.integrations.logging.SessionIdFilter",
    ...             "default": "none",
    ...         },
    ...     },
    ...     "formatters": {"short": {"format": "%(root_session_id)s/%(session_id)s: %(message)s"}},
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
    >>> with session_scope("sess-1"), sub_session("sub-1"):
    ...     logging.getLogger("agent").info("calling a tool")
    sess-1/sub-1: calling a tool
    >>> logging.getLogger("agent").info("waiting")
    none/none: waiting
    """

    def __init__(self, *, default: str | None = "-") -> None:
        super().__init__()
        self.default = default

    def filter(self, record: logging.LogRecord) -> bool:
        """Set those of the two IDs that *record* does not have, and let it pass."""
        current = current_attribution()
        session_id = getattr(record, "session_id", current.session_id or self.default)
        root_id = current.root_id if session_id == current.session_id else session_id
        for name, value in {"session_id": session_id, "root_session_id": root_id}.items():
            if not hasattr(record, name):
                setattr(record, name, value)
        return True
