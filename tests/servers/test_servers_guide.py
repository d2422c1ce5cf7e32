"""Tests of the table in examples/servers/README.rst: the applications have its lines."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
GUIDE = HERE.parents[1] / "examples" / "servers" / "README.rst"
LINES: dict[str, str] = dict(
    re.findall(r"\* - (.+)\n     - ``(.+)``", GUIDE.read_text(encoding="utf-8"))
)
MODULES = {
    "Flask": "flask_app",
    "Django (WSGI)": "django_wsgi",
    "Starlette": "starlette_app",
    "FastAPI": "fastapi_app",
    "Django (ASGI)": "django_asgi",
    "MCP server": "mcp_app",
}


def test_every_line_has_an_application() -> None:
    assert LINES.keys() == {*MODULES, "Any other application of ASGI 3 or WSGI"}


@pytest.mark.parametrize(("framework", "module"), MODULES.items())
def test_an_application_has_the_line_of_its_framework(framework: str, module: str) -> None:
    text = (HERE / f"{module}.py").read_text(encoding="utf-8")
    assert re.search(rf"(?m)^{re.escape(LINES[framework])}( |$)", text)
