"""What becomes known of each decision of the rule: log lines, warnings and errors."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from cagent_session.origins import without_secrets

if TYPE_CHECKING:
    from cagent_session.decision import Decision

Missing = Literal["omit", "warn", "raise"]

STAMPED = "stamped"
NO_SESSION = "no session"
NO_MARKER = "no marker"
ANOTHER_ORIGIN = "another origin"
LEFT_ORIGIN = "left the origin by a redirect"

_TRANSPORTS = {
    "aiohttp",
    "aiosignal",
    "botocore",
    "cagent_session",
    "httpx",
    "httpx2",
    "opentelemetry",
    "requests",
}

logger = logging.getLogger("cagent_session")

# Each is called with every request, its reason and its session ID, also if nothing is logged.
observers: list[Callable[[Any, str, object], None]] = []


class MissingSessionId(RuntimeError):  # noqa: N818 - a public name of the design
    """A request is bound for the gateway but in no session, and *missing* is ``"raise"``."""


class MissingSessionIdWarning(UserWarning):
    """A request is bound for the gateway but in no session, and *missing* is ``"warn"``."""


def require_known(missing: Missing) -> None:
    """Raise ValueError if *missing* is none of the values that it can have."""
    if missing not in ("omit", "warn", "raise"):
        raise ValueError(f'missing must be "omit", "warn" or "raise", got {missing!r}')


def is_watched() -> bool:
    """Return whether the reason of every request is logged or observed."""
    return bool(observers) or logger.isEnabledFor(logging.DEBUG)


def report(missing: Missing, request: Any, decision: Decision) -> None:
    """Log *decision*. If the request should carry a session ID but has none, apply *missing*.

    Requests to other hosts are logged only if they are marked.

    :param request: a request of any library, with the attributes ``method`` and ``url``.
    :raises MissingSessionId: if the request is bound for the gateway, carries no session ID, and
        *missing* is ``"raise"``.
    """
    reason, session_id = decision.reason, decision.session_id
    if logger.isEnabledFor(logging.DEBUG) and (decision.is_marked or reason != ANOTHER_ORIGIN):
        logger.debug("%s: %s", reason, _call_text(request))
    for observe in observers:
        observe(request, reason, session_id)
    if session_id is None and reason == NO_SESSION and missing != "omit":
        call, remedy = _call_text(request), "make the call inside session_scope()"
        message = f"{call} is bound for the models gateway but in no session: {remedy}"
        if missing == "raise":
            raise MissingSessionId(message)
        warnings.warn(message, MissingSessionIdWarning, stacklevel=_callers_stacklevel())


def _call_text(request: Any) -> str:
    return f"{request.method} {without_secrets(str(request.url))}"


def _callers_stacklevel() -> int:
    """Return the ``stacklevel`` of a warning that points at the code that made the call."""
    # warnings.warn(skip_file_prefixes=...) does this, but only since Python 3.12.
    level, frame = 1, sys._getframe(1)  # noqa: SLF001
    while frame.f_back and str(frame.f_globals.get("__name__")).partition(".")[0] in _TRANSPORTS:
        level, frame = level + 1, frame.f_back
    return level
