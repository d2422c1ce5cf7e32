"""What the integrations with task queues have in common: messages carry the session."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, get_args

from cagent_session.context import (
    NOTHING,
    Attribution,
    Purpose,
    current_attribution,
    open_scopes,
    session_scope,
)
from cagent_session.session_id import InvalidSessionId


class MessageFields:
    """The fields of a message that say what the calls of its task are attributed to.

    :param logger: gets a warning for each message that has a malformed ID.
    :param task: what a worker runs, as a word for this warning.
    :param names: the names of the fields, in the order of :class:`Attribution`.
    """

    def __init__(self, logger: logging.Logger, task: str, *names: str) -> None:
        self.names = names
        self._logger = logger
        self._task = task

    def write(self, fields: dict[str, Any]) -> None:
        """Write what is current into *fields*. In a session, it replaces what a caller has set."""
        attribution = current_attribution()
        for name, value in zip(self.names, attribution, strict=True):
            if value is not None:
                fields[name] = value
            elif attribution.session_id is not None:
                fields.pop(name, None)

    def remove(self, fields: dict[str, Any]) -> None:
        """Remove what :meth:`write` has written into *fields*."""
        for name, value in zip(self.names, current_attribution(), strict=True):
            if value is not None:
                fields.pop(name, None)

    def read(self, fields: Mapping[str, Any], message: str) -> Attribution:
        """Return what is written in *fields*.

        If an ID is malformed, it is nothing, and a warning is logged. An unknown purpose does not
        count. A message without the root's ID may be of a producer that sets only the session:
        then the root is the parent, or else the session itself.

        :param message: names the message in the warning.
        """
        *names, purpose_name = self.names
        ids = []
        for name in names:
            try:
                ids.append(session_scope(fields.get(name)).session_id)
            except InvalidSessionId as error:  # noqa: PERF203 - the warning names the field
                warning = "%s of %s is malformed, so the %s runs in no session: %s"
                self._logger.warning(warning, name, message, self._task, error)
                return NOTHING
        session_id, parent_id, root_id = ids
        purpose = fields.get(purpose_name)
        if purpose not in get_args(Purpose):
            purpose = None
        if session_id is None:
            return Attribution(purpose=purpose)
        return Attribution(session_id, parent_id, root_id or parent_id or session_id, purpose)


def leave(scope: session_scope | None) -> None:
    """Leave *scope*, and every scope that was opened in it and left open.

    Otherwise the next task of a worker's thread would start in them. If *scope* is not open in this
    context, nothing changes.
    """
    scopes = open_scopes()
    if scope in scopes:
        for still_open in scopes[: scopes.index(scope) + 1]:
            still_open.__exit__()
