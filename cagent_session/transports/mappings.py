"""The rule on headers in a mutable mapping, for clients that let a callback change them."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from cagent_session.gateway import Gateway
from cagent_session.headers import (
    FORWARD_HEADER,
    SESSION_ID_HEADER,
    StampedId,
    cagent_names,
    callers_value,
)
from cagent_session.reporting import STAMPED, report


def stamp(
    request: Any, headers: MutableMapping[str, Any], gateway: Gateway, *, has_left: bool = False
) -> None:
    """Apply the rule of *gateway* to *headers*, which are sent with *request*.

    :param request: an object with the attributes ``method`` and ``url``.
    :param headers: they ignore the case of names, and belong to this request only.
    :param has_left: whether a redirect left the origin of the caller's request.
    :raises MissingSessionId: see :class:`~cagent_session.Gateway`.
    """
    forward, present = headers.get(FORWARD_HEADER), headers.get(SESSION_ID_HEADER)
    callers_id = callers_value(present)  # they may be the headers of a request that was sent
    reason, session_id = gateway.decide(str(request.url), forward, callers_id, has_left=has_left)
    report(gateway.missing, request, reason, forward, session_id)
    if gateway.removes_all(reason):
        for name in {name.lower() for name in cagent_names(headers)}:
            del headers[name]
    elif reason is STAMPED:
        headers[SESSION_ID_HEADER] = StampedId.of(session_id, callers_id)
    elif session_id is not None:
        headers[SESSION_ID_HEADER] = session_id
    elif present is not None:
        del headers[SESSION_ID_HEADER]
    headers.update(gateway.added_to(reason, forward))
