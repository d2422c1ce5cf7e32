"""Tests of session IDs: the valid values, and the messages for invalid ones."""

from __future__ import annotations

import enum
import re
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cagent_session import InvalidSessionId, current_session_id, new_session_id, session_scope
from cagent_session.session_id import validate_session_id

UUID = uuid.UUID("12345678-1234-4678-9234-567812345678")


class Label(str):
    """A str whose ``str()`` is another text. That text must not be sent."""

    __slots__ = ()

    def __str__(self) -> str:
        return "printed\r\notherwise"


class Agent(str, enum.Enum):
    PLANNER = "planner-1"


class LabelledUUID(uuid.UUID):
    def __str__(self) -> str:
        return "printed\r\notherwise"


ACCEPTED = {
    "usual": ("sess-1", "sess-1"),
    "1 character": ("x", "x"),
    "256 characters": ("x" * 256, "x" * 256),
    "every visible one": ("".join(map(chr, range(0x21, 0x7F))),) * 2,
    "UUID": (UUID, str(UUID)),
    "UUID subclass": (LabelledUUID(UUID.hex), str(UUID)),
    "str subclass": (Label("sess-1"), "sess-1"),
    "enum member": (Agent.PLANNER, "planner-1"),
}

REFUSED_TEXT = {
    "": "an empty string",
    "x" * 257: "257 characters",
    "sess 1": "a space at position 4",
    " sess-1": "a space at position 0",
    "sess-1 ": "a space at position 6",
    "sess-1\r": "U+000D at position 6",
    "sess-1\n": "U+000A at position 6",
    "sess-1\r\nX-Evil: 1": "U+000D at position 6",
    "\x00": "U+0000 at position 0",
    "sess\t1": "U+0009 at position 4",
    "sess-1\x7f": "U+007F at position 6",
    "s\u00e9ance": "LATIN SMALL LETTER E WITH ACUTE at position 1",
    "sess-\N{GRINNING FACE}": "GRINNING FACE at position 5",
    "\ud800": "U+D800 at position 0",
    "sess-1 \n" + "x" * 257: "a space at position 6",
    "@@@SKIP_HEADER@@@": "the text that makes urllib3 leave the header out",
}


@pytest.mark.parametrize(("value", "plain"), ACCEPTED.values(), ids=ACCEPTED)
def test_an_accepted_id_becomes_a_plain_str(value: str | uuid.UUID, plain: str) -> None:
    accepted = validate_session_id(value)
    assert accepted == plain
    assert type(accepted) is str
    with session_scope(value):
        assert current_session_id() == plain


@pytest.mark.parametrize(("value", "problem"), REFUSED_TEXT.items(), ids=REFUSED_TEXT.values())
def test_the_error_for_text_that_can_not_be_sent_names_the_problem(
    value: str, problem: str
) -> None:
    with session_scope("outer"):
        with pytest.raises(InvalidSessionId) as refusal:
            session_scope(value)
        assert current_session_id() == "outer"
    assert str(refusal.value) == f"session ID must be 1-256 visible ASCII characters, got {problem}"
    assert isinstance(refusal.value, ValueError)


@pytest.mark.parametrize(
    "value", [b"sess-1", bytearray(b"sess-1"), 7, 0, True, False, ["sess-1"], object()]
)
def test_values_of_other_types_are_refused(value: Any) -> None:
    problem = f"^session ID must be a str or a uuid.UUID, got {type(value).__name__}$"
    for check in (session_scope, validate_session_id):
        with pytest.raises(InvalidSessionId, match=problem):
            check(value)
    assert current_session_id() is None


def test_none_is_not_a_session_id() -> None:
    with pytest.raises(InvalidSessionId, match=r"got NoneType$"):
        validate_session_id(None)  # type: ignore[arg-type] # what an untyped caller may pass


PROBLEM = re.compile(
    "session ID must be 1-256 visible ASCII characters, got "
    r"(an empty string|(\d+) characters|(?:a space|[A-Z0-9 +-]+) at position (\d+))"
)


@given(st.text(st.characters(max_codepoint=0x180), max_size=300) | st.text())
def test_any_text_is_accepted_unchanged_or_refused_without_being_repeated(value: str) -> None:
    try:
        accepted = validate_session_id(value)
    except InvalidSessionId as refusal:
        problem = PROBLEM.fullmatch(str(refusal))
        assert problem, "the message contains nothing but the problem"
        _, length, position = problem.groups()
        if position is not None:
            assert all("!" <= character <= "~" for character in value[: int(position)])
            assert not "!" <= value[int(position)] <= "~", "the first wrong character is named"
        else:
            assert len(value) == int(length or 0)
            assert not 1 <= len(value) <= 256
    else:
        assert accepted == value
        assert 1 <= len(accepted) <= 256
        assert all(0x21 <= byte <= 0x7E for byte in accepted.encode("ascii"))


def test_new_ids_are_distinct_uuid4s_that_every_gateway_accepts() -> None:
    ids = {new_session_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{8,64}", session_id) for session_id in ids)
    assert {uuid.UUID(session_id).version for session_id in ids} == {4}
    assert all(validate_session_id(session_id) == session_id for session_id in ids)
