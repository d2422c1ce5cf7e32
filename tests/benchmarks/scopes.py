"""What do scopes cost? Entering one, a generator in one, and carrying one to a pool."""

from __future__ import annotations

import timeit
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

from rounds import Row, Times, compared, paired

from cagent_session import SessionExecutor, in_session, session_scope

ITEMS = 1000
SECONDS = 0.003
variable: ContextVar[str | None] = ContextVar("variable", default=None)


def least() -> None:
    token = variable.set("sess-1")
    variable.reset(token)


def scope() -> None:
    with session_scope("sess-1"):
        pass


def items(session_id: str) -> Iterator[int]:
    yield from range(ITEMS)


items_in_session = in_session("session_id")(items)


def job() -> None:
    pass


def rows(rounds: int) -> tuple[Times, list[Row]]:
    with ThreadPoolExecutor(1) as pool, session_scope("sess-1"):
        carrying = SessionExecutor(pool)
        cases = {
            "least": timeit.Timer(least),
            "session_scope": timeit.Timer(scope),
            "generator": timeit.Timer(lambda: sum(items("sess-1"))),
            "in_session": timeit.Timer(lambda: sum(items_in_session("sess-1"))),
            "ThreadPoolExecutor": timeit.Timer(lambda: pool.submit(job).result()),
            "SessionExecutor": timeit.Timer(lambda: carrying.submit(job).result()),
        }
        times = paired(cases, rounds, SECONDS)
    return times, [
        compared("session_scope, of ContextVar.set() and reset()", times, "session_scope", "least"),
        compared(f"in_session on a generator of {ITEMS:,} items", times, "in_session", "generator"),
        compared("SessionExecutor.submit()", times, "SessionExecutor", "ThreadPoolExecutor"),
    ]
