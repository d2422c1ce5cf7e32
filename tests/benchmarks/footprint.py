"""What does it take beside the time of calls? Memory, and the time of the import."""

from __future__ import annotations

import gc
import itertools
import subprocess
import sys
import tracemalloc

from rounds import Row, Times, compared
from sending import GATEWAY, MARKER, SEND_ARGUMENTS, NullAdapter, prepared

from cagent_session import SessionIdAdapter, session_scope

CALLS = 100_000
KEPT_BYTES = 0.01  # of a call: over all of them, less than a few objects
IMPORTS = """
from time import perf_counter
start = perf_counter()
import requests
between = perf_counter()
from cagent_session import mount, session_scope
print(between - start, perf_counter() - start)
"""


def memory() -> tuple[float, float]:
    """Return the bytes that a call in a session of its own allocates, at most at a time, and those that it keeps."""
    adapter, request, numbers = (
        SessionIdAdapter(GATEWAY, inner=NullAdapter()),
        prepared(**MARKER),
        itertools.count(),
    )

    def call() -> None:
        with session_scope(f"sess-{next(numbers)}"):
            adapter.send(request, **SEND_ARGUMENTS)

    def held() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        for _ in range(1000):
            call()
        before = held()
        tracemalloc.reset_peak()
        call()
        allocated = tracemalloc.get_traced_memory()[1] - before
        before = held()
        for _ in range(CALLS):
            call()
        return allocated, (held() - before) / CALLS
    finally:
        tracemalloc.stop()


def imports(rounds: int) -> Times:
    """Time the imports, each time in an interpreter of its own."""
    command = [sys.executable, "-c", IMPORTS]
    outputs = [
        subprocess.run(command, check=True, capture_output=True, text=True).stdout
        for _ in range(rounds)
    ]
    alone, both = zip(*(map(float, output.split()) for output in outputs), strict=True)
    return {"import requests": alone, "import requests and cagent_session": both}


def rows(rounds: int) -> tuple[Times, list[Row]]:
    times, (allocated, kept) = imports(max(10, rounds // 10)), memory()
    return times, [
        compared(
            "import, beyond requests",
            times,
            "import requests and cagent_session",
            "import requests",
        ),
        Row("at most allocated by a call, its scope included", [allocated], unit="byte"),
        Row(
            f"kept by {CALLS:,} calls",
            [kept * CALLS],
            [kept * CALLS],
            KEPT_BYTES * CALLS,
            unit="byte",
        ),
    ]
