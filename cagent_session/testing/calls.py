"""What a models gateway records: calls, and the usage of sessions. Calls as text for failures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from requests.structures import CaseInsensitiveDict

from cagent_session.headers import FORWARD_HEADER
from cagent_session.origins import without_secrets
from cagent_session.testing.json_bodies import parsed

MAX_ROWS = 20  # of calls in the message of a failure

_UNQUOTED = "/:@"  # characters of a path that are shown as they are


@dataclass(frozen=True)
class Call:
    """A call that reached the gateway, and how it was answered.

    ``path`` is percent-decoded and has no query. ``headers`` takes names in any case. If a header
    was sent twice, its values are joined by a comma. ``forward`` is the value of the marker,
    ``X-Cagent-Forward``. ``status`` is 0 until the call is answered. The numbers of tokens are
    those that the answer states. They are 0 until it states them.
    """

    method: str
    path: str
    headers: CaseInsensitiveDict[str] = field(repr=False)  # they hold API keys
    session_id: str | None
    forward: str | None = field(repr=False)  # it may hold a password if it was written by hand
    body: bytes = field(repr=False)
    status: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def json(self) -> Any:
        """The parsed body, or ``None`` if it is not JSON."""
        return parsed(self.body)


@dataclass(frozen=True)
class Usage:
    """What a session is billed."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """The tokens of prompts and completions together."""
        return self.prompt_tokens + self.completion_tokens


def number_of_calls(number: int) -> str:
    """Return *number* with the noun: ``1 call`` or ``2 calls``."""
    return "1 call" if number == 1 else f"{number} calls"


def session_of(call: Call) -> str:
    """Return the session of *call* as text."""
    return f"in {call.session_id}" if call.session_id else "in no session"


def description_of(call: Call) -> tuple[str, ...]:
    """Return the columns of *call* in a table: its method, its path and its marker."""
    marker = f"no {FORWARD_HEADER}: add gateway_headers()"
    if call.forward:
        marker = f"{FORWARD_HEADER}: {without_secrets(call.forward)}"
    return call.method, quote(call.path, _UNQUOTED), marker


def table_of(rows: list[tuple[str, ...]]) -> str:
    """Return the first ``MAX_ROWS`` of *rows*, with aligned columns, each on a new line."""
    shown = rows[:MAX_ROWS]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in shown]
    if len(rows) > len(shown):
        lines.append(f"and {len(rows) - len(shown)} more")
    return "".join(f"\n  {line}" for line in lines)
