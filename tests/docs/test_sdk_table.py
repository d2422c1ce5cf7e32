"""The tables of ``examples/sdks/README.rst`` state what the SDKs' examples and tests show.

The SDKs are not installed here. So this module reads the source of their examples and tests.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import docutils.core
import pytest
from docutils import nodes

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "examples" / "sdks" / "README.rst"
TESTS = ROOT / "tests" / "sdks"
MODULES = sorted(TESTS.glob("on_*/test_*.py"))
PRIVATE = "``_session`` is private. The SDK has no public name for it."

Rows = dict[str, list[nodes.entry]]

each_module = pytest.mark.parametrize("module", MODULES, ids=lambda module: module.stem)


@functools.cache
def tables() -> tuple[Rows, Rows]:
    """Return the rows of the guide's two tables of SDKs, by ``name==version``."""
    document = docutils.core.publish_doctree(
        GUIDE.read_text(encoding="utf-8"), settings_overrides={"syntax_highlight": "none"}
    )
    found: list[Rows] = []
    for table in document.findall(nodes.table):
        head, *rows = [list(row.findall(nodes.entry)) for row in table.findall(nodes.row)]
        if head[0].astext() == "SDK":
            found.append({f"{row[0].astext()}=={row[1].astext()}": row[2:] for row in rows})
    lines, facts = found
    return lines, facts


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def example_of(module: Path) -> Path:
    return GUIDE.with_name(module.name.replace("test_", "with_"))


def sdk_of(module: Path) -> str:
    (sdk,) = re.findall(r'(?m)^SDK = "(.+)"$', module.read_text(encoding="utf-8"))
    return str(sdk)


def functions_in(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def with_bases(module: Path) -> list[Path]:
    """Return *module*, and the modules of tests/sdks that its tests are inherited from."""
    found = [module]
    for path in found:
        names = [n.module for n in ast.walk(tree_of(path)) if isinstance(n, ast.ImportFrom)]
        bases = [TESTS / f"{name}.py" for name in names]
        found += [base for base in bases if base.exists() and base not in found]
    return found


def constants_of(module: Path) -> dict[str, object]:
    """Return what the module's class of tests sets to a constant."""
    (tests,) = (node for node in tree_of(module).body if isinstance(node, ast.ClassDef))
    found: dict[str, object] = {}
    for node in tests.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue  # another expression
    return found


def bare(node: ast.stmt) -> str:
    """Return the text of a statement, or of the expression that it is or returns."""
    if isinstance(node, (ast.Expr, ast.Return)) and node.value is not None:
        return ast.unparse(node.value)
    return ast.unparse(node)


def lines_in(entry: nodes.entry) -> list[str]:
    lines = [literal.astext() for literal in entry.findall(nodes.literal)]
    return [bare(node) for line in lines for node in ast.parse(line).body]


def lines_of_the_client(module: Path) -> list[str]:
    """Return the lines of ``make_client`` that the table shows.

    These are all but the line with the hooks, which the guide explains, those that set a key, and
    a return of what the lines have made.
    """
    (make_client,) = (f for f in functions_in(example_of(module)) if f.name == "make_client")
    returns_a_name = isinstance(make_client.body[-1], ast.Return) and isinstance(
        make_client.body[-1].value, (ast.Name, ast.Tuple)
    )
    lines = map(bare, make_client.body[:-1] if returns_a_name else make_client.body)
    return [line for line in lines if not re.match("hooks = |.*os.environ", line)]


def test_each_sdk_has_a_row_in_each_table_an_example_and_tests() -> None:
    lines, facts = tables()
    assert list(lines) == list(facts)
    assert sorted(lines) == sorted(map(sdk_of, MODULES))
    assert {example_of(module) for module in MODULES} == {*GUIDE.parent.glob("with_*.py")}


def test_the_command_that_installs_an_sdk_names_a_row() -> None:
    installed = re.findall(r'pip install .*"(.+==.+)"', GUIDE.read_text(encoding="utf-8"))
    assert installed
    assert {*installed} <= tables()[0].keys()


@each_module
def test_the_table_names_the_library_that_the_sdk_is_on(module: Path) -> None:
    assert tables()[0][sdk_of(module)][0].astext() == module.parent.name.removeprefix("on_")


@each_module
def test_the_lines_are_those_that_the_tests_and_the_example_run(module: Path) -> None:
    """The table may show lines of ``ask`` as well."""
    shown, client = lines_in(tables()[0][sdk_of(module)][1]), lines_of_the_client(module)
    assert shown[: len(client)] == client
    nodes_of_example = {ast.unparse(n) for n in ast.walk(tree_of(example_of(module)))}
    assert {*shown} <= nodes_of_example
    assert f"example = {example_of(module).stem}" in module.read_text(encoding="utf-8")


@each_module
def test_the_example_has_the_hooks_that_the_guide_explains(module: Path) -> None:
    text = " ".join(GUIDE.read_text(encoding="utf-8").split())
    (shown,) = re.findall(r"``hooks`` is ``(.+?)``", text)
    hooks = {
        ast.unparse(node.value)
        for node in ast.walk(tree_of(example_of(module)))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "hooks"
    }
    expected = set() if module.parent.name == "on_requests" else {shown.replace('"', "'")}
    assert hooks == expected


@each_module
def test_the_notes_are_the_docstrings_of_tests(module: Path) -> None:
    _, lines, notes = tables()[0][sdk_of(module)]
    tests = [f for path in with_bases(module) for f in functions_in(path)]
    expected = [ast.get_docstring(f) for f in tests if f.name.startswith("test_")]
    if re.search(r"\._\w", lines.astext()):
        expected.append(PRIVATE)
    shown = [paragraph.rawsource for paragraph in notes.findall(nodes.paragraph)]
    assert sorted(shown) == sorted(filter(None, expected))


@each_module
def test_the_facts_are_the_constants_of_the_tests(module: Path) -> None:
    """The tests of the contract in tests/sdks check these constants."""
    constants = constants_of(module)
    asynchronous = []
    if any(f.name == "make_async_client" for f in functions_in(example_of(module))):
        asynchronous.append("own lines")
    elif any(re.match("ask_.*async", f.name) for f in functions_in(module)):
        asynchronous.append("the same lines")
    if "async_calls_arrive" in constants:
        prefix = "else " if asynchronous else ""
        asynchronous.append(f"{prefix}{constants['async_calls_arrive']}")
    tries = constants["missing_tries"]
    assert isinstance(tries, tuple)
    expected = [
        ", ".join(asynchronous) or "none",
        str(constants.get("streams_belong", "none")),
        str(constants["missing_raises"]),
        " or ".join(map(str, tries)),
    ]
    assert [entry.astext() for entry in tables()[1][sdk_of(module)]] == expected
