"""The cells of examples/notebooks/README.rst, run as notebooks on ipykernel."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from cagent_session import gateway_headers
from cagent_session.testing import ModelsGateway

GUIDE = Path(__file__).parents[2] / "examples" / "notebooks" / "README.rst"
TEXT = GUIDE.read_text(encoding="utf-8")
BLOCK = r"((?:    .+\n|\n)+)"
(KERNEL,) = re.findall(rf"--user``::\n\n{BLOCK}", TEXT)
SETUP, *CELLS = map(
    textwrap.dedent, re.findall(rf"(?m)^(?:\.\. code-block:: python|::)\n\n{BLOCK}", TEXT)
)
# The cells of each row of the table, and the session of their call.
ROWS = [
    (re.findall("``(.+?)``", cells), None if session == "none" else session)
    for cells, session in re.findall(r"(?s)\* - (``.+?)\n     - (none|session-\d)", TEXT)
]

# The last cell: wait for the calls of threads and tasks, and print the session of each call.
REPORT = """
import json, time
end = time.monotonic() + 30
while len(gateway.calls) < {calls} and time.monotonic() < end:
    await sleep(0.01)
gateway.stop()
print(json.dumps([call.session_id for call in gateway.calls]))
"""


@pytest.fixture(autouse=True)
def jupyter_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path


def sessions_of_calls(cells: list[str], *, calls: int, kernel: str = "python3") -> list[Any]:
    """Run a notebook of the guide's first cell and *cells*. Return the session of each call."""
    sources = [SETUP, *cells, REPORT.format(calls=calls)]
    notebook = nbformat.v4.new_notebook(cells=[*map(nbformat.v4.new_code_cell, sources)])
    NotebookClient(notebook, kernel_name=kernel, timeout=60).execute()
    (output,) = (each for each in notebook.cells[-1].outputs if each.name == "stdout")
    return list(json.loads(output.text))


def test_the_cells_of_the_guide_call_in_the_sessions_that_they_name() -> None:
    expected = ["session-1", "session-1", "session-2"]
    assert sessions_of_calls(CELLS, calls=3) == expected


def test_each_row_of_the_table_has_a_test() -> None:
    assert len(ROWS) == TEXT.count("   * - ") - 1


@pytest.mark.parametrize(("cells", "session_id"), ROWS)
def test_the_table_states_the_session_of_the_call(cells: list[str], session_id: str | None) -> None:
    assert sessions_of_calls(cells, calls=1) == [session_id]


def test_a_thread_needs_carry_session() -> None:
    ((cell,),) = (cells for cells, _ in ROWS if "Thread" in cells[0])
    carried = cell.replace("target=ask", "target=carry_session(ask)")
    assert sessions_of_calls([carried], calls=1) == ["session-7"]


def test_all_calls_of_a_kernel_are_in_its_session(jupyter_folder: Path) -> None:
    folder = jupyter_folder / "kernels" / "agent"
    folder.mkdir(parents=True)
    headers = gateway_headers("https://api.openai.com/v1")
    with ModelsGateway() as gateway:
        kernel = KERNEL.replace("https://gateway.example", gateway.url)
        (folder / "kernel.json").write_text(kernel, encoding="utf-8")
        url = f"{gateway.url}/v1/models"
        cells = [
            "ask('Hello')",
            "await to_thread(ask, 'Hello')",
            "Thread(target=ask, args=['Hello']).start()",
            f"requests.get({url!r}, headers={headers!r})",  # not mounted
        ]
        assert sessions_of_calls(cells, calls=3, kernel="agent") == ["session-3"] * 3
        assert [call.session_id for call in gateway.calls] == ["session-3"]
