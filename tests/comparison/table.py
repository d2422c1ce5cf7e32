"""Compare this library with its peers: run each scenario with each solution, and print a table.

``--write`` also writes it into README.rst beside this file.
"""

from __future__ import annotations

import argparse
import multiprocessing
import textwrap
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from itertools import product, repeat
from pathlib import Path
from typing import NamedTuple

from arrivals import Arrival, Places, listening
from scenarios import ROWS, Row, run_all
from solutions import KINDS, NO_URL, OURS, PEERS

WORST_FIRST = LEAKED, LOST, RIGHT, NA = "leaked", "lost", "right", "n/a"
COLUMNS = [kind.name for kind in (*OURS, *PEERS)]
NAMES = [name.replace("OpenT", "Open- T").partition(" ") for name in COLUMNS]  # on two lines
HEADINGS = [
    ["row", "what the agent does", *(n[0] for n in NAMES)],
    ["", "", *(n[2] for n in NAMES)],
]
GUIDE, PINS = (Path(__file__).with_name(name) for name in ("README.rst", "constraints.txt"))
BEGIN, END = "\n.. table.py writes what follows.\n\n", "\n.. table.py writes what precedes.\n"


class Outcome(NamedTuple):
    """The verdict on a solution in a scenario, and the reasons for it."""

    verdict: str
    seen: tuple[str, ...] = ()


Results = Mapping[str, Mapping[str, Outcome]]  # by solution, then by scenario


def judge(name: str, row: Row, arrivals: list[Arrival], places: Places) -> Outcome:
    """Return the verdict on a solution in a scenario of *row*. Leaked is worse than lost."""
    if not row.can_run_with(KINDS[name]):
        return Outcome(NA)
    if len(arrivals) != row.arrivals:
        raise RuntimeError(f"{name}: {row.name}: {len(arrivals)} of {row.arrivals} calls arrived")
    leaks, losses = [], []
    for arrival in arrivals:
        owner = arrival.query.get("owner") if arrival.origin in places.gateways else None
        found = KINDS[name].session_in(arrival.headers)
        got = arrival.problem() or repr(found)
        seen = f"{arrival.origin} got {got:.50} instead of {owner!r:.40}"
        if arrival.problem() or found not in (owner, None):
            leaks.append(seen)
        elif found != owner:
            losses.append(seen)
    return Outcome(LEAKED if leaks else LOST if losses else RIGHT, (*leaks, *losses))


def compare(names: list[str]) -> Results:
    """Run all scenarios with each of the named solutions, each in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    with (
        listening() as (places, arrivals),
        ProcessPoolExecutor(4, spawn, max_tasks_per_child=1) as processes,
    ):
        list(processes.map(run_all, names, repeat(places)))
    results: dict[str, dict[str, Outcome]] = {name: {} for name in names}
    for name, row in product(names, ROWS):
        for scenario in row.scenarios:
            arrived = [a for a in arrivals if a.query["scenario"] == f"{name}: {scenario}"]
            results[name][scenario] = judge(name, row, arrived, places)
    return results


def verdict(results: Results, solution: str, row: Row) -> str:
    """Return the worst verdict of the row's scenarios."""
    return min((results[solution][name].verdict for name in row.scenarios), key=WORST_FIRST.index)


def table(results: Results) -> str:
    """Return the guide's table, and a line with the versions that were compared."""
    lines = [
        [str(number), row.name, *(verdict(results, column, row) for column in COLUMNS)]
        for number, row in enumerate(ROWS, 1)
    ]
    widths = [max(map(len, column)) for column in zip(*HEADINGS, *lines, strict=True)]
    rule = ["=" * width for width in widths]
    packages = [pin.partition("==")[0] for pin in PINS.read_text("utf-8").split() if "==" in pin]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    made_with = textwrap.fill(f"Made with {versions}.", 100, break_on_hyphens=False)
    lines = [rule, *HEADINGS, rule, *lines, rule]
    table_lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    return "\n".join([*table_lines, "", made_with, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the table into README.rst")
    options = parser.parse_args()
    results = compare([*COLUMNS, *NO_URL])
    print(table(results))
    if options.write:
        before, rest = GUIDE.read_text("utf-8").split(BEGIN)
        _, after = rest.split(END)
        GUIDE.write_text(f"{before}{BEGIN}{table(results)}{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
