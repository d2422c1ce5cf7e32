"""Was each call told for its session's, and no other's? The verdict on a solution in a scenario.

*right*: each call in a session arrived at the gateway with that session's ID, each in none without, and nobody else got
any. *leaked*: somebody else got an ID (another host, port or scheme, or a call that isn't the session's), or malformed
bytes reached the wire. *lost*: a call in a session arrived without its ID. *n/a*: the client can't do that at all. The
worst of what happened counts. A malformed ID may be refused, before anything is sent, or arrive just as it was. A
scenario that does not run as it is meant to, so that it has no verdict, is *broken*.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from arrivals import Arrival, Places, Wire, listening
from scenarios import MALFORMED, SCENARIOS, A, B, Scenario
from solutions import Solution

WORST_FIRST = BROKEN, LEAKED, LOST, RIGHT, NOT_APPLICABLE = (
    "broken",
    "leaked",
    "lost",
    "right",
    "n/a",
)
KNOWN = [A, B, *map(str, MALFORMED.values())]

Report = Mapping[str, str]


@dataclass(frozen=True)
class Outcome:
    """A verdict, and what it rests on."""

    verdict: str
    seen: tuple[str, ...] = ()


Outcomes = dict[str, Outcome]


def worst(outcomes: Iterable[Outcome]) -> str:
    """Return the verdict on a row: the worst of its scenarios'."""
    return min((outcome.verdict for outcome in outcomes), key=WORST_FIRST.index)


def judge(
    scenario: Scenario,
    solution: type[Solution],
    arrivals: list[Arrival],
    report: Report,
    places: Places,
) -> Outcome:
    """Return the verdict on what arrived; there is none where that is more or less than the scenario sends."""
    if "not applicable" in report:
        return Outcome(NOT_APPLICABLE, (report["not applicable"],))
    expected = (
        {0 if "refused" in report else 1, 1} if scenario.arrivals is None else {scenario.arrivals}
    )
    if "broke" in report or len(arrivals) not in expected:
        return Outcome(BROKEN, (f"{len(arrivals)} arrived", report.get("broke", "")))
    leaks, losses = [], []
    for arrival in arrivals:
        found = solution.found_in(arrival.headers, KNOWN)
        owner = arrival.query.get("owner") if arrival.origin in places.gateways else None
        where = "the gateway" if arrival.origin in places.gateways else arrival.origin
        if arrival.malformed:
            leaks.append(f"{where} got {arrival.malformed}")
        elif found is None and owner is not None:
            losses.append(f"{where} got none, not {owner[:20]!r}")
        elif found != owner:
            leaks.append(f"{where} got {found!r}, not {owner!r}")
    return Outcome(LEAKED if leaks else LOST if losses else RIGHT, (*leaks, *losses))


def run(solution: type[Solution]) -> Outcomes:
    """Run every scenario with *solution*, which has a process and servers of its own, and return the verdicts."""
    environment = {
        name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")
    }
    with listening() as wire:
        ran = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("scenarios.py")), solution.name],
            input=json.dumps(vars(wire.places)),
            env=environment,
            capture_output=True,  # what a peer logs about a scope left elsewhere is nothing to the table
            check=False,
            text=True,
            timeout=300,
        )
        if ran.returncode:
            raise RuntimeError(f"{solution.name}: {ran.stderr}")
        return _outcomes(solution, json.loads(ran.stdout), wire)


def _outcomes(solution: type[Solution], reports: Mapping[str, Report], wire: Wire) -> Outcomes:
    return {
        scenario.name: judge(
            scenario, solution, wire.of(scenario.name), reports[scenario.name], wire.places
        )
        for scenario in SCENARIOS.values()
    }


def run_all(solutions: Iterable[type[Solution]]) -> dict[str, Outcomes]:
    """Run them side by side, and return the verdicts by the solution's name."""
    by_name = {solution.name: solution for solution in solutions}
    with ThreadPoolExecutor(max_workers=4) as side_by_side:
        return dict(zip(by_name, side_by_side.map(run, by_name.values()), strict=True))
