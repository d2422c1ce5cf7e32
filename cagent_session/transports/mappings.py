"""The rule on headers in a mutable mapping, for clients that let a callback change them."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from cagent_session.gateway import Gateway
from cagent_session.headers import callers_by_name
from cagent_session.reporting import report


def stamp(
    request: Any, headers: MutableMapping[str, Any], gateway: Gateway, *, has_left: bool = False
) -> None:
    """Apply the rule of *gateway* to *headers*, which are sent with *request*.

    :param request: an object with the attributes ``method`` and ``url``.
    :param headers: they ignore the case of names, and belong to this request only.
    :param has_left: whether a redirect left the origin of the caller's request.
    :raises MissingSessionId: see :class:`~cagent_session.Gateway`.
    """
    present = [(name, value) for name, value in headers.items() if gateway.names.owns(name)]
    callers = callers_by_name(present)  # they may be the headers of a request that was sent
    decision = gateway.decide(str(request.url), callers, has_left=has_left)
    report(gateway.missing, request, decision)
    sent, stamps = decision.applied_to(callers)
    wanted = {**sent, **stamps}
    for name, _ in present:
        if name.lower() not in wanted:
            headers.pop(name, None)
    for name, value in wanted.values():
        if headers.get(name) is not value:
            headers[name] = value
