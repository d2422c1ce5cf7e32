"""What the documentation shows works: its examples run, and its texts are valid."""

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
import requests
import responses
from sybil.document import Document
from sybil.parsers.rest import PythonCodeBlockParser

import cagent_session
from cagent_session import gateway_headers, mount, session_scope

ROOT = Path(__file__).parents[2]
README = ROOT / "README.rst"
FILE = re.compile(r"# (\w+\.py)\n").match
LITERAL_BLOCK = r"::\n\n((?:    .+\n)+)"
MODULES = [
    *("context", "session_id", "gateway", "headers", "mounting", "explaining", "carrying"),
    *("transports.requests", "transports.httpx", "testing.models_gateway"),
    *("integrations.celery", "integrations.logging", "integrations.opentelemetry"),
]


def shown_after(words: str) -> str:
    """Return the one block of literal text that follows *words* in the README."""
    (block,) = re.findall(words + LITERAL_BLOCK, README.read_text(encoding="utf-8"))
    return textwrap.dedent(str(block))


@pytest.fixture(autouse=True)
def own_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide pytest's handlers from dictConfig.

    It closes every handler that it finds, also that of ``--log-file``.
    """
    monkeypatch.setattr(logging, "_handlers", weakref.WeakValueDictionary())
    monkeypatch.setattr(logging, "_handlerList", [])


def test_the_readmes_python_blocks_run_and_print_what_it_shows(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """They run in their order, in one namespace, as a reader pastes them."""
    examples = list(Document.parse(str(README), PythonCodeBlockParser()).examples())
    for example in examples:
        if not FILE(example.parsed):
            example.evaluate()
    text = README.read_text(encoding="utf-8")
    assert len(examples) == text.count(".. code-block:: python")
    assert capsys.readouterr().out.split() == shown_after("It prints").split()


def test_the_log_has_the_lines_that_the_readme_shows(caplog: pytest.LogCaptureFixture) -> None:
    gateway, chat = "https://gateway.example", "/v1/chat/completions"
    marker = gateway_headers("https://api.openai.com/v1")
    moved = {"Location": "https://other.example/v1/files/1"}
    with (
        caplog.at_level(logging.DEBUG, "cagent_session"),
        responses.RequestsMock() as mock,
        mount(requests.Session(), gateway) as session,
    ):
        mock.post(gateway + chat)
        mock.get(f"{gateway}/v1/models")
        mock.post(f"http://gateway.example{chat}")
        mock.get(f"{gateway}/v1/files/1", status=307, headers=moved)
        mock.get(moved["Location"])
        with session_scope("sess-1"):
            session.post(gateway + chat, headers=marker)
        session.post(gateway + chat, headers=marker)
        with session_scope("sess-1"):
            session.get(f"{gateway}/v1/models")
            session.post(f"http://gateway.example{chat}", headers=marker)
            session.get(f"{gateway}/v1/files/1", headers=marker)
            session.get(moved["Location"])
    logged = [record.getMessage() for record in caplog.records if record.name == "cagent_session"]
    assert logged == shown_after("log has lines such as these").splitlines()


def test_the_readmes_tests_run_and_find_the_forgotten_session(pytester: pytest.Pytester) -> None:
    """These are the blocks that begin with the name of a file. A file may come in parts."""
    for example in Document.parse(str(README), PythonCodeBlockParser()).examples():
        if name := FILE(example.parsed):
            with pytester.path.joinpath(name[1]).open("a", encoding="utf-8") as file:
                file.write(example.parsed)
    result = pytester.runpytest_inprocess("-p", "no:asyncio")
    result.assert_outcomes(passed=2, failed=1)
    failure = ["*_ test_a_title _*", *shown_after("It fails with").splitlines()]
    result.stdout.fnmatch_lines(failure, consecutive=True)

    with pytester.path.joinpath("conftest.py").open("a", encoding="utf-8") as file:
        file.write("def pytest_itemcollected(item):\n    item.add_marker('vcr')\n")
    pytester.runpytest_inprocess(
        "-p", "no:asyncio", "-k", "an_answer", "--record-mode=once"
    ).assert_outcomes(passed=1)
    (cassette,) = pytester.path.rglob("*.yaml")
    assert "Plan my day" in cassette.read_text(encoding="utf-8")
    assert "sess-abc1" not in cassette.read_text(encoding="utf-8")


def test_the_readme_has_one_command_to_try_it_and_one_to_test_it() -> None:
    """Nothing would run other kinds of blocks. .ci/run and nox read these two commands."""
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


@pytest.mark.parametrize("name", MODULES)
def test_the_docstrings_examples_run(name: str) -> None:
    module = importlib.import_module(f"cagent_session.{name}")
    assert doctest.testmod(module).failed == 0


def test_every_module_with_examples_is_run() -> None:
    package = Path(cagent_session.__file__).parent
    with_examples = {
        ".".join(path.relative_to(package).with_suffix("").parts)
        for path in package.rglob("*.py")
        if ">>> " in path.read_text(encoding="utf-8")
    }
    assert with_examples <= {*MODULES}


@pytest.mark.parametrize(
    "name",
    ["context", "gateway", "headers", "mounting", "explaining", "carrying", "transports.httpx"],
)
def test_the_core_has_examples_to_run(name: str) -> None:
    module = importlib.import_module(f"cagent_session.{name}")
    finder = doctest.DocTestFinder(exclude_empty=True)
    assert any(test.examples for test in finder.find(module))
