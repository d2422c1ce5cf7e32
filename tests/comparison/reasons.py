"""Why is a verdict not *right*? The reasons, by solution and by row of the table."""

from __future__ import annotations

from collections.abc import Iterable

from scenarios import SCENARIOS

BACK, AGAIN, MALFORMED = (
    "redirect away and back to the gateway",
    "prepared request sent again",
    "malformed ID",
)
COPIES, PROCESSES = "copy or pickle of a client", "process pool made in a session"
LONGER, WRAPPED = "SDK's own adapter on a longer prefix", "SDK's adapter around the mounted one"
AROUND, AFTERWARDS = "the same, and a redirect elsewhere", "SDK that mounts an adapter afterwards"
POST, URLLIB3 = "requests.post() or httpx.post()", "urllib3, as boto3 calls it"
MARKED = "marked call to another host"
ELSEWHERE = ("unmarked call to another host", MARKED)
REDIRECTS = (
    "redirect to another host or port",
    "redirect to another scheme",
    "redirect over several hops",
    "redirect followed by hand",
    BACK,
    AROUND,
)
GENERATORS = (
    "call between two events of a generator",
    "two generators in turn",
    "generator closed in another session",
)

YIELD = "a generator runs in its consumer's context, where a scope around a yield holds as well"
FORK = "a forked worker keeps the session it was forked in for jobs that are in none"
NO_CLIENT = "the call goes past the client that has the header, or the hook"
BY_MARKER = "the marker alone decides"
ANYWHERE = "by default it goes to every host"

_OURS = {
    BACK: "a redirect off the origin takes the marker off for good: what follows is the other host's wish",
    POST: "nothing is patched globally, and the call goes past the client that is mounted or hooked",
    URLLIB3: "the call goes past requests and httpx",
}
_ADAPTER = {
    **_OURS,
    AFTERWARDS: "the SDK's adapter takes the place of ours, until it is mounted again",
}

_OPENTELEMETRY = {
    **dict.fromkeys(
        [*REDIRECTS, AGAIN],
        "the baggage goes on the caller's own request, of which requests makes the hop to any host",
    ),
    MALFORMED: "values of more than 4,096 characters are dropped, and an empty one is no ID",
    **dict.fromkeys(GENERATORS, YIELD),
    PROCESSES: FORK,
    URLLIB3: "the call goes past requests; there is an instrumentation of urllib3, too",
}
_SENTRY = {**dict.fromkeys(GENERATORS, YIELD), PROCESSES: FORK}

REASONS: dict[str, dict[str, str]] = {
    "adapter": _ADAPTER,
    "hooks": _OURS,
    "adapter, no URL": {**_ADAPTER, MARKED: BY_MARKER, AROUND: BY_MARKER},
    "hooks, no URL": {**_OURS, MARKED: BY_MARKER},
    "OpenTelemetry": _OPENTELEMETRY,
    "OpenTelemetry, no URL": {**_OPENTELEMETRY, **dict.fromkeys(ELSEWHERE, ANYWHERE)},
    "Sentry": _SENTRY,
    "Sentry, no URL": {**_SENTRY, **dict.fromkeys([*REDIRECTS, *ELSEWHERE], ANYWHERE)},
    "session.headers": {
        **dict.fromkeys(
            [*REDIRECTS, *ELSEWHERE],
            "the client's headers go to every host that it calls; at a redirect requests drops Authorization only",
        ),
        AGAIN: "the client's headers are merged in where a request is prepared, not where it is sent",
        MALFORMED: "requests lets an empty one, a space at the end, NUL, DEL, Latin-1 and any length pass",
        **dict.fromkeys(
            [
                *GENERATORS,
                "thread that outlives the scope",
                "two threads, two sessions, one client",
                "two tasks of asyncio, calling in threads",
                "thread pool that two sessions share",
            ],
            "a client has one such header at a time, whoever calls and whenever",
        ),
        PROCESSES: FORK,
        COPIES: "the header is copied with the client, for good",
        **dict.fromkeys([POST, URLLIB3], NO_CLIENT),
    },
    "hook by hand": {
        **dict.fromkeys(
            [*REDIRECTS[:-1], AGAIN],
            "the header stays on the client's own request, and goes to any host with the marker",
        ),
        MARKED: BY_MARKER,
        MALFORMED: "httpx lets an empty one, DEL and any length pass",
        **dict.fromkeys(GENERATORS, YIELD),
        PROCESSES: FORK,
        **dict.fromkeys([POST, URLLIB3], NO_CLIENT),
    },
}


def rows() -> list[str]:
    """Return the rows of the table, in order."""
    return list(dict.fromkeys(scenario.row for scenario in SCENARIOS.values()))


def numbers(of: Iterable[str]) -> str:
    """Return the rows' numbers in the table, counted from 1, as a reader writes them: 3, 4 and 6-8."""
    numbered = sorted(rows().index(row) + 1 for row in of)
    runs: list[list[int]] = []
    for number in numbered:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [
        part
        for run in runs
        for part in ([f"{run[0]}-{run[-1]}"] if len(run) > 2 else map(str, run))
    ]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
