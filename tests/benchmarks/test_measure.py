"""Can the table be trusted? Its arithmetic, and that the README has the rows that the command prints."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
import timeit
from pathlib import Path

import loopback
import pytest
from rounds import Row, each_round, interval, paired

ROOT = Path(__file__).parents[2]


def test_the_interval_is_that_of_the_median() -> None:
    """Of 100 values, as many as are smaller than the median are 36 or fewer in one of 301 cases."""
    assert interval([float(value) for value in range(100, 0, -1)]) == (37.0, 64.0)


@pytest.mark.parametrize(
    ("target", "verdict"), [(50.5, "met"), (50.4, "open"), (37.0, "open"), (36.9, "missed")]
)
def test_a_target_is_missed_where_chance_does_not_explain_it(target: float, verdict: str) -> None:
    assert (
        Row("x", ratios=[float(value) for value in range(1, 101)], target=target).verdict == verdict
    )


def test_every_round_runs_every_case() -> None:
    calls: list[str] = []
    cases = {name: timeit.Timer(lambda name=name: calls.append(name)) for name in ("one", "two")}  # type: ignore[misc]
    times = paired(cases, rounds=20, seconds=1e-9)
    assert {name: len(seconds) for name, seconds in times.items()} == {"one": 20, "two": 20}
    assert calls.count("one") == calls.count("two")
    assert {"".join(name[0] for name in calls[-40:][i : i + 2]) for i in range(0, 40, 2)} == {
        "ot",
        "to",
    }


def test_a_ratio_is_of_one_round() -> None:
    ratios = each_round(
        {"ours": [2.0, 40.0], "base": [1.0, 10.0]}, lambda one: one["ours"] / one["base"]
    )
    assert ratios == [2.0, 4.0]


def test_the_readme_has_the_rows_that_the_command_prints(tmp_path: Path) -> None:
    """Figures differ from run to run, so those in the README are held against the targets alone."""
    if shutil.which("nginx", path=loopback.PATH) is None and not os.environ.get("CI"):
        pytest.skip("there is no nginx: apt-get install nginx")
    command = [sys.executable, str(ROOT / "tests/benchmarks/measure.py"), "--rounds", "10", "--rst"]
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "out.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    printed = table_in(done.stdout)
    shown = table_in(
        (ROOT / "README.rst").read_text("utf-8").partition("How it compares\n=====")[2]
    )
    assert [(row[0], row[-1]) for row in shown] == [(row[0], row[-1]) for row in printed]
    limits = [
        (row[2], row[4].removeprefix("<= ")) for row in shown if row[2] and row[4].startswith("<= ")
    ]
    assert len(limits) > 5
    assert [ratio for ratio, target in limits if as_number(ratio) > as_number(target)] == []
    rows = json.loads((tmp_path / "out.json").read_text("utf-8"))["rows"]
    assert {row["what"] for row in rows} <= {row[0] for row in printed}


def table_in(text: str) -> list[list[str]]:
    """Return the rows of the first list of cells in *text*."""
    table = text.partition(".. list-table::")[2]
    rows = re.findall(r"   \* -(.*)" + r"\n     -(.*)" * 4, table.partition("\n\n\n")[0])
    return [[cell.strip() for cell in row] for row in rows]


def as_number(ratio: str) -> float:
    over, _, under = ratio.partition("/")
    return float(over) / float(under or 1) if over else math.nan
