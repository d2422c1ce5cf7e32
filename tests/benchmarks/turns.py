"""Timing of calls that take turns, so that a busy machine slows all of them equally."""

from __future__ import annotations

import random
import time
import timeit
from collections.abc import Callable, Mapping, Sequence

Case = Callable[[], object]
Turns = list[dict[str, float]]  # how many seconds one call of each case took
TURN_SECONDS, ALL_SECONDS, FEWEST_TURNS = 0.0005, 0.25, 20


def in_turns(cases: Mapping[str, Case], names: Sequence[str], *, by_cpu: bool) -> Turns:
    """Time the named cases by the clock or *by_cpu*. Other programs take no time of *by_cpu*."""
    clock = time.process_time if by_cpu else time.perf_counter
    timers = {name: timeit.Timer(cases[name], timer=clock) for name in names}
    once = {name: max(min(timer.repeat(number=1)), 1e-7) for name, timer in timers.items()}
    # A turn calls a short case many times, because the clock is too coarse for one call.
    calls = {name: max(1, round(TURN_SECONDS / seconds)) for name, seconds in once.items()}
    turns, deadline = Turns(), time.perf_counter() + ALL_SECONDS
    while time.perf_counter() < deadline or len(turns) < FEWEST_TURNS:
        order = random.sample(names, len(names))
        turns.append({name: timers[name].timeit(calls[name]) / calls[name] for name in order})
    return turns
