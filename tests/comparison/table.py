"""How does it compare? Runs each scenario with each solution, and prints who leaks, who loses and who gets it right."""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from itertools import product
from pathlib import Path

from reasons import REASONS, numbers, rows
from scenarios import SCENARIOS
from solutions import OURS, PEERS, UNTOLD, Solution
from verdicts import BROKEN, LEAKED, LOST, NOT_APPLICABLE, RIGHT, Outcomes, run_all, worst

COLUMNS = (*OURS, *PEERS)
WIDTH = 120
NOT_RIGHT = (LEAKED, LOST)
WORDS = (
    "Right: every call in a session arrives at the gateway with that session's ID, a call in none without, and nobody "
    "else gets any. Leaked: somebody else does, be it another host, port, scheme or session, or an ID that a strict "
    "server refuses reaches the wire. Lost: a call in a session arrives without. A row is as bad as the worst of its "
    "scenarios."
)

Results = Mapping[str, Outcomes]


def verdict(results: Results, solution: type[Solution], row: str) -> str:
    """Return the verdict on a row of the table: the worst of its scenarios'."""
    return worst(
        results[solution.name][name] for name, scenario in SCENARIOS.items() if scenario.row == row
    )


def versions(solutions: Iterable[type[Solution]]) -> str:
    packages = dict.fromkeys(package for solution in solutions for package in solution.packages)
    return ", ".join(f"{package} {metadata.version(package)}" for package in packages)


def table(header: list[str], lines: list[list[str]]) -> str:
    """Return a simple table of reStructuredText."""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    texts = [
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    head = "  ".join(cell.ljust(width) for cell, width in zip(header, widths, strict=True)).rstrip()
    return "\n".join([rule, head, rule, *texts, rule])


def folded(results: Results) -> str:
    """Return the table with one row for kindred scenarios."""
    verdicts = [[verdict(results, solution, row) for solution in COLUMNS] for row in rows()]
    lines = [
        [str(number), row, *said]
        for number, (row, said) in enumerate(zip(rows(), verdicts, strict=True), 1)
    ]
    return table(
        ["row", "what befalls the session", *(solution.name for solution in COLUMNS)], lines
    )


def unfolded(results: Results) -> str:
    """Return the table with a line for each scenario, under the number of its row."""
    lines = [
        [
            numbers([scenario.row]),
            name,
            *(results[solution.name][name].verdict for solution in COLUMNS),
        ]
        for name, scenario in SCENARIOS.items()
    ]
    return table(
        ["row", "what befalls the session", *(solution.name for solution in COLUMNS)], lines
    )


def why_not_right(results: Results, solutions: Iterable[type[Solution]]) -> list[str]:
    """Return where the solutions are not right, and why. What one does when it is told the URL goes without saying."""
    rows_by_solution: dict[tuple[str, str, str], list[str]] = {}
    for solution, row in product(solutions, rows()):
        said = verdict(results, solution, row)
        told = UNTOLD.get(solution)
        if said in NOT_RIGHT and (told is None or said != verdict(results, told, row)):
            rows_by_solution.setdefault(
                (REASONS[solution.name][row], said, solution.name), []
            ).append(row)
    names: dict[tuple[str, str, str], list[str]] = {}
    for (reason, said, name), those in rows_by_solution.items():
        names.setdefault((numbers(those), said, reason), []).append(name)
    by_row = sorted(names.items(), key=lambda item: int(re.findall("[0-9]+", item[0][0])[0]))
    return [
        f"{those}: {', '.join(who)} ({said}), because {reason}"
        for (those, said, reason), who in by_row
    ]


def peers_do_better(results: Results) -> list[str]:
    """Return the rows in which one of ours is not right, and a peer is, and why."""
    found = []
    for row in rows():
        ours = [solution for solution in OURS if verdict(results, solution, row) in NOT_RIGHT]
        better = [solution.name for solution in PEERS if verdict(results, solution, row) == RIGHT]
        if ours and better:
            said, reason = verdict(results, ours[0], row), REASONS[ours[0].name][row]
            found.append(
                f"{numbers([row])}: {', '.join(better)}. With ours it is {said}, because {reason}"
            )
    return found


def not_applicable(results: Results) -> list[str]:
    """Return why something can't be done at all, and where."""
    where: dict[str, set[str]] = {}
    for outcomes in results.values():
        for name, outcome in outcomes.items():
            if outcome.verdict == NOT_APPLICABLE:
                where.setdefault(outcome.seen[0], set()).add(SCENARIOS[name].row)
    return [f"{numbers(those)}, because {reason}" for reason, those in where.items()]


def sections(results: Results) -> Iterator[tuple[str, list[str]]]:
    """Yield what there is to say below the table: headings, and their points."""
    yield "A peer does better than ours in", peers_do_better(results)
    yield (
        "Where a solution isn't told the gateway's URL, it does worse in",
        why_not_right(results, UNTOLD),
    )
    yield "What a client can't do at all is n/a:", not_applicable(results)
    yield (
        "Each peer is set up in its own favour:",
        [f"{peer.name}: {peer.made_of}" for peer in PEERS],
    )
    yield "Compared are", [versions(PEERS)]


def as_text(results: Results) -> str:
    """Return each scenario's verdicts, and the reasons."""
    why = "Why a peer leaks or loses, by row:", why_not_right(results, PEERS)
    return "\n\n".join([unfolded(results), *below([why, *sections(results)])])


def as_rst(results: Results) -> str:
    """Return it in short, for the README: one row for kindred scenarios, and not why a peer leaks or loses."""
    return "\n\n".join([folded(results), *below(sections(results))])


def below(headed: Iterable[tuple[str, list[str]]]) -> list[str]:
    bulleted = (
        "\n".join([f"{heading}\n", *(fill(f"{p}.", "- ") for p in points)])
        for heading, points in headed
    )
    return [fill(WORDS), *bulleted]


def fill(text: str, bullet: str = "") -> str:
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=bullet,
        subsequent_indent=" " * len(bullet),
        break_on_hyphens=False,
        break_long_words=False,
    )


def as_json(results: Results) -> str:
    outcomes = {
        name: {
            scenario: {"verdict": outcome.verdict, "seen": outcome.seen}
            for scenario, outcome in by_scenario.items()
        }
        for name, by_scenario in results.items()
    }
    return json.dumps({"versions": versions(PEERS), "outcomes": outcomes}, indent=2) + "\n"


def broken(results: Results) -> list[str]:
    """Return which scenarios did not run as they are meant to, and what happened instead."""
    return [
        ": ".join([name, scenario, *outcome.seen])
        for name, outcomes in results.items()
        for scenario, outcome in outcomes.items()
        if outcome.verdict == BROKEN
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rst", action="store_true", help="print it in short, as the README has it"
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        type=Path,
        help="also write each verdict and what it rests on to FILE",
    )
    options = parser.parse_args(arguments)
    results = run_all([*OURS, *PEERS, *UNTOLD])
    sys.stdout.write((as_rst if options.rst else as_text)(results) + "\n")
    if options.json:
        options.json.write_text(as_json(results), "utf-8")
    if broken(results):
        sys.exit("\n".join(broken(results)))


if __name__ == "__main__":
    main()
