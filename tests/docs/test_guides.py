"""The README and the guides are true: their examples run, and what they name exists."""

from __future__ import annotations

import logging
import os
import re
import sys
import textwrap
import weakref
from collections.abc import Iterator
from pathlib import Path

import docutils.core
import pytest
from docutils import nodes
from sybil.document import Document
from sybil.example import Example
from sybil.parsers.rest import PythonCodeBlockParser

# Import it before a test with pytester does. After such a test, pytester removes new modules from
# sys.modules. A later import makes them again, but dictConfig would find the old package.
import cagent_session.integrations.logging  # noqa: F401
from cagent_session import uninstrument

ROOT = Path(__file__).parents[2]
README = ROOT / "README.rst"
GUIDES = sorted(path for name in ("examples", "tests") for path in ROOT.glob(f"{name}/**/*.rst"))
DOCUMENTS = [README, ROOT / "CHANGELOG.rst", *GUIDES]

every_document = pytest.mark.parametrize(
    "path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


@pytest.fixture(autouse=True)
def undo_what_blocks_change() -> Iterator[None]:
    """Put back the environment and the clients. Hide pytest's handlers: dictConfig closes all."""
    environment = dict(os.environ)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging, "_handlers", weakref.WeakValueDictionary())
        patch.setattr(logging, "_handlerList", [])
        yield
    uninstrument()
    os.environ.clear()
    os.environ.update(environment)


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def python_blocks(path: Path) -> list[Example]:
    blocks = list(Document.parse(str(path), PythonCodeBlockParser()).examples())
    assert len(blocks) == text_of(path).count(".. code-block:: python")
    return blocks


def file_name(block: Example) -> str:
    """Return the name in a block's first line, ``# agent.py``, or an empty text."""
    found = re.match(r"# (\w+\.py)\n", block.parsed)
    return str(found[1]) if found else ""


def is_for_pytest(block: Example) -> bool:
    return file_name(block).startswith(("test_", "conftest"))


@every_document
def test_python_blocks_run_in_order(
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """They share one namespace, as if a reader pasted them into one program.

    A block that is imported by others, by the file's name in its first line, is a file instead.
    """
    monkeypatch.syspath_prepend(tmp_path)
    for block in python_blocks(path):
        module = file_name(block).removesuffix(".py")
        if module and f"from {module} import" in text_of(path):
            (tmp_path / file_name(block)).write_text(block.parsed, encoding="utf-8")
            monkeypatch.delitem(sys.modules, module, raising=False)
        elif not is_for_pytest(block):
            block.evaluate()
    printed = capsys.readouterr().out
    shown = re.findall(r"(?m)^It prints::\n\n((?:    .+\n|\n)+)", text_of(path))
    if shown:
        assert printed.split() == textwrap.dedent("".join(shown)).split()
    for comment in re.findall(r"(?m)^ +print\(.+\)  # (.+)$", text_of(path)):
        assert comment in printed


def test_the_readmes_tests_find_the_call_in_no_session(pytester: pytest.Pytester) -> None:
    for block in python_blocks(README):
        if file_name(block):
            (pytester.path / file_name(block)).write_text(block.parsed, encoding="utf-8")
    result = pytester.runpytest_inprocess("-p", "no:asyncio")
    result.assert_outcomes(passed=1, failed=1, errors=1)
    result.stdout.fnmatch_lines(["ERROR test_agent.py::test_a_title - Failed: 1 call reached*"])


def test_the_readme_is_short() -> None:
    assert len(text_of(README).splitlines()) <= 260


def test_the_readme_begins_with_two_commands() -> None:
    """.ci/run and nox run these two, word for word."""
    run_example, run_tests, *_ = re.findall(r"code-block:: shell\n\n    (.+)", text_of(README))
    assert run_example.endswith("python examples/agent.py")
    assert run_tests.endswith("python -m pytest -n auto")


@every_document
def test_the_text_is_valid(path: Path) -> None:
    kinds = set(re.findall(r"code-block:: (\w+)", text_of(path)))
    assert kinds <= {"python", "shell"}
    parsed(path)


@every_document
def test_links_lead_to_files(path: Path) -> None:
    assert [link for link in links(path) if not (path.parent / link).is_file()] == []


def test_the_readme_leads_to_every_guide() -> None:
    reached, found = set[Path](), [README]
    while found:
        path = found.pop()
        if path not in reached and path.suffix == ".rst":
            reached.add(path)
            found += [(path.parent / link).resolve() for link in links(path)]
    assert set(DOCUMENTS) <= reached


def links(path: Path) -> list[str]:
    targets = [str(node.get("refuri", "")) for node in parsed(path).findall(nodes.reference)]
    return [target for target in targets if target and "://" not in target]


def parsed(path: Path) -> nodes.document:
    settings = {"halt_level": 2, "report_level": 2, "syntax_highlight": "none"}
    return docutils.core.publish_doctree(text_of(path), settings_overrides=settings)


@every_document
def test_the_named_files_sessions_and_extras_exist(path: Path) -> None:
    text, noxfile = text_of(path), text_of(ROOT / "noxfile.py")
    files = re.findall(r"\b(?:examples|tests|cagent_session)/[\w/.]*\w", text)
    commands = re.findall(r"nox -s ((?:[a-z][\w.-]*[ \n]?)+)", text)
    sessions = [name for command in commands for name in command.split()]
    extras = [
        extra
        for names in re.findall(r'(?:\.|checkout)\[([\w,]+)\]"', text)
        for extra in names.split(",")
    ]
    functions = {name.replace("_", "-") for name in re.findall(r"\ndef (\w+)\(session", noxfile)}
    assert [name for name in files if not (ROOT / name).exists()] == []
    assert {session.partition("-3")[0] for session in sessions} <= functions
    declared = re.findall(r"(?m)^(\w+) = \[", text_of(ROOT / "pyproject.toml"))
    assert set(extras) <= set(declared)
