"""Tests of the built distributions: they hold the right files, and they work."""

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
MODULES = {
    str(path.relative_to(ROOT / "cagent_session"))
    for path in (ROOT / "cagent_session").rglob("*.py")
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Build the sdist, and build the wheel from it."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT], check=True
    )
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


def test_the_wheel_holds_the_package_and_its_licence(built: tuple[Path, Path]) -> None:
    wheel, _ = built
    with zipfile.ZipFile(wheel) as archive:
        names = {name.partition("/")[::2] for name in archive.namelist()}
        metadata = archive.read(
            next(name for name in archive.namelist() if name.endswith("METADATA"))
        ).decode()
    package = {name for folder, name in names if folder == "cagent_session"}
    assert package == {*MODULES, "py.typed"}
    (dist_info,) = {folder for folder, _ in names} - {"cagent_session"}
    assert {name for folder, name in names if folder == dist_info} == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "licenses/LICENSE",
    }
    assert "Requires-Python: >=3.10\n" in metadata
    assert "License-Expression: Apache-2.0\n" in metadata
    assert {"celery", "opentelemetry", "testing"} <= set(
        re.findall(r"Provides-Extra: (\w+)\n", metadata)
    )


def test_the_sdist_also_holds_what_the_tests_need(built: tuple[Path, Path]) -> None:
    """Packagers of Linux distributions run the tests from the sdist."""
    _, sdist = built
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tops = {name.partition("/")[0] for name in names}
    assert tops == {
        *("cagent_session", "tests", "examples", "noxfile.py"),
        *("README.rst", "CHANGELOG.rst", "LICENSE", "PKG-INFO", "pyproject.toml", ".gitignore"),
    }
    assert {f"cagent_session/{module}" for module in MODULES} | {
        "tests/packaging/test_distribution.py"
    } <= names
    assert not any("__pycache__" in name for name in names)


@pytest.fixture(scope="module")
def environment(
    built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Install the wheel in a folder. Return environment variables that make it come first."""
    site = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(site), str(built[0])], check=True)
    return {**os.environ, "PYTHONPATH": str(site)}


def run(
    *command: str, folder: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    python = [sys.executable, *command]
    return subprocess.run(
        python, check=False, capture_output=True, text=True, cwd=folder, env=environment
    )


def test_the_installed_package_is_complete(environment: dict[str, str], tmp_path: Path) -> None:
    """The tests of the package's names pass. They can't import the package of the checkout."""
    for name in ("tests", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    found = run(
        "-c",
        "import cagent_session; print(cagent_session.__file__)",
        folder=tmp_path,
        environment=environment,
    )
    assert Path(found.stdout.strip()).is_relative_to(environment["PYTHONPATH"])
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit/test_package.py")
    tested = run(*command, folder=tmp_path, environment=environment)
    assert tested.returncode == 0, tested.stdout


def test_importing_the_package_before_pytest_causes_no_warning(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """By default, pytest warns if a plugin was imported too early to rewrite its assertions."""
    (tmp_path / "test_it.py").write_text("def test_it(session_id): pass")
    program = "import cagent_session, pytest; pytest.main(['-p', 'no:asyncio'])"
    ran = run("-c", program, folder=tmp_path, environment=environment)
    assert re.search(r"^=+ 1 passed in .*=$", ran.stdout, re.MULTILINE), ran.stdout


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="pytest 6 does not run on Python 3.14")
def test_pytest_6_starts_beside_the_package(built: tuple[Path, Path], tmp_path: Path) -> None:
    """The plugin needs pytest 7. With an older one it must do nothing."""
    site = str(tmp_path / "site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", site]
    pytest_6 = [*pip, "pytest==6.2.5"]
    installed = subprocess.run(pytest_6, check=False, capture_output=True, text=True)
    if installed.returncode and not os.environ.get("CI"):
        pytest.skip(f"pytest 6 comes from the package index: {installed.stderr}")
    subprocess.run([*pip, "--no-deps", "--no-index", str(built[0])], check=True)
    (tmp_path / "test_it.py").write_text("def test_it(): pass")
    # Without this file, pytest would use that of a folder above.
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    program = (
        f"import sys; sys.path.insert(0, {site!r}); import pytest; pytest.main(['test_it.py'])"
    )
    # Without -S the plugins that are installed beside the newer pytest would be loaded.
    ran = run("-S", "-c", program, folder=tmp_path, environment={"PATH": os.environ["PATH"]})
    assert "pytest-6.2.5" in ran.stdout, ran.stderr
    assert "plugins: cagent-session" in ran.stdout
    assert "1 passed" in ran.stdout
