"""Tests of the integrations: which libraries they load, and the error if one is missing."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys

import pytest


def packages_after(statement: str) -> set[str]:
    """Return the packages that are loaded after *statement* in a fresh interpreter."""
    program = f"{statement}\nimport sys; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", program], text=True)
    return {name.partition(".")[0] for name in loaded.split()}


def test_the_package_and_the_logging_filter_load_no_other_library() -> None:
    loaded = packages_after("import cagent_session, cagent_session.integrations.logging")
    assert "cagent_session" in loaded
    assert not loaded & {"celery", "opentelemetry", "requests", "urllib3"}


@pytest.mark.parametrize(
    ("name", "libraries"),
    [
        ("celery", "celery.signals, kombu.compression, requests"),
        ("dramatiq", "dramatiq"),
        ("opentelemetry", "opentelemetry.sdk.trace"),
    ],
)
def test_an_integration_loads_its_own_library_and_no_other(name: str, libraries: str) -> None:
    loaded = packages_after(f"import cagent_session.integrations.{name}")
    others = loaded - packages_after(f"import {libraries}") - sys.stdlib_module_names
    assert others == {"cagent_session"}


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("celery", "celery"),
        ("dramatiq", "dramatiq"),
        ("opentelemetry", "opentelemetry.context"),
        ("opentelemetry", "opentelemetry.sdk.trace"),
    ],
)
def test_without_the_extra_the_import_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, name: str, missing: str
) -> None:
    module = f"cagent_session.integrations.{name}"
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, module, raising=False)
    needed = re.escape(f'{module} needs pip install "cagent-session[{name}]"')
    problem = rf"{re.escape(missing)}.*: {needed}$"
    with pytest.raises(ImportError, match=problem) as caught:
        importlib.import_module(module)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__, "one traceback is enough"
