"""The jobs that the tests send to workers. Other processes can import these functions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests

from cagent_session import (
    SESSION_ID_HEADER,
    Gateway,
    compacting,
    current_session_id,
    gateway_headers,
    mount,
    session_scope,
    sub_session,
)
from cagent_session.testing import ModelsGateway

PARENT, ROOT = "X-Cagent-Parent-Session", "X-Cagent-Root-Session"
HEADERS = gateway_headers("https://api.openai.com/v1", provider="openai", model="gpt-4o")


def ask(gateway: str, question: str) -> str | None:
    """Ask the model *question* through *gateway*. Return the current session's ID."""
    body: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": question}]}
    models_gateway = Gateway(gateway, parent_header=PARENT, root_header=ROOT)
    with mount(requests.Session(), models_gateway) as http:
        http.trust_env = False  # no proxies and no .netrc: reading them costs more than the call
        http.post(
            f"{gateway}/v1/chat/completions", json=body, headers=HEADERS, timeout=60
        ).raise_for_status()
    return current_session_id()


@contextmanager
def sub_sub_session() -> Iterator[None]:
    """Run a block in the sub-session ``sub-2`` of ``sub-1`` of ``sess-1``, with a purpose."""
    with session_scope("sess-1"), sub_session("sub-1"), sub_session("sub-2"), compacting():
        yield


IN_SUB_SUB_SESSION = ("sub-2", "sub-1", "sess-1", "1")
"""What :func:`lines` returns for a call in it."""


def lines(gateway: ModelsGateway) -> set[tuple[str | None, ...]]:
    """Return the session, the parent, the root and the purpose of the calls, as they were sent."""
    names = (SESSION_ID_HEADER, PARENT, ROOT, "X-Cagent-Compacting")
    return {tuple(call.headers.get(name) for name in names) for call in gateway.calls}


def fail(message: str) -> None:
    """Raise an error in the job."""
    raise LookupError(message)
