"""The rows of the guide's tables: what each row measures, its target, and how it is written."""

from __future__ import annotations

import textwrap
from typing import Any, NamedTuple

CALLS, MOST_BYTES = 100_000, 1000  # this number of calls may keep this number of bytes
LINE = "{:<46}  {:>6}  {:>16}  {:>8}  {:>13}"
HEADING = "Figures\n=======\n\n"
BORDER = LINE.format("=" * 46, "=" * 6, "=" * 16, "=" * 8, "=" * 13)


class Row(NamedTuple):
    """A row. "marked - null / floor": the time of "marked" less "null", divided by "floor"."""

    name: str
    module: str  # the module that times the cases
    cases: str
    target: float = 0  # the highest allowed median; 0 if there is no target


SECTIONS = {
    "time added to one call, in floors": [
        Row("the floor itself", "sending", "floor"),
        Row("ours, no marker", "sending", "unmarked - null / floor", 0.25),
        Row("ours, marked, a new request", "sending", "marked, new - null, new / floor", 1.5),
        Row("ours, marked, the same request again", "sending", "marked - null / floor", 0.9),
        Row("instrument, beyond mount", "peers", "instrumented - mounted / floor", 0.1),
        Row("OpenTelemetry, spans not sampled", "peers", "not sampled - Session / floor"),
        Row("OpenTelemetry, spans sampled", "peers", "sampled - Session / floor"),
        Row("session_scope, entered and left", "sending", "scope - nothing / floor"),
        Row("in_session, 1,000 items of a generator", "sending", "own items - items / floor"),
        Row("SessionExecutor.submit()", "sending", "SessionExecutor - pool / floor"),
        Row("ours / OpenTelemetry, sampled", "peers", "marked - null / sampled - Session", 1 / 11),
        Row("ours, gateway given / not", "sending", "pinned - null / marked - null", 1.2),
        Row("httpx with our hook / without", "peers", "httpx hooked / httpx"),
        Row("httpx with instrument / without", "peers", "httpx instrumented / httpx"),
    ],
    "a whole request, of a bare one": [
        Row("the bare request itself", "loopback", "bare"),
        Row("header set by hand", "loopback", "by hand / bare"),
        Row("stamped by the floor", "loopback", "floor / bare"),
        Row("Sentry, in no transaction", "peers", "Sentry / no Sentry"),
        Row("ours", "loopback", "ours / bare", 1.05),
        Row("ours, 4 threads", "loopback", "ours, 4 threads / bare, 4 threads", 1.05),
        Row("ours, 16 threads", "loopback", "ours, 16 threads / bare, 16 threads", 1.05),
        Row("ours, streamed answer", "loopback", "ours, stream / bare, stream", 1.05),
        Row("ours / stamped by the floor", "loopback", "ours / floor", 1.02),
    ],
    "the import, of requests alone": [
        Row("import requests", "footprint", "requests"),
        Row("import requests and cagent_session", "footprint", "both / requests", 1.05),
    ],
}
ROWS = [row for rows in SECTIONS.values() for row in rows]


def as_rst(published: dict[str, Any]) -> str:
    """Return the guide's tables. The first row of a table has the time that others divide by."""
    figures: dict[str, list[float]] = published["figures"]
    lines = []
    for title, (unit, *others) in SECTIONS.items():
        time = figures[unit.name][1] * 1e6
        lines += [BORDER, LINE.format(title, "ratio", "half of values", "target", "time"), BORDER]
        lines.append(LINE.format(unit.name, "", "", "", f"{time:,.1f} us"))
        for row in others:
            low, median, high = figures[row.name]
            target = f"<= {row.target:.3f}" if row.target else ""
            here = f"{median * time:,.1f} us" if row.cases.endswith(f" / {unit.cases}") else ""
            cells = [row.name, f"{median:.3f}", f"{low:.3f} to {high:.3f}", target, here]
            lines.append(LINE.format(*cells).rstrip())
        lines += [BORDER, ""]
    kept = f"{CALLS:,} calls kept {published['bytes_kept']:,} bytes (target: <= {MOST_BYTES:,})."
    made_on = f"Made on {published['machine']}, with {', '.join(published['tools'])}."
    return "\n".join([*lines, kept, "", textwrap.fill(made_on, 100, break_on_hyphens=False), ""])
