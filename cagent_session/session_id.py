"""Session IDs: which values are valid, and how to make a new one."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import uuid

MAX_LENGTH = 256

_SKIP_HEADER = "@@@SKIP_HEADER@@@"  # urllib3.util.SKIP_HEADER: urllib3 sends no header for it
_VALID = re.compile(rf"[\x21-\x7e]{{1,{MAX_LENGTH}}}").fullmatch
_INVISIBLE = re.compile(r"[^\x21-\x7e]").search


class InvalidSessionId(ValueError):  # noqa: N818 - a public name of the design
    """The session ID can't be sent unchanged as a header's value.

    The message names the problem and its position, counted from 0. It never repeats the ID.
    """


def validate_session_id(value: str | uuid.UUID) -> str:
    """Return *value* as a plain :class:`str` that can be sent as a header's value.

    :param value: 1 to 256 visible ASCII characters without spaces (``VCHAR`` of RFC 9110,
        section 5.5), but not urllib3's ``SKIP_HEADER``; or a :class:`uuid.UUID`, which becomes its
        36-character form.
    :raises InvalidSessionId: for anything else.
    """
    if not isinstance(value, str):
        import uuid  # noqa: PLC0415 - imported late, to keep the import fast

        if not isinstance(value, uuid.UUID):
            kind = type(value).__name__
            raise InvalidSessionId(f"session ID must be a str or a uuid.UUID, got {kind}")
        return uuid.UUID.__str__(value)
    if not _VALID(value) or value == _SKIP_HEADER:
        rule = f"session ID must be 1-{MAX_LENGTH} visible ASCII characters"
        raise InvalidSessionId(f"{rule}, got {_problem(value)}")
    return str.__str__(value)  # str() of a subclass, such as an enum, may give another text


def new_session_id() -> str:
    """Return a new session ID: a random UUID (version 4), 36 characters of ``[0-9a-f-]``.

    docker-agent uses the same form by default. LiteLLM is the strictest gateway that is tested. It
    accepts at least 8 characters of ``[A-Za-z0-9_-]``.

    >>> len(new_session_id())
    36
    """
    import uuid  # noqa: PLC0415

    return str(uuid.uuid4())


def _problem(value: str) -> str:
    """Describe why *value* is not a session ID, without repeating it."""
    if not value:
        return "an empty string"
    if value == _SKIP_HEADER:
        return "the text that makes urllib3 leave the header out"
    invisible = _INVISIBLE(value)
    if invisible is None:
        return f"{len(value)} characters"
    character = invisible.group()
    name = unicodedata.name(character, f"U+{ord(character):04X}")
    return f"{'a space' if character == ' ' else name} at position {invisible.start()}"
