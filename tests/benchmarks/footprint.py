"""Measurements of the time that importing the library takes, and of the memory it keeps."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tracemalloc

from sending import MARKER, NULL, URL, sending
from turns import Turns

from cagent_session import SessionIdAdapter, session_scope

IMPORTS = """
import time
start = time.process_time()
import requests
between = time.process_time()
from cagent_session import mount, session_scope
print([between - start, time.process_time() - start])
"""


def turns(*names: str) -> Turns:
    """Import in several new interpreters. Return the processor time of the imports in each."""
    command = [sys.executable, "-c", IMPORTS]
    times = (json.loads(subprocess.check_output(command)) for _ in range(3))
    return [{"requests": alone, "both": both} for alone, both in times]


def bytes_kept(calls: int) -> int:
    """Return how many more bytes are in use after *calls* calls, each in its own session."""
    send = sending(SessionIdAdapter(URL, inner=NULL), MARKER)

    def bytes_in_use_after(calls: int) -> int:
        for number in range(calls):
            with session_scope(f"sess-{number}"):
                send()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    before = bytes_in_use_after(1000)
    return bytes_in_use_after(calls) - before
