"""Tests of ``sub_session``, ``root_session_id`` and of the purposes of calls."""

from __future__ import annotations

import asyncio
import inspect
import multiprocessing
import pickle
import queue
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest

from cagent_session import (
    InvalidSessionId,
    SessionExecutor,
    carry_session,
    compacting,
    current_session_id,
    generating_title,
    in_session,
    root_session_id,
    session_scope,
    sub_session,
)
from cagent_session.context import NOTHING, Attribution, current_attribution

LINE = Attribution("sub-2", "sub-1", "root", "compacting")


def in_line(call: Callable[[], Any]) -> Any:
    """Return ``call()``, called in what LINE says."""
    with session_scope("root"), sub_session("sub-1"), compacting(), sub_session("sub-2"):
        return call()


def test_a_sub_session_has_its_own_id_and_knows_parent_and_root() -> None:
    with session_scope("root") as root:
        assert (root, root_session_id()) == ("root", "root")
        with sub_session("sub-1") as sub:
            assert (sub, current_session_id(), root_session_id()) == ("sub-1", "sub-1", "root")
            assert current_attribution().parent_id == "root"
        assert current_attribution() == Attribution("root", None, "root")
    assert in_line(current_attribution) == LINE
    assert (current_session_id(), root_session_id()) == (None, None)


def test_a_session_inside_another_one_is_a_session_of_its_own() -> None:
    """A server's handler may run in someone else's session."""
    with session_scope("root"), sub_session("sub"), session_scope("other"):
        assert current_attribution() == Attribution("other", None, "other")


@pytest.mark.parametrize("scope", [session_scope, sub_session])
def test_a_session_that_is_entered_again_stays_in_its_line(scope: type[session_scope]) -> None:
    """The entry points of an agent name their session, also where it is current already."""
    with session_scope("root"), sub_session("sub"), compacting(), scope("sub"):
        assert current_attribution() == Attribution("sub", "root", "root", "compacting")


def test_a_sub_session_of_no_session_is_a_session_of_its_own() -> None:
    with sub_session("sub"):
        assert current_attribution() == Attribution("sub", None, "sub")
    with session_scope("root"), session_scope(None), sub_session("sub"):
        assert current_attribution() == Attribution("sub", None, "sub")
    with session_scope("root"), sub_session(None) as none:
        assert none is None
        assert current_attribution() == NOTHING


def test_a_sub_session_needs_a_valid_id() -> None:
    with session_scope("root"), pytest.raises(InvalidSessionId, match="a space at position 1"):
        sub_session("a b")


def test_the_parent_is_the_session_in_which_the_scope_is_entered() -> None:
    scope = sub_session("sub")
    for root in ("root-1", "root-2"):
        with session_scope(root), scope:
            assert current_attribution() == Attribution("sub", root, root)


def test_scopes_that_end_in_another_order_leave_the_line_of_the_others() -> None:
    outer, inner = session_scope("root"), sub_session("sub")
    for scope in (outer, inner):
        scope.__enter__()
    outer.__exit__(None, None, None)
    assert current_attribution() == Attribution("sub", "root", "root")
    inner.__exit__(None, None, None)
    assert current_attribution() == NOTHING


@pytest.mark.parametrize("inner", [compacting, lambda: session_scope(None)])
def test_a_scope_that_names_no_session_does_not_keep_one_that_was_left(inner: Any) -> None:
    outer, inner = session_scope("customer-1"), inner()
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    assert current_session_id() is None
    inner.__exit__(None, None, None)
    assert current_attribution() == NOTHING


def test_a_purpose_around_a_yield_does_not_keep_the_session_of_the_consumer() -> None:
    def summarize() -> Generator[int, None, None]:
        with compacting():
            yield 1

    summary = summarize()
    with session_scope("customer-1"):
        next(summary)
    assert current_session_id() is None
    summary.close()
    assert current_attribution() == NOTHING


def function(task: str) -> list[Attribution]:
    return [current_attribution()]


async def coroutine(task: str) -> list[Attribution]:
    before = current_attribution()
    await asyncio.sleep(0)
    return [before, current_attribution()]


def generator(task: str) -> Any:
    yield current_attribution()
    yield current_attribution()


async def async_generator(task: str) -> Any:
    yield current_attribution()
    await asyncio.sleep(0)
    yield current_attribution()


def results_of(fn: Callable[..., Any], *args: str) -> list[Attribution]:
    result = fn(*args)

    async def in_loop() -> list[Attribution]:
        if inspect.iscoroutine(result):
            return list(await result)
        return [each async for each in result]

    if inspect.iscoroutine(result) or inspect.isasyncgen(result):
        return asyncio.run(in_loop())
    return list(result)


KINDS = [function, coroutine, generator, async_generator]


@pytest.mark.parametrize("fn", KINDS)
def test_each_call_of_a_function_can_run_in_a_sub_session(fn: Callable[..., Any]) -> None:
    decorated = in_session("task", as_sub_session=True)(fn)
    with session_scope("root"), compacting():
        found = results_of(decorated, "sub")
    assert set(found) == {Attribution("sub", "root", "root", "compacting")}
    assert set(results_of(decorated, "sub")) == {Attribution("sub", None, "sub")}
    assert set(results_of(in_session("task")(fn), "sess")) == {Attribution("sess", None, "sess")}


def test_the_caller_of_a_generator_is_not_in_its_sub_session() -> None:
    with session_scope("root"):
        for inside in in_session("task", as_sub_session=True)(generator)("sub"):
            assert (inside.session_id, current_session_id()) == ("sub", "root")


@pytest.mark.parametrize("fn", KINDS)
def test_a_carried_function_runs_in_the_whole_line(fn: Callable[..., Any]) -> None:
    carried = in_line(lambda: carry_session(fn))
    with session_scope("another"):
        assert set(results_of(carried, "task")) == {LINE}
    assert set(results_of(pickle.loads(pickle.dumps(carried)), "task")) == {LINE}


def test_threads_tasks_pools_and_processes_carry_the_line() -> None:
    answers = queue.SimpleQueue[Attribution]()

    def answer() -> None:
        answers.put(current_attribution())

    def start_thread() -> None:
        threading.Thread(target=carry_session(answer)).start()

    in_line(start_thread)
    assert answers.get(timeout=30) == LINE
    assert set(in_line(lambda: asyncio.run(coroutine("")))) == {LINE}
    with SessionExecutor(ThreadPoolExecutor(1)) as pool:
        assert in_line(lambda: pool.submit(current_attribution)).result() == LINE
    processes = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    with SessionExecutor(processes) as pool:
        assert in_line(lambda: pool.submit(current_attribution)).result() == LINE


def test_a_purpose_holds_for_the_calls_of_its_session() -> None:
    with session_scope("sess-1"):
        with compacting() as session_id:
            assert session_id == "sess-1"
            assert current_attribution().purpose == "compacting"
            with generating_title():
                assert current_attribution().purpose == "generating_title"
            with session_scope("other"):
                assert current_attribution().purpose is None
            with sub_session("sub"):
                assert current_attribution().purpose == "compacting"
        assert current_attribution().purpose is None
    for scope in (session_scope, sub_session):
        with compacting(), scope("sess-1"):  # the purpose was waiting for a session
            assert current_attribution() == Attribution("sess-1", None, "sess-1", "compacting")
    with compacting(), session_scope(None):
        assert current_attribution() == NOTHING


def test_reprs_are_what_one_writes() -> None:
    scopes = session_scope("sess-1"), sub_session("sub"), generating_title(), compacting()
    shown = "session_scope('sess-1') sub_session('sub') generating_title() compacting()"
    assert " ".join(map(repr, scopes)) == shown
