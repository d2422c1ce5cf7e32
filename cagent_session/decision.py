"""``Decision``: what the rule says about a request, and how that changes its headers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cagent_session.headers import ABSENT, PURPOSES, ByName, HeaderValue, stamped
from cagent_session.reporting import LEFT_ORIGIN

if TYPE_CHECKING:
    from cagent_session.context import Attribution
    from cagent_session.gateway import Gateway


def apply(decisions: list[Decision], callers: ByName) -> tuple[ByName, ByName]:
    """Apply the decisions of several gateways to the same headers: see ``Decision.applied_to``.

    The request may be bound for one of them.
    """
    if len(decisions) == 1:
        return decisions[0].applied_to(callers)
    bound = next((each for each in decisions if each.attribution is not None), None)
    if bound is None:
        for each in decisions:
            callers, _ = each.applied_to(callers)
        return callers, {}
    is_read, owns = bound.gateway.names.owns, [each.gateway.names.owns for each in decisions]
    others = [key for key in callers if not is_read(key) and any(own(key) for own in owns)]
    return bound.applied_to({key: callers[key] for key in callers if key not in others})


class Decision:
    """What the rule of *gateway* says about a request. The reason is a constant of reporting.py.

    *attribution* is ``None`` if the request is not bound for the gateway. *session_id* is the one
    that the request carries.
    """

    __slots__ = ("attribution", "gateway", "is_marked", "reason", "session_id")

    def __init__(
        self,
        gateway: Gateway,
        reason: str,
        is_marked: bool,
        attribution: Attribution | None = None,
        session_id: HeaderValue | None = None,
    ) -> None:
        self.gateway = gateway
        self.reason = reason
        self.is_marked = is_marked
        self.attribution = attribution
        self.session_id = session_id

    def applied_to(self, callers: ByName) -> tuple[ByName, ByName]:
        """Return what is sent in place of the headers that the caller has set.

        :returns: also the headers that this library has set, with values that remember the
            caller's.
        """
        names, attribution = self.gateway.names, self.attribution
        if attribution is None:
            removes_all = self.reason == LEFT_ORIGIN or self.gateway.urls
            removes = names.owns if removes_all else names.id_keys.__contains__
            return {key: callers[key] for key in callers if not removes(key)}, {}
        sent = {**callers} if self.is_marked else {**callers, **self.gateway.marking}
        stamps: ByName = {}
        for key, name, carried in names.id_headers:
            value = getattr(attribution, carried)
            if value is not None:
                sent[key] = (name, value)
                stamps[key] = (name, stamped(value, callers.get(key, ABSENT)[1]))
            elif key in sent and (attribution.session_id or not sent[key][1]):
                del sent[key]  # what the caller has set is of another session, or blank
        if attribution.purpose is not None:
            name = PURPOSES[attribution.purpose]
            key = name.lower()
            sent[key] = (name, "1")
            stamps[key] = (name, stamped("1", callers.get(key, ABSENT)[1]))
        return sent, stamps
