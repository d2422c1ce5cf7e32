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
MODULES = sorted(
    path for path in TESTS.glob("on_*/test_*.py") if "\nSDK = " in path.read_text("utf-8")
)
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


def class_of_tests(module: Path) -> ast.ClassDef:
    classes = [node for node in tree_of(module).body if isinstance(node, ast.ClassDef)]
    (tests,) = (node for node in classes if node.name.startswith("Test"))
    return tests


def asynchronous_ways(module: Path) -> set[str]:
    """Return the names of the asynchronous ways to call, also those that are inherited."""
    bodies = [node for path in with_bases(module) for node in tree_of(path).body]
    bases = {node.name: node for node in bodies if isinstance(node, ast.ClassDef)}
    found, classes = set[str](), [class_of_tests(module)]
    for tests in classes:
        functions = [node for node in tests.body if isinstance(node, ast.AsyncFunctionDef)]
        found |= {f.name for f in functions if f.name.startswith(("ask_", "stream_"))}
        names = [base.id for base in tests.bases if isinstance(base, ast.Name)]
        classes += [bases[name] for name in names if name in bases]
    return found


def constants_of(module: Path) -> dict[str, object]:
    """Return what the module's class of tests sets to a constant."""
    found: dict[str, object] = {}
    for node in class_of_tests(module).body:
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


def lines_of(function: str, module: Path) -> list[str]:
    """Return the lines of a *function* of the example that the table shows, or none without it.

    These are all but the line with the hooks, which the guide explains, those that set a key, and
    a return of what the lines have made.
    """
    found = [f.body for f in functions_in(example_of(module)) if f.name == function]
    body = found[0] if found else []
    end = body[-1] if body else None
    if isinstance(end, ast.Return) and isinstance(end.value, (ast.Name, ast.Tuple)):
        body = body[:-1]
    return [line for line in map(bare, body) if not re.match("hooks = |.*os.environ", line)]


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
    """It is in the name of the folder: ``on_httpx`` or, for other pins, ``on_httpx_too``."""
    assert tables()[0][sdk_of(module)][0].astext() == module.parent.name.split("_")[1]


@each_module
def test_the_lines_are_those_that_the_tests_and_the_example_run(module: Path) -> None:
    """The table may show lines of ``ask`` as well."""
    nodes_of_example = {ast.unparse(n) for n in ast.walk(tree_of(example_of(module)))}
    assert f"example = {example_of(module).stem}" in module.read_text(encoding="utf-8")
    _, plain, own, _ = tables()[0][sdk_of(module)]
    for entry, function in ((plain, "make_plain_client"), (own, "make_client")):
        shown, client = lines_in(entry), lines_of(function, module)
        assert shown[: len(client)] == client
        assert {*shown} <= nodes_of_example
    assert lines_in(plain)
    has_own_lines = constants_of(module).get("lines") != ("instrument",)
    assert has_own_lines == bool(lines_in(own)) == (own.astext() != "none")


@each_module
def test_the_example_has_the_hooks_that_the_guide_explains(module: Path) -> None:
    text = " ".join(GUIDE.read_text(encoding="utf-8").split())
    (shown,) = re.findall(r"``hooks`` is ``(.+?)``", text)
    hooks = {
        ast.unparse(node.value)
        for node in ast.walk(tree_of(example_of(module)))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "hooks"
    }
    uses_hooks = "hooks" in tables()[0][sdk_of(module)][2].astext()
    assert hooks == ({shown.replace('"', "'")} if uses_hooks else set())


@each_module
def test_the_notes_are_the_docstrings_of_tests(module: Path) -> None:
    _, _, lines, notes = tables()[0][sdk_of(module)]
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
    only_instrumented = constants.get("only_instrumented", ())
    assert isinstance(only_instrumented, tuple)
    ways = asynchronous_ways(module)
    asynchronous = []
    if constants.get("lines") == ("instrument",):
        asynchronous += ["instrument"] if ways else []
    elif any(f.name == "make_async_client" for f in functions_in(example_of(module))):
        asynchronous.append("own lines")
    elif ways - {*only_instrumented}:
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
