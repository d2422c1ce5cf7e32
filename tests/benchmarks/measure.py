"""What does it cost? ``python tests/benchmarks/measure.py`` measures it, beside what the alternatives cost.

It prints a table, and ends with status 1 where a target is missed; one is open, and passes, where the interval that the
median is in holds it. The times are this machine's; the targets are of ratios alone, and each ratio is taken within a
round that ran both sides. Let nothing else run beside it.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import signal
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import footprint
import loopback
import pyperf
import scopes
import sending
from rounds import Row, Times

PARTS: dict[str, Callable[[int], tuple[Times, list[Row]]]] = {
    "added to a send that sends nothing, in floors": sending.rows,
    "beyond a bare adapter, with nginx on loopback": loopback.rows,
    "scopes, beyond the same without": scopes.rows,
    "memory and import": footprint.rows,
}
HEADS = ["cost", "ratio", "99 % interval", "target", ""]
ROUNDS = 300
COMPARED = ("requests", "urllib3", "httpx", "opentelemetry-instrumentation-requests", "sentry-sdk")
Parts = Mapping[str, list[Row]]


def ratio_as_text(ratio: float) -> str:
    return (
        f"1/{1 / ratio:.3g}"
        if 0.01 < ratio < 0.1
        else f"{ratio:.3f}"
        if ratio < 10
        else f"{ratio:.1f}"
    )


def cost_as_text(row: Row) -> str:
    if not row.cost:
        return ""
    cost = statistics.median(row.cost)
    if row.unit == "byte":
        return f"{cost:,.0f} bytes"
    return f"{cost * 1e6:,.2f} us" if abs(cost) < 0.001 else f"{cost * 1e3:,.2f} ms"


def cells(row: Row) -> list[str]:
    """Return the row as text: what, its cost, the ratio, the interval that it is in, the target, the verdict."""
    if row.unit == "byte":
        return [
            row.what,
            cost_as_text(row),
            "",
            "",
            "" if row.target is None else f"<= {row.target:,.0f} bytes",
            row.verdict,
        ]
    ratios = (
        [ratio_as_text(row.ratio), " to ".join(map(ratio_as_text, row.interval))]
        if row.ratios
        else ["", ""]
    )
    return [
        row.what,
        cost_as_text(row),
        *ratios,
        f"<= {ratio_as_text(row.target)}" if row.target else "",
        row.verdict,
    ]


def as_text(parts: Parts) -> str:
    """Return the table for a terminal."""
    lines = [
        line
        for title, rows in parts.items()
        for line in ([title, *HEADS], *map(cells, rows), [""] * 6)
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def as_rst(parts: Parts) -> str:
    """Return the table for the README, without the verdicts."""
    lines = []
    for title, rows in parts.items():
        for line in ([f"*{title}*", *HEADS], *map(cells, rows)):
            lines += [
                f"   {' ' if column else '*'} - {cell}".rstrip()
                for column, cell in enumerate(line[:-1])
            ]
    return "\n".join([".. list-table::", "", *lines])


def as_json(parts: Parts, times: Times) -> str:
    """Return all that was measured: the rows, and the times of each round as pyperf reads them."""
    versions = {name: metadata.version(name) for name in COMPARED}
    runs = [
        pyperf.Run(seconds, metadata={"name": case, **versions}) for case, seconds in times.items()
    ]
    pyperfs = io.StringIO()
    pyperf.BenchmarkSuite([pyperf.Benchmark([run]) for run in runs]).dump(pyperfs)
    rows = [asdict(row) | {"verdict": row.verdict} for part in parts.values() for row in part]
    return json.dumps({**json.loads(pyperfs.getvalue()), "rows": rows}, indent=1)


def made_on() -> str:
    """Say what the figures were made on, and with."""
    known: dict[str, Any] = pyperf.Run([1.0], collect_metadata=True).get_metadata()
    machine = [
        f"{known.get('cpu_count')} x {known.get('cpu_model_name', 'unknown CPU')}",
        platform.platform(terse=True),
    ]
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return ", ".join([*machine, python, *(f"{name} {metadata.version(name)}" for name in COMPARED)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help=f"at least 10; {ROUNDS} unless told"
    )
    parser.add_argument(
        "--json",
        type=Path,
        help="write all that was measured into this file, which pyperf reads, too",
    )
    parser.add_argument("--rst", action="store_true", help="print the table as the README has it")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that nginx is stopped, too
    parts: dict[str, list[Row]] = {}
    times: dict[str, Sequence[float]] = {}
    for title, measure in PARTS.items():
        print(f"measuring: {title}", file=sys.stderr)
        try:
            measured, parts[title] = measure(max(10, arguments.rounds))
        except loopback.NotInstalled as problem:
            if os.environ.get("CI"):
                raise
            print(f"left out: {problem}", file=sys.stderr)
        else:
            times |= measured
    print(made_on(), as_rst(parts) if arguments.rst else as_text(parts), sep="\n\n")
    if arguments.json:
        arguments.json.write_text(as_json(parts, times), "utf-8")
    return any(row.verdict == "missed" for rows in parts.values() for row in rows)


if __name__ == "__main__":
    sys.exit(main())
