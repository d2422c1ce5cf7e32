"""Does the session go where the work goes: to threads, timers, callbacks, executors and processes?"""

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

import pytest

from cagent_session import (
    SessionExecutor,
    carry_session,
    current_session_id,
    in_session,
    session_scope,
)


def echo(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
    """Tell what arrived, and where."""
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


def test_the_session_is_the_one_at_the_call_of_carry_session() -> None:
    carried = carried_from("carried", current_session_id)
    assert carried() == "carried"
    with session_scope("runner"):
        assert carried() == "carried"
        assert current_session_id() == "runner"


def test_no_session_is_carried_too() -> None:
    carried = carried_from(None, current_session_id)
    with session_scope("runner"):
        assert carried() is None
        assert current_session_id() == "runner"


def test_arguments_and_result_pass_whatever_their_names() -> None:
    carried = carried_from("sess-1", echo)
    assert carried(1, 2, x=3) == ("sess-1", (1, 2), {"x": 3})
    names = {"self": 1, "fn": 2, "session_id": 3, "args": 4, "kwargs": 5}
    assert carried(**names) == ("sess-1", (), names)


def test_a_carried_coroutine_function_gets_its_arguments() -> None:
    async def job(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
        return echo(*args, **kwargs)

    assert asyncio.run(carried_from("sess-1", job)(1, 2, x=3)) == ("sess-1", (1, 2), {"x": 3})


def test_an_error_passes_unchanged_and_the_runner_is_back_in_its_session() -> None:
    raised = LookupError("in the job")

    def job() -> None:
        raise raised

    with session_scope("runner"):
        with pytest.raises(LookupError) as caught:
            carried_from("carried", job)()
        assert caught.value is raised
        assert current_session_id() == "runner"


def test_every_kind_of_function_runs_in_the_carried_session() -> None:
    async def collect() -> list[str | None]:
        return [seen async for seen in carried_from("carried", async_generator)()]

    with session_scope("runner"):
        assert asyncio.run(carried_from("carried", coroutine)()) == "carried"
        assert asyncio.run(collect()) == ["carried", "carried"]
        steps = carried_from("carried", generator)()
        assert [next(steps), current_session_id(), next(steps)] == ["carried", "runner", "carried"]


class Job:
    """A class is callable, and so may its instances be."""

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
def test_what_can_not_be_called_is_refused_at_once(thing: Any) -> None:
    with pytest.raises(TypeError, match=rf"takes a callable, got {type(thing).__name__}$"):
        carry_session(thing)
    with (
        SessionExecutor(ThreadPoolExecutor(1)) as pool,
        pytest.raises(TypeError, match="takes a callable"),
    ):
        pool.submit(thing)


def test_carried_twice_the_first_carrying_wins() -> None:
    """It stands nearest to the function: who carries on a callable need not know whether it belongs to a session."""
    carried_again = carried_from("second", carried_from("first", current_session_id))
    assert carried_again() == "first"
    assert (
        carried_from("carried", in_session(lambda: "decorated")(current_session_id))()
        == "decorated"
    )


def test_name_docstring_and_signature_are_kept() -> None:
    carried: Any = carried_from("sess-1", echo)
    assert (carried.__name__, carried.__qualname__, carried.__doc__) == (
        "echo",
        "echo",
        echo.__doc__,
    )
    assert carried.__module__ == echo.__module__
    assert inspect.signature(carried) == inspect.signature(echo)


def test_repr_names_the_function_and_no_session_id() -> None:
    """Schedulers and process pools log what they run."""
    assert (
        repr(carried_from("sess-1", current_session_id)) == f"carry_session({current_session_id!r})"
    )


@pytest.mark.parametrize(
    "duplicate",
    [
        copy.copy,
        copy.deepcopy,
        *(
            pytest.param(
                lambda carried, p=p: pickle.loads(pickle.dumps(carried, p)),
                id=f"pickle protocol {p}",
            )
            for p in range(pickle.HIGHEST_PROTOCOL + 1)
        ),
    ],
)
@pytest.mark.parametrize("session_id", ["sess-1", None])
def test_it_survives_copying_and_pickling(
    duplicate: Callable[[Any], Any], session_id: str | None
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
        pytest.param(lambda job: threading.Thread(target=job), id="Thread"),
        pytest.param(lambda job: threading.Timer(0, job), id="Timer"),
        pytest.param(
            lambda job: threading.Thread(target=Context().run, args=[job]), id="fresh context"
        ),
        pytest.param(
            lambda job: threading.Thread(
                target=Context().run, args=[in_session(lambda: "other")(job)]
            ),
            id="context with a session",
        ),
    ],
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


def test_a_carried_callback_of_the_event_loop_runs_in_its_session() -> None:
    async def main() -> list[str | None]:
        loop, seen, done = asyncio.get_running_loop(), [], asyncio.Event()

        def callback() -> None:
            seen.append(current_session_id())

        with session_scope("scheduler"):
            loop.call_soon(carried_from("carried", callback))
            loop.call_soon(callback)
            loop.call_soon(done.set)
        await done.wait()
        return seen

    assert asyncio.run(main()) == ["carried", "scheduler"]


def test_a_carried_job_of_run_in_executor_runs_in_its_session(
    inherited_by_threads: Callable[[str], str | None],
) -> None:
    async def main() -> list[str | None]:
        loop = asyncio.get_running_loop()
        with session_scope("sess-1"):
            return [
                await loop.run_in_executor(None, carry_session(current_session_id)),
                await loop.run_in_executor(None, current_session_id),
            ]

    assert asyncio.run(main()) == ["sess-1", inherited_by_threads("sess-1")]


def test_a_carried_function_shows_the_functions_attributes_and_keeps_its_own() -> None:
    def job() -> str | None:
        return current_session_id()

    vars(job).update(label="nightly", _session_id="sess-2", _run=None)
    with session_scope("sess-1"):
        carried: Any = carry_session(job)
    assert carried.label == "nightly"
    assert carried() == "sess-1"


def is_coroutine_function(carried: Any) -> bool:
    """Ask as APScheduler and Flask do: asyncio, while it has the function."""
    ask = inspect if sys.version_info >= (3, 14) else asyncio
    return bool(ask.iscoroutinefunction(carried))


def test_a_carried_coroutine_function_is_one_to_those_who_ask() -> None:
    """Starlette and others ask its ``__call__``. From Python 3.12 on ``inspect`` sees its mark."""
    carried: Any = carry_session(asyncio.sleep)
    for carried in (carried, pickle.loads(pickle.dumps(carried))):  # noqa: B020 - itself, and what it pickles to
        assert inspect.iscoroutinefunction(carried.__call__)
        assert inspect.iscoroutinefunction(carried) is (sys.version_info >= (3, 12))
        assert is_coroutine_function(carried)
    carried = carry_session(current_session_id)
    assert not inspect.iscoroutinefunction(carried.__call__)
    assert not is_coroutine_function(carried)


def test_a_carried_coroutine_function_is_marked_where_inspect_has_a_mark(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    marked: list[Any] = []

    def mark(fn: Any) -> Any:
        marked.append(fn)
        return fn

    monkeypatch.setattr(inspect, "markcoroutinefunction", mark, raising=False)
    assert [carry_session(coroutine)] == marked
    carry_session(current_session_id)
    assert len(marked) == 1


def test_a_carried_coroutine_function_keeps_its_session_when_it_is_pickled() -> None:
    carried = pickle.loads(pickle.dumps(carried_from("sess-1", coroutine)))
    assert asyncio.run(carried()) == "sess-1"


def test_a_carried_coroutine_runs_in_its_session_in_a_task() -> None:
    carried = carried_from("carried", coroutine)

    async def main() -> str | None:
        with session_scope("creator"):
            task: asyncio.Task[str | None] = asyncio.create_task(carried())
        return await task

    assert asyncio.run(main()) == "carried"


def test_each_job_of_a_shared_pool_runs_in_its_submitters_session() -> None:
    ids = [f"sess-{number % 16}" for number in range(200)]
    with ThreadPoolExecutor(4) as threads:
        pool, futures = SessionExecutor(threads), []
        for session_id in ids:
            with session_scope(session_id):
                futures.append(pool.submit(current_session_id))
        assert [future.result() for future in futures] == ids
        everyone = threading.Barrier(4, timeout=10)
        left_behind = [
            threads.submit(lambda: (everyone.wait(), current_session_id())[1]) for _ in range(4)
        ]
        assert [future.result() for future in left_behind] == [None] * 4, (
            "no worker keeps a session"
        )
        assert pool.submit(current_session_id).result() is None


def test_tasks_share_a_pool_by_run_in_executor() -> None:
    ids = [f"sess-{number}" for number in range(16)]

    async def main(pool: Executor) -> list[str | None]:
        @in_session("session_id")
        async def work(session_id: str) -> str | None:
            return await asyncio.get_running_loop().run_in_executor(pool, current_session_id)

        return await asyncio.gather(*map(work, ids))

    with SessionExecutor(ThreadPoolExecutor(2)) as pool:
        assert asyncio.run(main(pool)) == ids


def test_a_job_gets_its_arguments_whatever_their_names() -> None:
    with SessionExecutor(ThreadPoolExecutor(1)) as pool, session_scope("sess-1"):
        names = {"self": 1, "fn": 2, "executor": 3}
        assert pool.submit(echo, 0, **names).result() == ("sess-1", (0,), names)


def test_a_jobs_error_is_its_futures() -> None:
    with SessionExecutor(ThreadPoolExecutor(1)) as pool:
        assert isinstance(pool.submit(int, "x").exception(), ValueError)


def test_map_keeps_order_and_session() -> None:
    with SessionExecutor(ThreadPoolExecutor(4)) as pool:
        with session_scope("sess-1"):
            results = pool.map(echo, range(50), "x" * 50)
        with session_scope("consumer"):
            assert list(results) == [("sess-1", (number, "x"), {}) for number in range(50)]


class RecordingExecutor(Executor):
    """Runs jobs where they are mapped, and records what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def map(
        self, fn: Callable[..., Any], *iterables: Iterable[Any], **kwargs: Any
    ) -> Iterator[Any]:
        self.asked.append(("map", iterables, kwargs))
        return map(fn, *iterables)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.asked.append(("shutdown", wait, cancel_futures))


class PlainExecutor(Executor):
    """Shuts down with the one option that every executor has, as that of a cluster's client."""

    waited: Any = None

    def shutdown(self, wait: bool = True) -> None:  # type: ignore[override]
        self.waited = wait


def test_an_executor_without_cancel_futures_shuts_down() -> None:
    inner = PlainExecutor()
    with SessionExecutor(inner):
        pass
    assert inner.waited is True


@pytest.mark.parametrize("thing", [None, 4, ThreadPoolExecutor])
def test_what_is_no_executor_is_refused(thing: Any) -> None:
    with pytest.raises(TypeError, match=rf"takes an Executor, got {type(thing).__name__}$"):
        SessionExecutor(thing)


def test_map_is_the_inner_executors_with_its_chunks_and_timeouts() -> None:
    inner = RecordingExecutor()
    with session_scope("sess-1"):
        assert list(SessionExecutor(inner).map(echo, [1, 2], timeout=5, chunksize=50)) == [
            ("sess-1", (1,), {}),
            ("sess-1", (2,), {}),
        ]
    assert inner.asked == [("map", ([1, 2],), {"timeout": 5, "chunksize": 50})]


@pytest.mark.parametrize(
    ("shut_down", "asked"),
    [
        (lambda pool: pool.shutdown(), ("shutdown", True, False)),
        (lambda pool: pool.shutdown(False), ("shutdown", False, False)),
        (lambda pool: pool.shutdown(wait=False, cancel_futures=True), ("shutdown", False, True)),
        (lambda pool: pool.__exit__(None, None, None), ("shutdown", True, False)),
    ],
)
def test_shutting_down_shuts_the_inner_executor_down(
    shut_down: Callable[[Executor], Any], asked: Any
) -> None:
    inner = RecordingExecutor()
    shut_down(SessionExecutor(inner))
    assert inner.asked == [asked]


def test_after_a_with_statement_no_job_is_taken() -> None:
    with SessionExecutor(ThreadPoolExecutor(1)) as pool:
        pass
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(current_session_id)


# A program of its own, because pytest's process may have threads, beside which Python warns of forking.
PROGRAM = """
import functools
import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

from cagent_session import SessionExecutor, carry_session, current_session_id, in_session, session_scope


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
) -> dict[str, Any]:
    program = tmp_path_factory.mktemp("processes") / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    return json.loads(run_python(str(program), request.param))  # type: ignore[no-any-return] # a dict, by the program


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
def test_a_process_starts_in_no_session_and_a_carried_job_brings_its_own(
    seen_in_processes: dict[str, Any], what: str, seen: Any
) -> None:
    """Also where a forked pool starts its processes inside a scope: they would keep it for all of their jobs."""
    assert seen_in_processes[what] == seen


FORKING = """
import os
from cagent_session import current_session_id, session_scope

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
if not child:
    os._exit(17)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17
print("done")
"""


FORKING_GENERATOR = """
import os
from cagent_session import current_session_id, in_session, session_scope

@in_session("session_id")
def steps(session_id):
    yield os.fork()
    yield current_session_id()

with session_scope("consumer"):
    running = steps("sess-1")
    child = next(running)
    assert current_session_id() == ("consumer" if child else None)
    assert next(running) == ("sess-1" if child else None)
if not child:
    os._exit(17)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize(
    "source", [FORKING, FORKING_GENERATOR], ids=["in a scope", "in a generator's step"]
)
def test_a_forked_child_leaves_its_parents_scopes_without_being_in_them(
    tmp_path: Path, source: str
) -> None:
    program = tmp_path / "forking.py"
    program.write_text(source, encoding="utf-8")
    assert run_python(str(program)) == "done\n"


# A SessionExecutor in the place of the executor that it is around


def test_it_can_be_the_event_loops_default_executor() -> None:
    async def main() -> list[str | None]:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(SessionExecutor(ThreadPoolExecutor(1)))
        seen = []
        for session_id in ("sess-1", None, "sess-2"):
            with session_scope(session_id):
                seen.append(await loop.run_in_executor(None, current_session_id))
        return seen

    assert asyncio.run(main()) == ["sess-1", None, "sess-2"]


def test_it_is_of_the_inner_executors_class_and_has_its_attributes() -> None:
    """Dask asks a pool for its number of workers."""
    with SessionExecutor(ThreadPoolExecutor(3)) as pool:
        assert isinstance(pool, ThreadPoolExecutor)
        assert isinstance(pool, SessionExecutor)
        assert (type(pool), pool._max_workers) == (SessionExecutor, 3)
        with pytest.raises(AttributeError, match="no attribute 'nobody'"):
            _ = pool.nobody  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda pool: pickle.loads(pickle.dumps(pool))]
)
def test_an_executor_that_can_be_copied_and_pickled_still_can(
    duplicate: Callable[[Any], Any],
) -> None:
    pool = duplicate(SessionExecutor(RecordingExecutor()))
    assert type(pool) is SessionExecutor
    with session_scope("sess-1"):
        assert list(pool.map(echo, [1])) == [("sess-1", (1,), {})]


def test_the_inner_executor_is_asked_in_no_session() -> None:
    """Threads that it starts may inherit the context."""
    seen: list[str | None] = []

    class Asked(RecordingExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            seen.append(current_session_id())

        def map(self, *_: Any, **__: Any) -> Any:
            seen.append(current_session_id())

    pool = SessionExecutor(Asked())
    with session_scope("sess-1"):
        pool.submit(echo)
        pool.map(echo, [1])
        assert current_session_id() == "sess-1"
    assert seen == [None, None]
