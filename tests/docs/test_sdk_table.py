"""The README's table of provider SDKs shows the lines that their tests and examples run."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import docutils.core
import pytest
from docutils import nodes

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "tests" / "sdks").glob("on_*/test_*.py"))


@functools.cache
def rows() -> dict[str, list[nodes.entry]]:
    """Return the cells of the table, by ``name==version``."""
    document = docutils.core.publish_doctree((ROOT / "README.rst").read_text(encoding="utf-8"))
    for table in document.findall(nodes.table):
        cells = [list(row.findall(nodes.entry)) for row in table.findall(nodes.row)]
        if cells[0][0].astext() == "SDK":
            return {f"{row[0].astext()}=={row[1].astext()}": row for row in cells[1:]}
    raise AssertionError("there is no such table")


def pin_of(module: Path) -> str:
    (pin,) = re.findall(r'(?m)^SDK = "(.+)"$', module.read_text(encoding="utf-8"))
    return str(pin)


def example_of(module: Path) -> Path:
    return ROOT / "examples" / "sdks" / module.name.replace("test_", "with_")


def nodes_in(path: Path) -> set[str]:
    return {ast.dump(node) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))}


def test_each_sdk_has_one_row_and_one_module() -> None:
    assert sorted(rows()) == sorted(map(pin_of, MODULES))


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.stem)
def test_the_transport_is_that_of_the_modules_folder(module: Path) -> None:
    assert rows()[pin_of(module)][2].astext() == module.parent.name.removeprefix("on_")


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.stem)
def test_the_lines_are_what_the_tests_and_the_example_run(module: Path) -> None:
    shown = lines_of(module)
    assert shown
    assert shown <= nodes_in(module)
    assert shown <= nodes_in(example_of(module))


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.stem)
def test_the_lines_are_all_that_it_takes(module: Path) -> None:
    """The tests' client is made of these lines, and of the hooks that the README's text shows."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    (client,) = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == "client"
    )
    hooks = [
        node
        for node in client.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "hooks"
    ]
    returned = [
        node
        for node in client.body
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Name)
    ]
    lines = [node for node in client.body if node not in [*hooks, *returned]]
    assert {ast.dump(bare(node)) for node in lines} <= lines_of(module)


def lines_of(module: Path) -> set[str]:
    lines = [literal.astext() for literal in rows()[pin_of(module)][3].findall(nodes.literal)]
    return {ast.dump(bare(node)) for line in lines for node in ast.parse(line).body}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.stem)
def test_the_hooks_of_the_example_are_those_that_the_readme_shows(module: Path) -> None:
    text = " ".join((ROOT / "README.rst").read_text(encoding="utf-8").split())
    (shown,) = re.findall(r"``hooks`` is ``(.+?)``", text)
    tree = ast.parse(example_of(module).read_text(encoding="utf-8"))
    hooks = [
        ast.unparse(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "hooks"
    ]
    expected = [] if module.parent.name == "on_requests" else [shown]
    assert hooks == [ast.unparse(ast.parse(hook)) for hook in expected]


def bare(node: ast.stmt) -> ast.AST:
    """Return the expression of a statement that is one, or that returns one."""
    return node.value if isinstance(node, (ast.Expr, ast.Return)) and node.value else node


def test_each_example_of_an_sdk_belongs_to_a_module() -> None:
    examples = {
        path.stem.removeprefix("with_") for path in (ROOT / "examples" / "sdks").glob("with_*.py")
    }
    assert examples == {module.stem.removeprefix("test_") for module in MODULES}
