"""Whose session is it, inside a scope and outside?"""

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
from hypothesis import given
from hypothesis import strategies as st

from cagent_session import (
    SessionExecutor,
    carry_session,
    current_session_id,
    in_session,
    session_scope,
)
from cagent_session.context import open_scopes


def test_empty_context_gives_none() -> None:
    assert Context().run(current_session_id) is None


def test_set_is_read_back() -> None:
    with session_scope("sess-1"):
        assert current_session_id() == "sess-1"
    assert current_session_id() is None


def test_a_scope_yields_its_id() -> None:
    with session_scope("sess-1") as session_id, session_scope(None) as no_session_id:
        assert (session_id, no_session_id) == ("sess-1", None)


def test_scopes_nest_and_restore() -> None:
    with session_scope("outer"):
        with session_scope("inner"):
            assert current_session_id() == "inner"
        assert current_session_id() == "outer"


def test_the_open_scopes_are_told_from_the_innermost() -> None:
    outer, inner = session_scope("outer"), session_scope(None)
    with outer, inner:
        assert open_scopes() == [inner, outer]
    assert open_scopes() == []


def test_none_means_no_session_inside() -> None:
    with session_scope("outer"):
        with session_scope(None):
            assert current_session_id() is None
            with session_scope("inner"):
                assert current_session_id() == "inner"
            assert current_session_id() is None
        assert current_session_id() == "outer"


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
def test_in_any_order_the_innermost_open_scope_is_current(steps: list[tuple[str, int]]) -> None:
    """Leaving takes out a scope's innermost entry, and nothing where it has none."""
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


def test_the_outermost_of_three_scopes_may_be_left_first() -> None:
    outer, middle, inner = (
        session_scope(session_id) for session_id in ("outer", "middle", "inner")
    )
    seen = []

    def leave_in_another_order() -> None:
        for scope in (outer, middle, inner):
            scope.__enter__()
        for scope in (outer, inner, middle):
            scope.__exit__()
            seen.append(current_session_id())

    Context().run(leave_in_another_order)
    assert seen == ["inner", "middle", None]


def test_one_scope_may_be_entered_again() -> None:
    scope = session_scope("sess-1")
    with scope:
        with session_scope("other"), scope:
            assert current_session_id() == "sess-1"
        assert current_session_id() == "sess-1"
    with scope:
        assert current_session_id() == "sess-1"
    assert current_session_id() is None


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


def test_leaving_a_scope_in_a_copied_context_changes_nothing_here() -> None:
    scope = session_scope("sess-1")
    with scope:
        copy_context().run(scope.__exit__, None, None, None)
        assert current_session_id() == "sess-1"


def test_leaving_a_scope_in_another_context_changes_nothing_there() -> None:
    scope = session_scope("sess-1")
    Context().run(scope.__enter__)
    with session_scope("sess-2"):
        scope.__exit__(None, None, None)
        assert current_session_id() == "sess-2"


def test_a_scope_left_by_another_task_changes_nothing_there() -> None:
    """As when a task closes another's asynchronous generator that keeps a scope open around a yield."""

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


def test_a_scope_is_no_decorator() -> None:
    """It says so, instead of leaving a generator's or a coroutine's body outside without a word."""
    with pytest.raises(TypeError, match="not callable"):

        @session_scope("sess-1")  # type: ignore[operator] # the mistake that is tested
        def work() -> None: ...


def test_a_thread_starts_in_no_session(inherited_by_threads: Callable[[str], str | None]) -> None:
    seen: list[str | None] = []
    with session_scope("sess-1"):
        thread = threading.Thread(target=lambda: seen.append(current_session_id()))
        thread.start()
        thread.join()
    assert seen == [inherited_by_threads("sess-1")]


@pytest.mark.parametrize("remedy", ["an empty context", "an initializer", "SessionExecutor"])
def test_the_remedies_where_threads_inherit_the_context(remedy: str) -> None:
    """As the docstring of SessionExecutor names them, for a pool that is used by many sessions."""
    pool: Executor
    if remedy == "an initializer":
        pool = ThreadPoolExecutor(1, initializer=session_scope(None).__enter__)
    else:
        pool = ThreadPoolExecutor(1)
    with pool:
        used = SessionExecutor(pool) if remedy == "SessionExecutor" else pool
        with session_scope("first"):
            if remedy == "an empty context":
                assert Context().run(pool.submit, current_session_id).result() is None
            else:
                used.submit(current_session_id).result()
        assert pool.submit(current_session_id).result() is None
        with session_scope("second"):
            assert pool.submit(carry_session(current_session_id)).result() == "second"


def test_a_task_inherits_the_scope_and_keeps_it_beyond_its_end() -> None:
    async def main() -> None:
        the_scope_has_ended = asyncio.Event()

        async def work() -> str | None:
            await the_scope_has_ended.wait()
            return current_session_id()

        with session_scope("sess-1"):
            task = asyncio.create_task(work())
        the_scope_has_ended.set()
        assert await task == "sess-1"

    asyncio.run(main())


def test_a_scope_in_a_task_never_reaches_its_parent() -> None:
    async def main() -> None:
        inside, go_on = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            with session_scope("task"):
                inside.set()
                await go_on.wait()

        with session_scope("parent"):
            task = asyncio.create_task(work())
            await inside.wait()
            assert current_session_id() == "parent"
            go_on.set()
            await task
            assert current_session_id() == "parent"

    asyncio.run(main())


def test_tasks_that_run_together_keep_to_their_own_sessions() -> None:
    ids = [f"sess-{number}" for number in range(16)]

    async def main() -> list[str | None]:
        entered, everyone_is_in = set(), asyncio.Event()

        async def work(session_id: str) -> str | None:
            with session_scope(session_id):
                entered.add(session_id)
                if len(entered) == len(ids):
                    everyone_is_in.set()
                await everyone_is_in.wait()
                return current_session_id()

        return await asyncio.gather(*map(work, ids))

    assert asyncio.run(main()) == ids


def test_to_thread_inherits_the_scope() -> None:
    with session_scope("sess-1"):
        assert asyncio.run(asyncio.to_thread(current_session_id)) == "sess-1"


# Work that starts its own successor


TURNS = 50


def by_tasks(scope: Callable[[str], Any]) -> int:
    """Each task starts the next from inside its scope."""

    async def turn(number: int) -> int:
        with scope(f"sess-{number}"):
            assert current_session_id() == f"sess-{number}"
            following = asyncio.create_task(turn(number - 1)) if number else None
        return await following if following else len(open_scopes())

    return asyncio.run(turn(TURNS))


def by_callbacks(scope: Callable[[str], Any]) -> int:
    async def main() -> int:
        loop, found = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

        def turn(number: int) -> None:
            with scope(f"sess-{number}"):
                if number:
                    loop.call_soon(turn, number - 1)
                else:
                    loop.call_soon(lambda: found.set_result(len(open_scopes())))

        turn(TURNS)
        return await found  # type: ignore[no-any-return] # a number, by the callback

    return asyncio.run(main())


def by_contexts(scope: Callable[[str], Any]) -> int:
    here = Context()
    for number in range(TURNS):
        with_scope = here.run(scope, f"sess-{number}")
        here.run(with_scope.__enter__)
        following = here.run(copy_context)
        here.run(with_scope.__exit__)
        here = following
    return here.run(lambda: len(open_scopes()))


def by_scopes_that_are_left_in_any_order(scope: Callable[[str], Any]) -> int:
    here = Context()
    for number in range(TURNS):
        first, second = scope(f"first-{number}"), scope(f"second-{number}")
        here.run(first.__enter__)
        here.run(second.__enter__)
        following = here.run(copy_context)
        here.run(first.__exit__)
        here.run(second.__exit__)
        here = following
    return here.run(lambda: len(open_scopes()))


@pytest.mark.parametrize(
    "turns", [by_tasks, by_callbacks, by_contexts, by_scopes_that_are_left_in_any_order]
)
def test_work_that_starts_its_own_successor_keeps_no_more_scopes_each_time(
    turns: Callable[[Any], int],
) -> None:
    """A scope that was left elsewhere can't be left here. What is around it is not kept."""
    assert turns(session_scope) <= 3


@pytest.mark.parametrize("kind", ["coroutine", "async generator", "generator"])
def test_nor_does_a_decorated_function_that_does_so(kind: str) -> None:
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


# Processes


FORKING = """
import asyncio, contextvars, os
from cagent_session import current_session_id, session_scope

async def fork(here):
    child = os.fork()
    if not child:  # it can't go on with the loop
        there = contextvars.copy_context()
        seen = [context.run(current_session_id) for context in (here, there)]
        seen += [current_session_id()]
        with session_scope("child"):
            seen += [current_session_id()]
        os._exit(0 if seen == [None] * 3 + ["child"] else 1)
    assert current_session_id() == "sess-1"
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    print("done")

async def main():
    with session_scope("sess-1"):
        await asyncio.create_task(fork(contextvars.copy_context()))

asyncio.run(main())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_process_that_is_forked_in_a_copied_context_is_in_no_session() -> None:
    """``asyncio.run`` copies the context, and so does every task."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING]
    forked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (forked.returncode, forked.stdout, forked.stderr) == (0, "done\n", "")
