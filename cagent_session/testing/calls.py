"""What a models gateway records: calls, and the usage of sessions. Calls as text for failures."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote

from requests.structures import CaseInsensitiveDict

from cagent_session.headers import FORWARD_HEADER
from cagent_session.origins import origin_of, without_secrets
from cagent_session.testing.json_bodies import parsed

MAX_ROWS = 20  # of calls in the message of a failure

_UNQUOTED = "/:@"  # characters of a path that are shown as they are


@dataclass(frozen=True)
class Call:
    """A call that reached the gateway, and how it was answered.

    ``path`` is percent-decoded and has no query. ``headers`` takes names in any case. If a header
    was sent twice, its values are joined by a comma. ``forward`` is the value of the marker. It is
    ``None`` if the gateway has no marker. ``status`` is 0 until the call is answered. The numbers
    of tokens are those that the answer states. They are 0 until it states them.
    ``prompt_tokens`` are all tokens of the prompt. They include ``cached_tokens``, which were read
    from a cache, and ``cache_write_tokens``, which were written to one. ``completion_tokens``
    include reasoning.

    ``root_session_id`` and ``parent_session_id`` are the IDs of the root session and of the
    session in which a sub-session was opened. If the call names no root, the root is its own
    session. If it names no parent, that is ``None``. A parent that is not a session ID counts as
    missing. A call in no session has neither.

    A call is in no session, and ``has_malformed_id`` is true, if the ID of its session or of its
    root was sent twice, or if it is not one that :func:`cagent_session.session_scope` takes. An
    empty one is malformed, too.

    If the server could not read the head of a request, ``status`` says why: for example 414 for a
    path that is too long, and 431 for such headers. Then ``headers`` is empty, and the call is in
    no session. If the body was incomplete, ``status`` is 400, and ``body`` is empty.
    """

    method: str
    path: str
    headers: CaseInsensitiveDict[str] = field(repr=False)  # they hold API keys
    session_id: str | None
    root_session_id: str | None
    parent_session_id: str | None
    forward: str | None = field(repr=False)  # it may hold a password if it was written by hand
    body: bytes = field(repr=False)
    status: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    has_malformed_id: bool = False

    @property
    def json(self) -> Any:
        """The parsed body, or ``None`` if it is not JSON."""
        return parsed(self.body)


@dataclass(frozen=True)
class Usage:
    """What a session, or a root session with its sub-sessions, is billed.

    The numbers of tokens are the sums of those of its calls. ``cached_tokens`` and
    ``cache_write_tokens`` are parts of ``prompt_tokens``.
    """

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """The tokens of prompts and completions together."""
        return self.prompt_tokens + self.completion_tokens


def billed_by(by: Literal["session", "root"]) -> Callable[[Call], str | None]:
    """Return a function that returns whose bill a call is on: its session's or its root's.

    :raises ValueError: for any other value of *by*.
    """
    if by not in ("session", "root"):
        raise ValueError(f'by must be "session" or "root", got {by!r}')
    return operator.attrgetter("session_id" if by == "session" else "root_session_id")


def number_of_calls(number: int) -> str:
    """Return *number* with the noun: ``1 call`` or ``2 calls``."""
    return "1 call" if number == 1 else f"{number} calls"


def session_of(call: Call) -> str:
    """Return the session of *call* as text."""
    if call.has_malformed_id:
        return "malformed ID"
    if not call.session_id:
        return "in no session"
    is_root = call.root_session_id == call.session_id
    return f"in {call.session_id}" + ("" if is_root else f" of {call.root_session_id}")


def description_of(call: Call, marker: str | None) -> tuple[str, ...]:
    """Return the columns of *call* in a table: its method, its path and its marker.

    :param marker: the marker's name; ``None`` leaves that column out.
    """
    columns = (call.method, quote(call.path, _UNQUOTED))
    if not call.headers and call.status:
        return *columns, f"no headers could be read: answered {call.status}"
    if marker is None:
        return columns
    if not call.forward:
        return *columns, f"no {marker}: add gateway.route(...).headers"
    # Another marker than docker-agent's may hold anything, also a key.
    is_url = marker.lower() == FORWARD_HEADER.lower() or origin_of(call.forward)
    return *columns, f"{marker}: {without_secrets(call.forward) if is_url else '...'}"


def table_of(rows: list[tuple[str, ...]]) -> str:
    """Return the first ``MAX_ROWS`` of *rows*, with aligned columns, each on a new line."""
    shown = rows[:MAX_ROWS]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in shown]
    if len(rows) > len(shown):
        lines.append(f"and {len(rows) - len(shown)} more")
    return "".join(f"\n  {line}" for line in lines)
