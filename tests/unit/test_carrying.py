"""Tests of ``carry_session`` and ``SessionExecutor``: threads, event loops, pools, processes."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import json
import multiprocessing
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import Context
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from cagent_session import (
    SessionExecutor,
    carry_session,
    current_session_id,
    in_session,
    session_scope,
)


def echo(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
    """Return the current session ID and the arguments."""
    return current_session_id(), args, kwargs


async def coroutine() -> str | None:
    await asyncio.sleep(0)
    return current_session_id()


def generator() -> Iterator[str | None]:
    yield current_session_id()
    yield current_session_id()


async def async_generator() -> AsyncIterator[str | None]:
    yield current_session_id()
    await asyncio.sleep(0)
    yield current_session_id()


def carried_from(session_id: str | None, fn: Callable[..., Any]) -> Any:
    with session_scope(session_id):
        return carry_session(fn)


@pytest.mark.parametrize("session_id", ["carried", None])
def test_the_session_is_the_one_in_which_carry_session_was_called(session_id: str | None) -> None:
    carried = carried_from(session_id, current_session_id)
    assert carried() == session_id
    with session_scope("runner"):
        assert carried() == session_id
        assert current_session_id() == "runner"


def test_arguments_may_have_any_names() -> None:
    async def job(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
        return echo(*args, **kwargs)

    names = {"self": 1, "fn": 2, "session_id": 3, "args": 4, "kwargs": 5, "executor": 6}
    expected = ("sess-1", (0, 1), names)
    assert carried_from("sess-1", echo)(0, 1, **names) == expected
    assert asyncio.run(carried_from("sess-1", job)(0, 1, **names)) == expected
    with SessionExecutor(ThreadPoolExecutor(1)) as pool, session_scope("sess-1"):
        assert pool.submit(echo, 0, 1, **names).result() == expected


def test_every_kind_of_function_runs_in_the_carried_session() -> None:
    async def collect() -> list[str | None]:
        return [seen async for seen in carried_from("carried", async_generator)()]

    with session_scope("runner"):
        assert asyncio.run(carried_from("carried", coroutine)()) == "carried"
        assert asyncio.run(collect()) == ["carried", "carried"]
        steps = carried_from("carried", generator)()
        assert [next(steps), current_session_id(), next(steps)] == ["carried", "runner", "carried"]


class Job:
    """A class whose instances are callable, too."""

    def __init__(self) -> None:
        self.session_id = current_session_id()

    def __call__(self) -> str | None:
        return current_session_id()

    def method(self) -> str | None:
        return current_session_id()


@pytest.mark.parametrize(
    "fn", [Job(), Job().method, functools.partial(current_session_id), lambda: Job().session_id]
)
def test_anything_callable_can_be_carried(fn: Callable[[], Any]) -> None:
    assert carried_from("sess-1", fn)() == "sess-1"
    assert carried_from("sess-1", Job)().session_id == "sess-1"


@pytest.mark.parametrize("thing", [None, "text", SimpleNamespace()])
def test_only_callables_can_be_carried(thing: Any) -> None:
    pool = SessionExecutor(ThreadPoolExecutor(1))
    for carry in (carry_session, pool.submit):
        with pytest.raises(TypeError, match=rf"takes a callable, got {type(thing).__name__}$"):
            carry(thing)


def test_a_callable_keeps_the_session_that_it_already_has() -> None:
    """A program may carry a callable that already has a session. The callable keeps it."""
    carried = carried_from("first", current_session_id)
    assert carried_from("second", carried)() == "first"
    decorated = in_session(lambda: "decorated")(current_session_id)
    assert carried_from("carried", decorated)() == "decorated"


def test_name_docstring_and_signature_are_kept() -> None:
    carried: Any = carried_from("sess-1", echo)
    for name in ("__name__", "__qualname__", "__doc__", "__module__"):
        assert getattr(carried, name) == getattr(echo, name)
    assert inspect.signature(carried) == inspect.signature(echo)


@pytest.mark.parametrize("fn", [echo, coroutine])
def test_a_carried_function_is_not_found_by_the_name_of_its_class(fn: Callable[..., Any]) -> None:
    """A job store that keeps only a name would find the class, and drop the job when it is due."""
    assert "<locals>" in type(carry_session(fn)).__qualname__


def test_repr_names_the_function_and_not_the_session() -> None:
    """Schedulers and process pools log the functions that they run."""
    carried = carried_from("sess-1", current_session_id)
    assert repr(carried) == f"carry_session({current_session_id!r})"


DUPLICATES: list[Callable[[Any], Any]] = [copy.copy, copy.deepcopy]
DUPLICATES += [
    lambda value, p=p: pickle.loads(pickle.dumps(value, p))  # type: ignore[misc]
    for p in range(pickle.HIGHEST_PROTOCOL + 1)
]


@pytest.mark.parametrize("duplicate", DUPLICATES)
@pytest.mark.parametrize("session_id", ["sess-1", None])
def test_a_carried_function_can_be_copied_and_pickled(
    duplicate: Any, session_id: str | None
) -> None:
    carried = carried_from(session_id, current_session_id)
    with session_scope("runner"):
        duplicated = duplicate(carried)
        assert duplicated is not carried
        assert duplicated() == session_id
        assert duplicated.__name__ == "current_session_id"
        assert duplicate(duplicated)() == session_id


@pytest.mark.parametrize(
    "start",
    [
        lambda job: threading.Thread(target=job),
        lambda job: threading.Timer(0, job),
        lambda job: threading.Thread(target=Context().run, args=[job]),
        lambda job: threading.Thread(target=in_session(lambda: "other")(job)),
    ],
    ids=["Thread", "Timer", "fresh context", "another session"],
)
@pytest.mark.parametrize("session_id", ["sess-1", None])
def test_a_carried_job_runs_in_its_session_in_a_thread(
    start: Callable[[Callable[[], None]], threading.Thread], session_id: str | None
) -> None:
    seen: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    thread = start(carried_from(session_id, lambda: seen.put(current_session_id())))
    with session_scope("starter"):
        thread.start()
        thread.join()
    assert seen.get_nowait() == session_id


def test_the_event_loops_callbacks_tasks_and_executor_run_in_the_carried_session(
    inherited_by_threads: Callable[[str], str | None],
) -> None:
    async def main() -> list[str | None]:
        loop, seen = asyncio.get_running_loop(), list[str | None]()

        def callback() -> None:
            seen.append(current_session_id())

        with session_scope("scheduler"):
            loop.call_soon(carried_from("carried", callback))
            loop.call_soon(callback)
            task = loop.create_task(carried_from("carried", coroutine)())
            carried = carried_from("carried", current_session_id)
            in_thread = await loop.run_in_executor(None, carried)
            uncarried = await loop.run_in_executor(None, current_session_id)
        return [*seen, await task, in_thread, uncarried]

    inherited = inherited_by_threads("scheduler")
    assert asyncio.run(main()) == ["carried", "scheduler", "carried", "carried", inherited]


def test_a_carried_function_has_the_functions_attributes_and_runs_in_its_session() -> None:
    def job() -> str | None:
        return current_session_id()

    vars(job).update(label="nightly", _session_id="sess-2", _run=None)
    with session_scope("sess-1"):
        carried: Any = carry_session(job)
    assert carried.label == "nightly"
    assert carried() == "sess-1"


def is_coroutine_function(carried: Any) -> bool:
    """Check like APScheduler and Flask, with asyncio's function. Python 3.14 deprecates it."""
    ask = inspect if sys.version_info >= (3, 14) else asyncio
    return bool(ask.iscoroutinefunction(carried))


def test_a_carried_coroutine_function_is_recognized() -> None:
    """Starlette and others check ``__call__``. Since Python 3.12, ``inspect`` sees a mark."""
    carried: Any = carried_from("sess-1", coroutine)
    for each in (carried, pickle.loads(pickle.dumps(carried))):
        assert inspect.iscoroutinefunction(each.__call__)
        assert inspect.iscoroutinefunction(each) is (sys.version_info >= (3, 12))
        assert is_coroutine_function(each)
        assert asyncio.run(each()) == "sess-1"
    carried = carry_session(current_session_id)
    assert not inspect.iscoroutinefunction(carried.__call__)
    assert not is_coroutine_function(carried)


def test_a_carried_coroutine_function_is_marked_if_inspect_can_mark_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mark = mock.Mock(side_effect=lambda fn: fn)
    monkeypatch.setattr(inspect, "markcoroutinefunction", mark, raising=False)
    carried = carry_session(coroutine)
    carry_session(current_session_id)
    mark.assert_called_once_with(carried)


def test_each_job_of_a_shared_pool_runs_in_its_submitters_session() -> None:
    ids = [f"sess-{number % 16}" for number in range(200)]
    with ThreadPoolExecutor(4) as threads:
        pool, futures = SessionExecutor(threads), []
        for session_id in ids:
            with session_scope(session_id):
                futures.append(pool.submit(current_session_id))
        assert [future.result() for future in futures] == ids
        everyone = threading.Barrier(4, timeout=10)
        later = [threads.submit(lambda: (everyone.wait(), current_session_id())) for _ in range(4)]
        assert [future.result()[1] for future in later] == [None] * 4, "no thread keeps a session"
        assert pool.submit(current_session_id).result() is None


def test_tasks_share_the_event_loops_default_executor() -> None:
    ids = [f"sess-{number}" for number in range(16)]

    async def main() -> list[str | None]:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(SessionExecutor(ThreadPoolExecutor(2)))

        @in_session("session_id")
        async def work(session_id: str) -> str | None:
            return await loop.run_in_executor(None, current_session_id)

        assert await loop.run_in_executor(None, current_session_id) is None
        return await asyncio.gather(*map(work, ids))

    assert asyncio.run(main()) == ids


class RecordingExecutor(Executor):
    """Runs mapped jobs at once. It records calls of its methods, and their session."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.sessions: list[str | None] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.sessions.append(current_session_id())

    def map(
        self, fn: Callable[..., Any], *iterables: Iterable[Any], **kwargs: Any
    ) -> Iterator[Any]:
        self.sessions.append(current_session_id())
        self.calls.append(("map", iterables, kwargs))
        return map(fn, *iterables)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.calls.append(("shutdown", wait, cancel_futures))


class PlainExecutor(Executor):
    """An executor like that of Dask's client: ``shutdown`` has no ``cancel_futures``."""

    waited: Any = None

    def shutdown(self, wait: bool = True) -> None:  # type: ignore[override]
        self.waited = wait


def test_an_executor_without_cancel_futures_shuts_down() -> None:
    inner = PlainExecutor()
    with SessionExecutor(inner):
        pass
    assert inner.waited is True


@pytest.mark.parametrize("thing", [None, 4, ThreadPoolExecutor])
def test_other_objects_than_executors_are_refused(thing: Any) -> None:
    with pytest.raises(TypeError, match=rf"takes an Executor, got {type(thing).__name__}$"):
        SessionExecutor(thing)


def test_map_passes_its_parameters_to_the_inner_executor() -> None:
    inner = RecordingExecutor()
    with session_scope("sess-1"):
        results = list(SessionExecutor(inner).map(echo, [1, 2], timeout=5, chunksize=50))
    assert results == [("sess-1", (1,), {}), ("sess-1", (2,), {})]
    assert inner.calls == [("map", ([1, 2],), {"timeout": 5, "chunksize": 50})]


def test_the_inner_executor_is_called_in_no_session() -> None:
    """Otherwise, threads that it starts could inherit the session."""
    pool = SessionExecutor(inner := RecordingExecutor())
    with session_scope("sess-1"):
        pool.submit(echo)
        pool.map(echo, [1])
        assert current_session_id() == "sess-1"
    assert inner.sessions == [None, None]


@pytest.mark.parametrize(
    ("shut_down", "call"),
    [
        (lambda pool: pool.shutdown(), ("shutdown", True, False)),
        (lambda pool: pool.shutdown(False), ("shutdown", False, False)),
        (lambda pool: pool.shutdown(wait=False, cancel_futures=True), ("shutdown", False, True)),
        (lambda pool: pool.__exit__(None, None, None), ("shutdown", True, False)),
    ],
)
def test_shutting_down_shuts_the_inner_executor_down(
    shut_down: Callable[[Executor], Any], call: Any
) -> None:
    inner = RecordingExecutor()
    shut_down(SessionExecutor(inner))
    assert inner.calls == [call]


# This is a separate program, because Python warns if a process with threads is forked. The process
# of pytest has threads.
PROGRAM = """
import functools
import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

from cagent_session import (
    SessionExecutor, carry_session, current_session_id, in_session, session_scope
)


def tell(connection, *args):
    connection.send([current_session_id(), *args])


@in_session("session_id")
def decorated(session_id):
    return current_session_id()


def decorated_or_not(session_id, *_):
    return decorated(session_id) if session_id else current_session_id()


def seen_in_process(context, target, *args):
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=target, args=(sender, *args))
    process.start()
    seen = receiver.recv() if receiver.poll(30) else "nothing"
    process.join()
    return seen


def main(context):
    seen = {}
    with session_scope("sess-1"):
        carried = carry_session(tell)
        seen["uncarried in a process"] = seen_in_process(context, tell)
        with ProcessPoolExecutor(1, mp_context=context) as pool, session_scope("inner"):
            seen["uncarried in a pool"] = pool.submit(current_session_id).result()
            seen["carried into a pool"] = pool.submit(carry_session(current_session_id)).result()
            seen["uncarried after a carried one"] = pool.submit(current_session_id).result()
            seen["decorated in a pool"] = pool.submit(decorated, "other").result()
    seen["carried into a process"] = seen_in_process(context, carried, 1, "x")
    with session_scope("starter"):
        seen["carried past another session"] = seen_in_process(context, carried)
    with SessionExecutor(ProcessPoolExecutor(1, mp_context=context)) as pool:
        futures = []
        for session_id in ("sess-1", "sess-2", None, "sess-1"):
            with session_scope(session_id):
                futures.append(pool.submit(current_session_id))
        seen["submitted by sessions"] = [future.result() for future in futures]
        with session_scope("sess-3"):
            seen["mapped"] = list(pool.map(decorated_or_not, [None, "x", None], chunksize=2))
    with session_scope("sess-1"), context.Pool(1) as pool:
        seen["Pool"] = pool.map(functools.partial(carry_session(decorated_or_not), None), [1, 2])
        pool.close()
        pool.join()
    print(json.dumps(seen))


if __name__ == "__main__":
    main(multiprocessing.get_context(sys.argv[1]))
"""


@pytest.fixture(scope="module", params=multiprocessing.get_all_start_methods())
def seen_in_processes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    program = tmp_path_factory.mktemp("processes") / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    return json.loads(run_python(str(program), request.param))


def run_python(*args: str) -> str:
    command = [sys.executable, "-W", "error", *args]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


@pytest.mark.parametrize(
    ("what", "seen"),
    [
        ("uncarried in a process", [None]),
        ("uncarried in a pool", None),
        ("uncarried after a carried one", None),
        ("carried into a process", ["sess-1", 1, "x"]),
        ("carried past another session", ["sess-1"]),
        ("carried into a pool", "inner"),
        ("decorated in a pool", "other"),
        ("submitted by sessions", ["sess-1", "sess-2", None, "sess-1"]),
        ("mapped", ["sess-3", "x", "sess-3"]),
        ("Pool", ["sess-1", "sess-1"]),
    ],
)
def test_a_process_starts_in_no_session_and_a_carried_job_has_its_own(
    seen_in_processes: dict[str, Any], what: str, seen: Any
) -> None:
    """A pool may be forked inside a scope. Its processes must not keep that session."""
    assert seen_in_processes[what] == seen


FORK_IN_SCOPES = """
with session_scope("outer"):
    with session_scope("inner"):
        child = os.fork()
        if not child:
            assert current_session_id() is None
            with session_scope("child"):
                assert current_session_id() == "child"
        else:
            assert current_session_id() == "inner"
    assert current_session_id() == ("outer" if child else None)
"""

FORK_IN_GENERATOR = """
@in_session("session_id")
def steps(session_id):
    yield os.fork()
    yield current_session_id()

with session_scope("consumer"):
    running = steps("sess-1")
    child = next(running)
    assert current_session_id() == ("consumer" if child else None)
    assert next(running) == ("sess-1" if child else None)
"""

FORK_IN_TASK = """
async def fork(here):
    child = os.fork()
    if not child:  # it must not go on with the event loop
        there = contextvars.copy_context()
        seen = [context.run(current_session_id) for context in (here, there)]
        seen += [current_session_id()]
        with session_scope("child"):
            seen += [current_session_id()]
        os._exit(17 if seen == [None] * 3 + ["child"] else 1)
    assert current_session_id() == "sess-1"
    return child

async def main():
    with session_scope("sess-1"):
        return await asyncio.create_task(fork(contextvars.copy_context()))

child = asyncio.run(main())
"""

FORKING = """
import asyncio, contextvars, os
from cagent_session import current_session_id, in_session, session_scope
{}
if not child:
    os._exit(17)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("source", [FORK_IN_SCOPES, FORK_IN_GENERATOR, FORK_IN_TASK])
def test_a_forked_child_is_in_no_session_in_any_copied_context(tmp_path: Path, source: str) -> None:
    """Here, ``asyncio.run`` and a task copy the context."""
    program = tmp_path / "forking.py"
    program.write_text(FORKING.format(source), encoding="utf-8")
    assert run_python("-W", "ignore::DeprecationWarning", str(program)) == "done\n"


# A SessionExecutor in place of the inner executor


def test_it_is_an_instance_of_the_inner_class_and_has_its_attributes() -> None:
    """Dask asks a pool for its number of workers."""
    with SessionExecutor(ThreadPoolExecutor(3)) as pool:
        assert isinstance(pool, ThreadPoolExecutor)
        assert isinstance(pool, SessionExecutor)
        assert (type(pool), pool._max_workers) == (SessionExecutor, 3)
        with pytest.raises(AttributeError, match="no attribute 'nobody'"):
            _ = pool.nobody  # type: ignore[attr-defined]


@pytest.mark.parametrize("duplicate", DUPLICATES)
def test_it_can_be_copied_and_pickled_if_the_inner_executor_can(duplicate: Any) -> None:
    pool = duplicate(SessionExecutor(RecordingExecutor()))
    assert type(pool) is SessionExecutor
    with session_scope("sess-1"):
        assert list(pool.map(echo, [1])) == [("sess-1", (1,), {})]
