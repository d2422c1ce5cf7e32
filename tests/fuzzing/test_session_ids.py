"""Tests of session IDs: any value is accepted unchanged, or raises ``InvalidSessionId``."""

from __future__ import annotations

import re
import uuid
from typing import Any

from hostile import ANY_IDS, refusal
from hypothesis import example, given
from urllib3.util import SKIP_HEADER

from cagent_session import InvalidSessionId, current_session_id, session_scope
from cagent_session.session_id import validate_session_id

VISIBLE = re.compile("[!-~]{1,256}").fullmatch
PROBLEM = re.compile(
    r"an empty string|\d+ characters|(a space|[A-Z0-9+ -]+) at position \d+"
    r"|the text that makes urllib3 leave the header out"
).fullmatch


def text_of(value: Any) -> str:
    """Return the text that *value* holds, even if its ``str()`` is another text."""
    return uuid.UUID(int=value.int).urn[9:] if isinstance(value, uuid.UUID) else "".join(value)


@given(ANY_IDS)
@example("x" * 256)
@example("x" * 257)
@example("sess-1\n")
@example(SKIP_HEADER)
def test_a_value_is_accepted_unchanged_or_refused_by_an_error_that_does_not_repeat_it(
    value: Any,
) -> None:
    message = refusal(InvalidSessionId, lambda: session_scope(value))
    assert message == refusal(InvalidSessionId, lambda: validate_session_id(value))
    if message is None:
        with session_scope(value) as entered:
            current = current_session_id()
        assert type(current) is str
        assert current == entered == text_of(value)
        assert VISIBLE(current)
        assert current != SKIP_HEADER
    elif isinstance(value, str):
        start, _, problem = message.partition(", got ")
        assert start == "session ID must be 1-256 visible ASCII characters"
        assert PROBLEM(problem), "the message names the problem and nothing else"
        assert not VISIBLE(text_of(value)) or text_of(value) == SKIP_HEADER
    else:
        assert message == f"session ID must be a str or a uuid.UUID, got {type(value).__name__}"
        assert not isinstance(value, uuid.UUID)
    assert current_session_id() is None
