"""What do the integrations load, and what do they say where their library is missing?"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys

import pytest


def packages_after(statement: str) -> set[str]:
    """Return the packages that are loaded after *statement* in a fresh interpreter."""
    program = f"{statement}\nimport sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    return {name.partition(".")[0] for name in loaded.stdout.split()}


def test_logging_and_the_package_load_no_integrated_library() -> None:
    loaded = packages_after("import cagent_session, cagent_session.integrations.logging")
    assert "cagent_session" in loaded
    assert not loaded & {"celery", "opentelemetry", "requests", "urllib3"}


@pytest.mark.parametrize(
    ("name", "libraries"),
    [
        ("celery", "celery.signals, kombu.compression, requests"),
        ("opentelemetry", "opentelemetry.sdk.trace"),
    ],
)
def test_an_integration_loads_its_own_library_and_no_other(name: str, libraries: str) -> None:
    beyond = packages_after(f"import cagent_session.integrations.{name}") - packages_after(
        f"import {libraries}"
    )
    assert beyond - sys.stdlib_module_names == {"cagent_session"}


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("celery", "celery"),
        ("opentelemetry", "opentelemetry.context"),
        ("opentelemetry", "opentelemetry.sdk.trace"),
    ],
)
def test_without_the_extra_the_import_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, name: str, missing: str
) -> None:
    module = f"cagent_session.integrations.{name}"
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, module, raising=False)
    problem = rf'{re.escape(missing)}.*: {re.escape(module)} needs pip install "cagent-session\[{name}\]"$'
    with pytest.raises(ImportError, match=problem) as caught:
        importlib.import_module(module)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__, "one traceback is enough"
