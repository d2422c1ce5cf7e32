"""Tests of the path that ``in_session`` takes: it works, or decoration raises ``TypeError``."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hostile import ANY_TEXT, mutated
from hypothesis import example, given
from hypothesis import strategies as st

from cagent_session import current_session_id, in_session


def works_at(path: str) -> bool:
    """Tell whether *path* is the name of a parameter, followed by valid names of attributes."""
    first, *attributes = path.split(".")
    return first in ("session_id", "sess", "of") and all(
        attribute.isidentifier() for attribute in attributes
    )


def holding(attributes: list[str], value: str) -> Any:
    for attribute in reversed(attributes):
        value = SimpleNamespace(**{attribute: value})  # type: ignore[assignment]
    return value


PATHS = st.sampled_from(
    [
        "session_id",
        "sess.id",
        "sess.agent.id",
        "of",
        "rest",
        "rest.x",
        "more",
        "\u017fess",
        "sess.\u017f",
        "sess.class",
    ]
)


@given(PATHS | mutated(PATHS) | ANY_TEXT)
@example("")
@example("sess.")
def test_a_path_works_or_is_refused_at_decoration(path: str) -> None:
    def run(
        session_id: Any = None, /, sess: Any = None, *rest: Any, of: Any = None, **more: Any
    ) -> str | None:
        return current_session_id()

    if not works_at(path):
        with pytest.raises(TypeError, match="has no such parameter"):
            in_session(path)(run)
        return
    first, *attributes = path.split(".")
    value = holding(attributes, "sess-1")
    decorated = in_session(path)(run)
    arguments: dict[str, Any] = {
        "session_id": ((value,), {}),
        "sess": ((None, value), {}),
        "of": ((), {"of": value}),
    }
    positional, named = arguments[first]
    assert decorated(*positional, **named) == "sess-1"
