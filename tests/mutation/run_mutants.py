"""Does a test fail, whatever is changed in the core? ``python tests/mutation/run_mutants.py FOLDER [MODULE ...]``

A clean run tells which tests run which lines, and how long each takes. Then each mutant is written to a copy of the
package in FOLDER, and imported by a process that forks where all else has been. It runs the tests of the changed
lines, file by file and the quickest first, until one fails. Where none does, ``equivalent.toml`` has to say why.
"""

from __future__ import annotations

import compileall
import gc
import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import NoReturn

import coverage
import pytest
import tomllib
from hypothesis import Phase, settings
from mutants import Mutant, Source

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CORE = ["__init__", "session_id", "context", "gateway", "hooks", "adapter"]
TESTS = [  # these suffice, and are quick
    *(f"tests/unit/test_{name}.py" for name in ("package", "session_id", "scopes", "in_session", "carrying")),
    *("tests/unit/test_gateway.py", "tests/unit/test_hooks.py", "tests/unit/test_adapter.py"),
    *("tests/unit/test_stored_headers.py", "tests/integration/test_requests.py"),
    "tests/integration/test_rule.py::test_missing_session_can_be_warned_of",
    "tests/integration/test_opentelemetry_requests.py::test_the_warning_of_a_missing_session_points_at_the_caller",
]
OPTIONS = ["-x", "-q", "--tb=native", "--assert=plain", "-pno:cacheprovider"]
PATIENCE = 10  # a test may compute for that many times as long as in the clean run, and may wait for ten times that

Key = tuple[str, str, str]


@dataclass(frozen=True)
class CleanRun:
    """What the tests do where nothing is changed."""

    duration: float
    times: dict[str, float]  # of each test
    lines: dict[str, dict[str, list[str]]]  # the tests that run them, by module and number; "" for those at import
    loaded: list[str]  # the modules that are not ours

    def tests_of(self, mutant: Mutant) -> set[str]:
        """Return the tests that run the changed statement, or else its function; all for what runs at import."""
        lines = self.lines[mutant.path.stem]
        for numbers in (mutant.lines, mutant.body) if mutant.lines.start in mutant.body else (mutant.body,):
            if tests := {test for number in numbers for test in lines.get(str(number), ()) if test}:
                return tests
        return set(self.times)


class Steady:
    """Makes the property-based tests try the same examples in each run, and notes the result of all tests."""

    result: int = pytest.ExitCode.INTERNAL_ERROR

    def pytest_configure(self) -> None:
        phases = [Phase.explicit, Phase.generate]  # the smallest example is of no interest
        settings.register_profile("mutation", settings(derandomize=True, phases=phases, deadline=None))
        settings.load_profile("mutation")

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self.result = exitstatus

    def run(self, *tests: str) -> int:
        """Run *tests*; what is found only when pytest ends, such as a server's open socket, belongs to none of them."""
        with suppress(Exception):
            pytest.main([*OPTIONS, *tests], plugins=[self])
        return self.result


class Watch(Steady):
    """Notes which tests run which lines, and how long each takes."""

    def __init__(self, measured: coverage.Coverage) -> None:
        self.measured = measured
        self.times: Counter[str] = Counter()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.measured.switch_context(item.nodeid)
        yield
        self.measured.switch_context("")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.times[report.nodeid] += report.duration  # type: ignore[assignment]


class Chosen(Steady):
    """Runs some of the tests, the quickest first, and ends the process when one fails or takes too long."""

    def __init__(self, limits: Mapping[str, float]) -> None:
        self.limits = limits

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((i for i in items if i.nodeid in self.limits), key=lambda item: self.limits[item.nodeid])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        allow(self.limits[item.nodeid])
        yield

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            print(report.nodeid)
            end(pytest.ExitCode.TESTS_FAILED)


def enter(tree: Path) -> None:
    """Make the package in *tree* the one that is imported, here and in the tests' own processes."""
    os.setpgid(0, 0)  # so that those can be ended together
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    os.environ.update(PYTHONPATH=str(tree), PYTHONDONTWRITEBYTECODE="1")
    sys.dont_write_bytecode = True
    log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)


def allow(seconds: float) -> None:
    """End this process after so much work, or ten times as much time: a loop is found soon, on a busy machine, too."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 10 * seconds)


def end(code: int) -> NoReturn:
    sys.stdout.flush()
    os._exit(code)  # whatever threads and processes a broken core has left


def run_clean(tree: Path) -> NoReturn:
    """Run all tests and write down what a :class:`CleanRun` is made of."""
    enter(tree)
    measured = coverage.Coverage(data_file=None, config_file=False, include=[f"{tree}/cagent_session/*"])
    watch = Watch(measured)
    measured.start()
    result = watch.run(*TESTS)
    measured.stop()
    data = measured.get_data()
    lines = {name: data.contexts_by_lineno(str(tree / "cagent_session" / f"{name}.py")) for name in CORE}
    loaded = [name for name, module in sys.modules.items() if "site-packages" in str(getattr(module, "__file__", ""))]
    Path("clean.json").write_text(json.dumps([sum(watch.times.values()), watch.times, lines, loaded]), "utf-8")
    end(result)


def run_mutant(tree: Path, name: str, limits: Mapping[str, float], start: float) -> NoReturn:
    """Run the tests in *limits*; the exit code is 0 where the mutant survives."""
    enter(tree)
    gc.freeze()  # what is not ours: pytest collects garbage several times
    costs: Counter[str] = Counter()
    for test, limit in limits.items():
        costs[test.partition("::")[0]] += limit  # type: ignore[assignment]
    for file in sorted(costs, key=lambda file: (f"test_{name}." not in file, costs[file])):
        allow(start)
        result = Chosen(limits).run(file)
        if result:
            end(result)
    end(0)


class Trees:
    """Copies of what the tests need, one for each process that runs at a time."""

    def __init__(self, folder: Path, count: int) -> None:
        self.free: SimpleQueue[Path] = SimpleQueue()
        self.all = [folder / str(number) for number in range(count)]
        for tree in self.all:
            shutil.rmtree(tree, ignore_errors=True)
            for name in ("cagent_session", "tests/unit", "tests/integration"):
                shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
            for name in ("pyproject.toml", "tests/conftest.py"):
                shutil.copy(ROOT / name, tree / name)
            compileall.compile_dir(tree / "tests", quiet=1)
            self.free.put(tree)


class Runner:
    """Tells of each mutant whether it is killed."""

    def __init__(self, trees: Trees, clean: CleanRun) -> None:
        self.trees = trees
        self.clean = clean
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(clean.loaded)

    def result(self, mutant: Mutant) -> tuple[str, str]:
        """Return ``"survived"``, ``"timed out"`` or ``"killed"``, and what the tests printed last."""
        spare = self.clean.duration / 10
        limits = {test: PATIENCE * self.clean.times[test] + spare for test in self.clean.tests_of(mutant)}
        tree = self.trees.free.get()
        path = tree / "cagent_session" / mutant.path.name
        path.write_text(mutant.text, "utf-8")
        arguments = (tree, mutant.path.stem, limits, PATIENCE * spare)
        process = self.context.Process(target=run_mutant, args=arguments)
        process.start()
        process.join()
        assert process.pid
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the processes that its tests have started
        shutil.copy(mutant.path, path)
        log = (tree / "log").read_text("utf-8", errors="replace").strip().splitlines()
        self.trees.free.put(tree)
        if process.exitcode == pytest.ExitCode.NO_TESTS_COLLECTED:
            raise RuntimeError(f"no test was run for {mutant.key}")
        results = {0: "survived", -signal.SIGPROF: "timed out", -signal.SIGALRM: "timed out"}
        return results.get(process.exitcode or 0, "killed"), log[-1] if log else ""


def read_equivalent(names: Collection[str]) -> set[Key]:
    """Return the keys of the mutants of these modules that may survive."""
    entries = tomllib.loads((HERE / "equivalent.toml").read_text("utf-8"))["equivalent"]
    keys = {(place, before, after) for entry in entries for place, before, after in entry["mutants"]}
    return {key for key in keys if key[0].partition(".")[0] not in set(CORE) - set(names)}


def main(folder: Path, names: Collection[str]) -> str | None:
    """Print what becomes of each mutant that is not killed, and of how many; return what is wrong."""
    equivalent, processors = read_equivalent(names), len(os.sched_getaffinity(0))
    trees = Trees(folder, processors)
    first = multiprocessing.get_context("spawn").Process(target=run_clean, args=(trees.all[0],))
    first.start()
    mutants = [mutant for name in names for mutant in Source(ROOT / "cagent_session" / f"{name}.py").mutants()]
    first.join()
    if first.exitcode:
        return (trees.all[0] / "log").read_text("utf-8")
    runner = Runner(trees, CleanRun(*json.loads((trees.all[0] / "clean.json").read_text("utf-8"))))
    found: dict[str, list[Key]] = {"killed": [], "timed out": [], "equivalent": [], "survived": []}

    def judge(mutant: Mutant) -> None:
        result, log = runner.result(mutant)
        if result == "survived" and mutant.key in equivalent:
            result = "equivalent"
        found[result].append(mutant.key)
        if result in ("survived", "timed out"):
            print(f"{result}: {json.dumps(mutant.key)}", flush=True)
        elif mutant.key in equivalent and result != "equivalent":
            print(f"not equivalent: {json.dumps(mutant.key)}: {log}", flush=True)

    with ThreadPoolExecutor(processors) as pool:
        list(pool.map(judge, mutants))
    unmatched = equivalent - {mutant.key for mutant in mutants}
    for key in unmatched:
        print(f"no such mutant: {json.dumps(key)}")
    print(f"{len(mutants)} mutants:", ", ".join(f"{len(keys)} {result}" for result, keys in found.items()))
    wrong = [*found["survived"], *(equivalent - set(found["equivalent"]))]
    return f"{len(wrong)} mutants need a test, or a change in {HERE.name}/equivalent.toml" if wrong else None


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:] or CORE))
