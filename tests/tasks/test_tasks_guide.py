"""Tests of examples/tasks/README.rst: each line of its table is run by a test."""

from __future__ import annotations

from pathlib import Path

from guide_lines import GUIDE, LINES

TESTS = Path(__file__).parents[1]
MODULES = [*TESTS.glob("tasks/test_*.py"), TESTS / "servers" / "test_mcp.py"]


def test_each_row_has_a_line_and_a_test() -> None:
    rows = GUIDE.read_text(encoding="utf-8").count("   * - ") - 1  # the first one is the heading
    assert len(LINES) == rows
    sources = "".join(module.read_text(encoding="utf-8") for module in MODULES)
    assert [name for name in LINES if f'"{name}"' not in sources] == []
