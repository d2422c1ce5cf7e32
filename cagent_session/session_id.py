"""What may a session ID look like?"""

from __future__ import annotations

import re
import unicodedata
import uuid

MAX_LENGTH = 256

_NO_HEADER = "@@@SKIP_HEADER@@@"  # urllib3.util.SKIP_HEADER, by which it is told to leave a header out
_VALID = re.compile(rf"[\x21-\x7e]{{1,{MAX_LENGTH}}}").fullmatch
_INVISIBLE = re.compile(r"[^\x21-\x7e]").search


class InvalidSessionId(ValueError):  # noqa: N818 - a public name of the design
    """A session ID that could not go on the wire as it is.

    The message names the problem and its position (counted from 0), never the value.
    """


def validate_session_id(value: str | uuid.UUID) -> str:
    """Return *value* as a plain :class:`str` that is safe as the value of an HTTP header.

    :param value: 1 to 256 visible ASCII characters (RFC 9110's ``field-vchar`` without ``obs-text``, section 5.5),
        no spaces, and not urllib3's ``SKIP_HEADER``; or a :class:`uuid.UUID`, which becomes its 36-character form.
    :raises InvalidSessionId: for anything else.
    """
    if isinstance(value, uuid.UUID):
        return uuid.UUID.__str__(value)
    if not isinstance(value, str):
        raise InvalidSessionId(f"session ID must be a str or a uuid.UUID, got {type(value).__name__}")
    if not _VALID(value) or value == _NO_HEADER:
        raise InvalidSessionId(f"session ID must be 1-{MAX_LENGTH} visible ASCII characters, got {_problem(value)}")
    return str.__str__(value)  # a subclass, such as an enum, may print itself as something else


def new_session_id() -> str:
    """Return a fresh session ID: a UUID4, 36 characters of ``[0-9a-f-]``.

    Upstream's default; LiteLLM, the strictest gateway looked at, takes ``[A-Za-z0-9_-]`` from 8 characters on.
    """
    return str(uuid.uuid4())


def _problem(value: str) -> str:
    """Say what keeps *value* from being a session ID, without repeating it."""
    if not value:
        return "an empty string"
    invisible = _INVISIBLE(value)
    if invisible is None:
        return "what urllib3 takes for no header" if value == _NO_HEADER else f"{len(value)} characters"
    character = invisible.group()
    name = "a space" if character == " " else unicodedata.name(character, f"U+{ord(character):04X}")
    return f"{name} at position {invisible.start()}"
