"""Tell a models gateway which agent session each outbound LLM call belongs to."""

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

# The rooms that import requests, which who only needs a scope, such as a pytest plugin, is spared.
_LAZY = {
    "adapter": ["SessionIdAdapter", "mount", "session_factory", "unmount"],
    "gateway": [
        "FORWARD_HEADER",
        "SESSION_ID_HEADER",
        "InvalidGatewayURL",
        "MissingSessionId",
        "MissingSessionIdWarning",
        "gateway_headers",
    ],
    "hooks": ["async_session_id_hook", "session_id_hook"],
}


def __getattr__(name: str) -> Any:
    for room, names in _LAZY.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"{__name__}.{room}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
