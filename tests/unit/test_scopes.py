"""Tests of ``session_scope``: the current session inside and outside of scopes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import Context, copy_context
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cagent_session import (
    SessionExecutor,
    carry_session,
    context,
    current_session_id,
    in_session,
    session_scope,
)
from cagent_session.context import open_scopes


def test_scopes_nest_and_none_means_no_session() -> None:
    with session_scope("outer") as outer:
        with session_scope(None) as none:
            assert (outer, none, current_session_id()) == ("outer", None, None)
            with session_scope("inner") as inner:
                assert (inner, current_session_id()) == ("inner", "inner")
            assert current_session_id() is None
        assert current_session_id() == "outer"
    assert current_session_id() is None


def test_open_scopes_are_listed_from_the_innermost() -> None:
    outer, inner = session_scope("outer"), session_scope(None)
    with outer, inner:
        assert open_scopes() == [inner, outer]
    assert open_scopes() == []


@pytest.mark.parametrize(
    "error", [ValueError, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError]
)
def test_an_exception_passes_and_the_outer_scope_is_back(error: type[BaseException]) -> None:
    raised = error()
    with session_scope("outer"):
        with pytest.raises(error) as caught, session_scope("inner"):
            raise raised
        assert caught.value is raised
        assert current_session_id() == "outer"


@given(st.lists(st.tuples(st.sampled_from(["enter", "leave"]), st.integers(0, 3))))
@example([*[("enter", number) for number in (0, 1, 2)], ("leave", 0), ("leave", 2), ("leave", 1)])
def test_scopes_may_end_in_any_order_and_the_innermost_open_one_is_current(
    steps: list[tuple[str, int]],
) -> None:
    """Leaving a scope removes its innermost entry. If it is not open, nothing changes."""
    scopes = [session_scope(session_id) for session_id in ("sess-0", "sess-1", "sess-2", None)]

    def follow() -> None:
        opened: list[int] = []
        for step, number in steps:
            if step == "enter":
                scopes[number].__enter__()
                opened.append(number)
            else:
                scopes[number].__exit__(None, None, None)
                if number in opened:
                    del opened[len(opened) - 1 - opened[::-1].index(number)]
            assert current_session_id() == (scopes[opened[-1]].session_id if opened else None)

    Context().run(follow)


def test_one_scope_may_be_entered_by_threads_at_once() -> None:
    scope, everyone_is_in, seen = session_scope("sess-1"), threading.Barrier(4, timeout=10), []

    def work() -> None:
        with scope:
            everyone_is_in.wait()
            seen.append(current_session_id())
            everyone_is_in.wait()
        seen.append(current_session_id())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen[:4] == ["sess-1"] * 4
    assert seen[4:] == [None] * 4


def test_leaving_a_scope_in_another_context_changes_nothing() -> None:
    """This holds for the context in which the scope is open, and for any other one."""
    scope = session_scope("sess-1")
    with scope:
        copy_context().run(scope.__exit__, None, None, None)
        assert current_session_id() == "sess-1"
    Context().run(scope.__enter__)
    with session_scope("sess-2"):
        scope.__exit__(None, None, None)
        assert current_session_id() == "sess-2"


def test_a_scope_left_by_another_task_changes_nothing_there() -> None:
    """A task may close an asynchronous generator that another task has started."""

    async def stream() -> AsyncIterator[None]:
        with session_scope("stream"):
            yield

    async def main() -> None:
        opened: Any = stream()
        await asyncio.create_task(opened.__anext__())

        async def close() -> str | None:
            with session_scope("closer"):
                await opened.aclose()
                return current_session_id()

        assert await asyncio.create_task(close()) == "closer"
        assert current_session_id() is None

    asyncio.run(main())


def test_a_scope_can_not_be_used_as_a_decorator() -> None:
    """A decorator could not reach the body of a generator or coroutine."""
    with pytest.raises(TypeError, match="not callable"):

        @session_scope("sess-1")  # type: ignore[operator] # the mistake that is tested
        def work() -> None: ...


@pytest.mark.parametrize("remedy", ["an empty context", "an initializer", "SessionExecutor"])
def test_pools_have_remedies_if_threads_inherit_the_context(remedy: str) -> None:
    """The remedies are for a pool that several sessions share."""
    initializer = session_scope(None).__enter__ if remedy == "an initializer" else None
    with ThreadPoolExecutor(1, initializer=initializer) as pool:
        used: Executor = SessionExecutor(pool) if remedy == "SessionExecutor" else pool
        with session_scope("first"):
            if remedy == "an empty context":
                assert Context().run(pool.submit, current_session_id).result() is None
            else:
                used.submit(current_session_id).result()
        assert pool.submit(current_session_id).result() is None
        with session_scope("second"):
            assert pool.submit(carry_session(current_session_id)).result() == "second"


IN_THREADS = """
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from threading import Thread
from cagent_session import current_session_id, session_scope

def show():
    print(current_session_id())

with ThreadPoolExecutor(1) as pool:
    for session_id in ("first", "second"):
        with session_scope(session_id):
            pool.submit(show).result()
            thread = Thread(target=show, context=Context())
            thread.start()
            thread.join()
"""


@pytest.mark.skipif(sys.version_info < (3, 14), reason="threads inherit it from Python 3.14 on")
@pytest.mark.parametrize(
    ("option", "shown"), [("0", ["None"] * 4), ("1", ["first", "None", "first", "None"])]
)
@pytest.mark.parametrize("is_variable", [False, True])
def test_threads_inherit_the_session_if_an_option_of_python_is_set(
    option: str, shown: list[str], is_variable: bool
) -> None:
    """Then a pool's thread keeps the session of its first job. ``Context()`` prevents that."""
    flag = f"thread_inherit_context={option}"
    variables = {name: value for name, value in os.environ.items() if "THREAD_INHERIT" not in name}
    arguments = [] if is_variable else ["-X", flag]
    if is_variable:
        variables["PYTHON_THREAD_INHERIT_CONTEXT"] = option
    command = [sys.executable, *arguments, "-c", IN_THREADS]
    done = subprocess.run(command, env=variables, check=True, capture_output=True, text=True)
    assert done.stdout.split() == shown


def test_tasks_and_their_threads_inherit_the_scope_and_keep_it_after_its_end() -> None:
    async def main() -> None:
        the_scope_has_ended = asyncio.Event()

        async def work() -> list[str | None]:
            await the_scope_has_ended.wait()
            return [current_session_id(), await asyncio.to_thread(current_session_id)]

        with session_scope("sess-1"):
            task = asyncio.create_task(work())
        the_scope_has_ended.set()
        assert await task == ["sess-1", "sess-1"]

    asyncio.run(main())


@pytest.mark.parametrize("how", ["session_scope", "in_session"])
def test_tasks_that_run_together_keep_their_own_sessions(how: str) -> None:
    ids = [f"sess-{number}" for number in range(16)]

    async def main() -> None:
        entered, everyone_is_in = set(), asyncio.Event()

        async def work(session_id: str) -> list[str | None]:
            seen = [current_session_id()]
            entered.add(session_id)
            if len(entered) == len(ids):
                everyone_is_in.set()
            await everyone_is_in.wait()
            return [*seen, current_session_id()]

        async def work_in_scope(session_id: str) -> list[str | None]:
            with session_scope(session_id):
                return await work(session_id)

        run = work_in_scope if how == "session_scope" else in_session("session_id")(work)
        assert await asyncio.gather(*map(run, ids)) == [[session_id] * 2 for session_id in ids]
        assert await run("sess-0") == ["sess-0", "sess-0"]
        assert current_session_id() is None

    asyncio.run(main())


# Work that starts its own successor


TURNS = 50


def by_tasks() -> int:
    """Each task starts the next from inside its scope."""

    async def turn(number: int) -> int:
        with session_scope(f"sess-{number}"):
            assert current_session_id() == f"sess-{number}"
            following = asyncio.create_task(turn(number - 1)) if number else None
        return await following if following else len(open_scopes())

    return asyncio.run(turn(TURNS))


def by_callbacks() -> int:
    async def main() -> int:
        loop, found = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

        def turn(number: int) -> None:
            with session_scope(f"sess-{number}"):
                if number:
                    loop.call_soon(turn, number - 1)
                else:
                    loop.call_soon(lambda: found.set_result(len(open_scopes())))

        turn(TURNS)
        return await found  # type: ignore[no-any-return] # a number, by the callback

    return asyncio.run(main())


def by_contexts() -> int:
    here = Context()
    for number in range(TURNS):
        with_scope = here.run(session_scope, f"sess-{number}")
        here.run(with_scope.__enter__)
        following = here.run(copy_context)
        here.run(with_scope.__exit__)
        here = following
    return here.run(lambda: len(open_scopes()))


def by_scopes_left_out_of_order() -> int:
    here = Context()
    for number in range(TURNS):
        first, second = session_scope(f"first-{number}"), session_scope(f"second-{number}")
        here.run(first.__enter__)
        here.run(second.__enter__)
        following = here.run(copy_context)
        here.run(first.__exit__)
        here.run(second.__exit__)
        here = following
    return here.run(lambda: len(open_scopes()))


@pytest.mark.parametrize(
    "count_scopes", [by_tasks, by_callbacks, by_contexts, by_scopes_left_out_of_order]
)
def test_work_that_starts_its_own_successor_does_not_collect_scopes(
    count_scopes: Callable[[], int],
) -> None:
    assert count_scopes() <= 3


@pytest.mark.parametrize("kind", ["coroutine", "async generator", "generator"])
def test_decorated_functions_that_start_their_successors_do_not_collect_scopes(kind: str) -> None:
    @in_session("session_id")
    async def coroutine(session_id: str, number: int) -> Any:
        await asyncio.sleep(0)
        return asyncio.create_task(start(number - 1)) if number else len(open_scopes())

    @in_session("session_id")
    async def async_generator(session_id: str, number: int) -> AsyncIterator[Any]:
        yield asyncio.create_task(start(number - 1)) if number else len(open_scopes())

    @in_session("session_id")
    def generator(session_id: str, number: int) -> Iterator[Any]:
        yield asyncio.create_task(start(number - 1)) if number else len(open_scopes())

    async def start(number: int) -> Any:
        if kind == "coroutine":
            following = await coroutine(f"sess-{number}", number)
        elif kind == "generator":
            following = next(generator(f"sess-{number}", number))
        else:
            following = await async_generator(f"sess-{number}", number).__anext__()
        return await following if number else following

    assert asyncio.run(start(TURNS)) <= 3


def test_the_whole_program_can_be_in_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_whole_program", "_current"):
        monkeypatch.setattr(context, name, getattr(context, name))
    context.run_program_in("sess-1")
    seen: list[str | None] = []
    thread = threading.Thread(target=lambda: seen.append(current_session_id()))
    thread.start()
    thread.join()
    with session_scope(None):
        seen.append(current_session_id())
    with session_scope("sess-2"):
        seen.append(current_session_id())
    seen.append(Context().run(current_session_id))
    assert seen == ["sess-1", None, "sess-2", "sess-1"]
