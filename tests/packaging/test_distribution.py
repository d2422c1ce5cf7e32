"""Does what is built contain what it should, nothing else, and work?"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = {str(path.relative_to(ROOT / "cagent_session")) for path in (ROOT / "cagent_session").rglob("*.py")}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Build the sdist, and from it the wheel, as an index would get them."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT], check=True)
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


def test_the_wheel_holds_the_package_and_its_licence(built: tuple[Path, Path]) -> None:
    wheel, _ = built
    with zipfile.ZipFile(wheel) as archive:
        names = {name.partition("/")[::2] for name in archive.namelist()}
        metadata = archive.read(next(name for name in archive.namelist() if name.endswith("METADATA"))).decode()
    package = {name for folder, name in names if folder == "cagent_session"}
    assert package == {*MODULES, "py.typed"}
    (dist_info,) = {folder for folder, _ in names} - {"cagent_session"}
    assert {name for folder, name in names if folder == dist_info} == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "licenses/LICENSE",
    }
    assert "Requires-Python: >=3.10\n" in metadata
    assert "License-Expression: Apache-2.0\n" in metadata
    assert {"celery", "opentelemetry", "testing"} <= set(re.findall(r"Provides-Extra: (\w+)\n", metadata))


def test_the_sdist_holds_what_the_tests_need_too(built: tuple[Path, Path]) -> None:
    """Whoever packages it for a distribution runs them from there."""
    _, sdist = built
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tops = {name.partition("/")[0] for name in names}
    assert tops == {
        *("cagent_session", "tests", "examples", "noxfile.py"),
        *("README.rst", "CHANGELOG.rst", "LICENSE", "PKG-INFO", "pyproject.toml", ".gitignore"),
    }
    assert {f"cagent_session/{module}" for module in MODULES} | {"tests/packaging/test_distribution.py"} <= names
    assert not any("__pycache__" in name for name in names)


def test_the_unit_tests_pass_against_the_wheel(built: tuple[Path, Path], tmp_path: Path) -> None:
    wheel, _ = built
    site = tmp_path / "site"
    install: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        site,
        wheel,
    ]
    subprocess.run(install, check=True)
    # Of the checkout only the tests are in reach, and the wheel comes before an installed checkout.
    for name in ("tests", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    where = "import cagent_session; print(cagent_session.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", where], check=True, capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert Path(found.stdout.strip()).is_relative_to(site)
    run_tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit"]
    tested = subprocess.run(run_tests, check=False, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert tested.returncode == 0, tested.stdout
