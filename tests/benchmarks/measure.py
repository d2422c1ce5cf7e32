"""Measure what the library costs, beside what the alternatives cost. README.rst explains it."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import statistics
import sys
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any

import pyperf
from footprint import bytes_kept
from rows import CALLS, HEADING, MOST_BYTES, ROWS, Row, as_rst
from turns import Turns

GUIDE, FIGURES = (Path(__file__).with_name(name) for name in ("README.rst", "figures.json"))
TOOLS = ["requests", "urllib3", "httpx", "opentelemetry-instrumentation-requests", "sentry-sdk"]


def value(loops: int, row: Row) -> float:
    """Return the median of the row's turns, times *loops*: pyperf divides by *loops*."""
    sides = [side.split(" - ") for side in row.cases.split(" / ")]
    turns: Turns = importlib.import_module(row.module).turns(*chain(*sides))
    values = []
    for turn in turns:
        over, *under = (turn[first] - sum(turn[name] for name in rest) for first, *rest in sides)
        values.append(over / (under[0] if under else 1))
    return loops * max(statistics.median(values), 1e-9)  # pyperf takes only values above 0


def main() -> int:
    runner = pyperf.Runner(values=3, processes=5, loops=1, warmups=0)
    runner.argparser.add_argument("--write", action="store_true", help="renew the guide's tables")
    runner.argparser.set_defaults(quiet=True)
    benchmarks = {}
    with contextlib.redirect_stdout(sys.stderr):  # pyperf prints a report, too
        for row in ROWS:
            unit = {"unit": "integer" if " / " in row.cases else "second"}  # a ratio or a time
            benchmarks[row.name] = runner.bench_time_func(row.name, value, row, metadata=unit)
    if runner.args.worker:
        return 0
    figures = {n: [round(b.percentile(p), 9) for p in (25, 50, 75)] for n, b in benchmarks.items()}
    cpu = benchmarks[ROWS[0].name].get_metadata().get("cpu_model_name", "an unknown CPU")
    new: dict[str, Any] = {
        "machine": f"{os.cpu_count()} x {cpu}, {sys.platform}, Python {sys.version.split()[0]}",
        "tools": [f"{name} {metadata.version(name)}" for name in TOOLS],
        "figures": figures,
        "bytes_kept": bytes_kept(CALLS),
    }
    print(as_rst(new))
    if runner.args.write:
        FIGURES.write_text(json.dumps(new, indent=1) + "\n", "utf-8")
        text, _, _ = GUIDE.read_text("utf-8").partition(HEADING)
        GUIDE.write_text(text + HEADING + as_rst(new), "utf-8")
    published = json.loads(FIGURES.read_text("utf-8"))["figures"]
    missed, stale = [], []
    for row in ROWS:
        (low, median, _), old = figures[row.name], published[row.name][1]
        tolerance = 0.25 if " - " in row.cases else 0.05  # these ratios are close to 1
        missed += [row.name] * bool(row.target and low > row.target)
        stale += [row.name] * (" / " in row.cases and abs(old / median - 1) > tolerance)
    print(f"missed targets: {missed}\nstale figures in the guide: {stale}", file=sys.stderr)
    return bool(missed or stale or new["bytes_kept"] > MOST_BYTES)


if __name__ == "__main__":
    sys.exit(main())
