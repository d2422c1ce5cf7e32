"""Tell a models gateway which agent session each outbound LLM call belongs to.

PYTEST_DONT_REWRITE: there are no assertions here, and who imports it before pytest starts is not to be warned.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cagent_session.context import SessionExecutor, carry_session, current_session_id, in_session, session_scope
from cagent_session.session_id import InvalidSessionId, new_session_id

if TYPE_CHECKING:
    from cagent_session.adapter import SessionIdAdapter, mount, session_factory, unmount
    from cagent_session.gateway import (
        FORWARD_HEADER,
        SESSION_ID_HEADER,
        InvalidGatewayURL,
        MissingSessionId,
        MissingSessionIdWarning,
        gateway_headers,
    )
    from cagent_session.hooks import async_session_id_hook, session_id_hook

__all__ = [
    "FORWARD_HEADER",
    "SESSION_ID_HEADER",
    "InvalidGatewayURL",
    "InvalidSessionId",
    "MissingSessionId",
    "MissingSessionIdWarning",
    "SessionExecutor",
    "SessionIdAdapter",
    "async_session_id_hook",
    "carry_session",
    "current_session_id",
    "gateway_headers",
    "in_session",
    "mount",
    "new_session_id",
    "session_factory",
    "session_id_hook",
    "session_scope",
    "unmount",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # These rooms import requests, which who only needs a scope, such as a pytest plugin, is spared.
    rooms = (import_module(f"{__name__}.{room}") for room in ("gateway", "hooks", "adapter"))
    value = globals()[name] = next(vars(room)[name] for room in rooms if name in vars(room))
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
