"""Does what the documentation shows work?"""

from __future__ import annotations

import doctest
import importlib
import logging
import re
import textwrap
import weakref
from pathlib import Path

import docutils.core
import pytest
from sybil.document import Document
from sybil.parsers.rest import PythonCodeBlockParser

import cagent_session

ROOT = Path(__file__).parents[2]
README = ROOT / "README.rst"
FILE = re.compile(r"# (\w+\.py)\n").match
ROOMS = [
    *("context", "session_id", "gateway", "adapter", "hooks", "testing"),
    *("integrations.celery", "integrations.logging", "integrations.opentelemetry"),
]


@pytest.fixture(autouse=True)
def own_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide pytest's handlers from dictConfig, which closes every handler there is: --log-file would end."""
    monkeypatch.setattr(logging, "_handlers", weakref.WeakValueDictionary())
    monkeypatch.setattr(logging, "_handlerList", [])


def test_the_readmes_python_blocks_run() -> None:
    """In their order, in one namespace, as a reader pastes them."""
    examples = list(Document.parse(str(README), PythonCodeBlockParser()).examples())
    for example in examples:
        if not FILE(example.parsed):
            example.evaluate()
    assert len(examples) == README.read_text(encoding="utf-8").count(".. code-block:: python")


def test_the_readmes_tests_run_and_find_the_forgotten_session(pytester: pytest.Pytester) -> None:
    """Its blocks that begin with the name of a file, which may come in parts."""
    for example in Document.parse(str(README), PythonCodeBlockParser()).examples():
        if name := FILE(example.parsed):
            with pytester.path.joinpath(name[1]).open("a", encoding="utf-8") as file:
                file.write(example.parsed)
    result = pytester.runpytest_inprocess("-p", "no:asyncio")
    result.assert_outcomes(passed=2, failed=1)
    told = re.findall(r"It fails with::\n\n((?:    .+\n)+)", README.read_text(encoding="utf-8"))
    result.stdout.fnmatch_lines(["*_ test_a_title _*", *textwrap.dedent(told[0]).splitlines()], consecutive=True)

    with pytester.path.joinpath("conftest.py").open("a", encoding="utf-8") as file:
        file.write("def pytest_itemcollected(item):\n    item.add_marker('vcr')\n")
    pytester.runpytest_inprocess("-p", "no:asyncio", "-k", "an_answer", "--record-mode=once").assert_outcomes(passed=1)
    (cassette,) = pytester.path.rglob("*.yaml")
    assert "Plan my day" in cassette.read_text(encoding="utf-8")
    assert "sess-abc1" not in cassette.read_text(encoding="utf-8")


def test_the_readme_has_one_command_to_try_it_and_one_to_test_it() -> None:
    """Other kinds of blocks would run nowhere; .ci/run and nox take these two commands from here."""
    blocks = re.findall(r"\.\. code-block:: (\w+)\n\n    (.+)", README.read_text(encoding="utf-8"))
    assert {kind for kind, _ in blocks} == {"python", "shell"}
    run_example, run_tests = (command for kind, command in blocks if kind == "shell")
    assert run_example.endswith("python examples/agent.py")
    assert run_tests.endswith("python -m pytest")


@pytest.mark.parametrize("name", ["README.rst", "CHANGELOG.rst"])
def test_documents_are_valid_restructured_text(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    docutils.core.publish_doctree(
        text, settings_overrides={"halt_level": 2, "report_level": 2, "syntax_highlight": "none"}
    )


@pytest.mark.parametrize("name", cagent_session.__all__)
def test_the_readme_or_the_changelog_names_every_public_name(name: str) -> None:
    text = README.read_text(encoding="utf-8") + (ROOT / "CHANGELOG.rst").read_text(encoding="utf-8")
    value = getattr(cagent_session, name)
    assert name in text or (isinstance(value, str) and value in text)


@pytest.mark.parametrize("room", ROOMS)
def test_the_docstrings_examples_run(room: str) -> None:
    assert doctest.testmod(importlib.import_module(f"cagent_session.{room}")).failed == 0


def test_the_core_has_examples_to_run() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    rooms = [importlib.import_module(f"cagent_session.{room}") for room in ("context", "gateway", "adapter")]
    assert all(any(test.examples for test in finder.find(room)) for room in rooms)
