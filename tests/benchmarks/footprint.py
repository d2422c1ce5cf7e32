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
    times = (json.loads(subprocess.check_output([sys.executable, "-c", IMPORTS])) for _ in range(3))
    return [{"requests": alone, "both": both} for alone, both in times]


def bytes_kept(calls: int) -> int:
    """Return how many more bytes are in use after *calls* calls, each in its own session."""
    send = sending(SessionIdAdapter(URL, inner=NULL), MARKER)
    tracemalloc.start()
    in_use = [0, 0]
    for turn, number_of_calls in enumerate((1000, calls)):
        for number in range(number_of_calls):
            with session_scope(f"sess-{number}"):
                send()
        gc.collect()
        in_use[turn] = tracemalloc.get_traced_memory()[0]
    return in_use[1] - in_use[0]
