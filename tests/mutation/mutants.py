"""In which small ways is the core changed? By mutmut's operators, and by those that it lacks.

Mutmut's own runner changes no decorated function and nothing outside of functions, and calls the others through a
trampoline, which shows in signatures and on the stack. So only its operators are used.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libcst as cst
from libcst import matchers as m
from libcst.metadata import MetadataWrapper, PositionProvider, WhitespaceInclusivePositionProvider
from mutmut.mutation.mutators import mutation_operators, operator_if_exp

Change = tuple[Any, Any]  # a node, and what takes its place, if anything

TYPES = {"F", "HeaderValue", "Missing", "Origin", "P", "R", "S", "Scopes", "SessionIdOf", "Stamp"}
NOT_CHANGED = m.OneOf(
    m.Annotation(),  # read by type checkers only, as the next three are
    m.If(m.Name("TYPE_CHECKING")),
    m.FunctionDef(decorators=[m.Decorator(m.Name("overload"))]),
    m.SimpleStatementLine([m.Assign([m.AssignTarget(m.Name(m.MatchIfTrue(TYPES.__contains__)))])]),
)
WORDING = m.Arg(m.SimpleString())  # of an error: the tests pin what matters in it
TEXT = m.OneOf(m.SimpleString(), m.FormattedString(), m.ConcatenatedString())


def conditions(node: Any) -> Iterator[Change]:
    """Take one way, whatever the condition is."""
    if not m.matches(node.test, m.Name("True")):
        yield from ((node.test, changed.test) for changed in operator_if_exp(node))


def operands(node: Any) -> Iterator[Change]:
    """Leave out one side of ``and`` or ``or``."""
    yield from ((node, node.left), (node, node.right))


def elements(node: Any) -> Iterator[Change]:
    """Leave out one element of a list, a tuple, a set or a dict."""
    for index in range(len(node.elements)):
        yield node, node.with_changes(elements=[*node.elements[:index], *node.elements[index + 1 :]])


def statements(node: Any) -> Iterator[Change]:
    """Leave out a statement that binds no name."""
    if m.matches(node, m.Raise() | m.Del() | m.Return(None)) or (
        m.matches(node, m.Expr()) and not m.matches(node.value, TEXT | m.Ellipsis())
    ):
        yield node, cst.Pass()


def results(node: Any) -> Iterator[Change]:
    """Return nothing."""
    if node.value is not None and not m.matches(node.value, m.Name("None")):
        yield node.value, cst.Name("None")


def decorators(node: Any) -> Iterator[Change]:
    """Leave out a decorator."""
    yield from ((decorator, None) for decorator in node.decorators)


def handlers(node: Any) -> Iterator[Change]:
    """Catch nothing."""
    yield node.type, cst.Tuple([])


def contexts(node: Any) -> Iterator[Change]:
    """Enter no context."""
    for item in node.items:
        yield item.item, cst.parse_expression('__import__("contextlib").nullcontext()')


OPERATORS: list[tuple[Any, Callable[[Any], Iterator[Change]]]] = [
    ((cst.If, cst.While, cst.CompIf), conditions),
    (cst.BooleanOperation, operands),
    ((cst.Dict, cst.List, cst.Set, cst.Tuple), elements),
    (cst.BaseSmallStatement, statements),
    (cst.Return, results),
    ((cst.FunctionDef, cst.ClassDef), decorators),
    (cst.ExceptHandler, handlers),
    (cst.With, contexts),
]


@dataclass(frozen=True)
class Mutant:
    """A module with one change. Its key tells it from all others, also when lines move."""

    path: Path
    place: str  # the module and the function
    before: str
    after: str
    text: str
    lines: range  # of the statement, in the unchanged module
    body: range  # of the function; none where there is none

    @property
    def key(self) -> tuple[str, str, str]:
        return self.place, self.before, self.after


def changes(node: Any) -> Iterator[Change]:
    for kind, mutmuts in mutation_operators:
        if isinstance(node, kind):
            yield from ((node, changed) for changed in mutmuts(node))
    for kinds, ours in OPERATORS:
        if isinstance(node, kinds):
            yield from ours(node)


class Source:
    """A module of the core, and where its parts are."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = path.read_text(encoding="utf-8")
        wrapper = MetadataWrapper(cst.parse_module(self.text))
        self.module = wrapper.module
        self._wording = {text for error in m.findall(self.module, m.Raise()) for text in m.findall(error, WORDING)}
        self._spans = wrapper.resolve(WhitespaceInclusivePositionProvider)
        self._positions = wrapper.resolve(PositionProvider)
        self._line_starts = [0, *itertools.accumulate(map(len, self.text.splitlines(keepends=True)))]

    def mutants(self) -> Iterator[Mutant]:
        """Yield every mutant that compiles."""
        seen = {self.text}
        for mutant in self._walk(self.module, self.path.stem, range(0), range(0)):
            if mutant.text not in seen and compiles(mutant.text):
                seen.add(mutant.text)
                yield mutant

    def _walk(self, node: Any, place: str, lines: range, body: range) -> Iterator[Mutant]:
        if m.matches(node, NOT_CHANGED) or node in self._wording:
            return
        if isinstance(node, (cst.BaseCompoundStatement, cst.BaseSmallStatement, cst.ExceptHandler)):
            lines = self._lines_of(node)
        if isinstance(node, (cst.FunctionDef, cst.ClassDef)):
            place = f"{place}.{node.name.value}"
        if isinstance(node, cst.FunctionDef):
            body = range(self._positions[node.body].start.line, self._positions[node].end.line + 1)
        for old, new in changes(node):
            text = self._changed(old, new)
            yield Mutant(self.path, place, *difference(self.text, text), text, lines, body)
        for child in node.children:
            yield from self._walk(child, place, lines, body)

    def _lines_of(self, node: Any) -> range:
        """Return the lines of a statement, without those of its body."""
        start, end = self._positions[node].start.line, self._positions[node].end.line + 1
        return range(start, max(self._positions[node.body].start.line, start + 1) if hasattr(node, "body") else end)

    def _changed(self, old: Any, new: Any) -> str:
        start, end = (
            self._line_starts[at.line - 1] + at.column for at in (self._spans[old].start, self._spans[old].end)
        )
        return self.text[:start] + ("" if new is None else self.module.code_for_node(new)) + self.text[end:]


def compiles(text: str) -> bool:
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


def difference(old: str, new: str) -> tuple[str, str]:
    """Return the lines that differ, before and after, each in one line."""
    before, after = old.splitlines(), new.splitlines()
    while before and after and before[0] == after[0]:
        del before[0], after[0]
    while before and after and before[-1] == after[-1]:
        del before[-1], after[-1]
    return " ".join(" ".join(before).split()), " ".join(" ".join(after).split())
