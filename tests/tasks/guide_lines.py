"""The lines that the table of examples/tasks/README.rst shows, and what the gateway got."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from cagent_session import carry_session, current_session_id, in_session, session_scope
from cagent_session.integrations.asgi import SessionMiddleware
from cagent_session.testing import ModelsGateway

GUIDE = Path(__file__).parents[2] / "examples" / "tasks" / "README.rst"
LINES: dict[str, str] = dict(
    re.findall(r"\* - (.+)\n     - ``(.+)``", GUIDE.read_text(encoding="utf-8"))
)
NAMES = {
    "carry_session": carry_session,
    "current_session_id": current_session_id,
    "in_session": in_session,
    "session_scope": session_scope,
    "SessionMiddleware": SessionMiddleware,
}


def execute(framework: str, /, **names: Any) -> dict[str, Any]:
    """Run the line for *framework*. Return all names that it knows then."""
    namespace = {**NAMES, **names}
    exec(LINES[framework], namespace)
    return namespace


def evaluate(framework: str, /, **names: Any) -> Any:
    """Return the value of the line for *framework*, which may be a decorator."""
    return eval(LINES[framework].removeprefix("@"), {**NAMES, **names})


def undecorated(fn: Any) -> Any:
    return fn


def asked_in(gateway: ModelsGateway) -> Counter[tuple[str, str | None]]:
    """Count the calls to *gateway*, by question and session."""
    return Counter(
        (call.json["messages"][-1]["content"], call.session_id) for call in gateway.calls
    )
