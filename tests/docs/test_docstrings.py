"""The examples in docstrings run, and the documents name everything that is public."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import cagent_session

ROOT = Path(__file__).parents[2]
MODULES = [
    module.name
    for module in pkgutil.walk_packages(cagent_session.__path__, "cagent_session.")
    if not module.name.endswith("__main__")
]
WITH_EXAMPLES = ["context", "gateway", "headers", "mounting", "explaining", "carrying"]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("name", [*WITH_EXAMPLES, "transports.httpx"])
def test_the_core_has_examples(name: str) -> None:
    module = importlib.import_module(f"cagent_session.{name}")
    assert any(test.examples for test in doctest.DocTestFinder().find(module))


@pytest.mark.parametrize("name", cagent_session.__all__)
def test_the_readme_or_the_changelog_names_it(name: str) -> None:
    text = "".join((ROOT / path).read_text("utf-8") for path in ("README.rst", "CHANGELOG.rst"))
    value = getattr(cagent_session, name)
    assert name in text or (isinstance(value, str) and value in text)
