"""Tests of the published figures: the guide shows them, and they belong to this program."""

from __future__ import annotations

import json
from pathlib import Path

from rows import HEADING, MOST_BYTES, ROWS, as_rst

HERE = Path(__file__).parent
PUBLISHED = json.loads((HERE / "figures.json").read_text("utf-8"))


def test_the_guide_shows_the_published_figures_of_all_rows() -> None:
    assert (HERE / "README.rst").read_text("utf-8").endswith(HEADING + as_rst(PUBLISHED))


def test_the_published_figures_meet_their_targets() -> None:
    lowest = {name: low for name, (low, _, _) in PUBLISHED["figures"].items()}
    assert [row for row in ROWS if row.target and lowest[row.name] > row.target] == []
    assert PUBLISHED["bytes_kept"] <= MOST_BYTES


def test_the_figures_were_made_with_the_pinned_tools() -> None:
    pins = (HERE.parent / "comparison" / "constraints.txt").read_text("utf-8").split()
    assert {tool.replace(" ", "==") for tool in PUBLISHED["tools"]} <= set(pins)
