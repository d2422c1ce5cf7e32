"""How is one thing's time told from another's? In rounds that run them all in turn, by the ratio in each round.

A machine that is busy for a while slows all of a round down alike, so that a ratio holds where a time does not.
"""

from __future__ import annotations

import random
import statistics
import timeit
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import comb

Times = Mapping[str, Sequence[float]]  # seconds that one call took, round by round
OfRound = Callable[[Mapping[str, float]], float]  # makes one figure of a round's times

CONFIDENCE = 0.99


@dataclass(frozen=True)
class Row:
    """A row of the table: what was measured, and what is wanted of it."""

    what: str
    cost: Sequence[float] = ()  # seconds, or bytes
    ratios: Sequence[float] = ()
    target: float | None = None  # the most that the ratios' median may be
    unit: str = "second"

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def interval(self) -> tuple[float, float]:
        return interval(self.ratios)

    @property
    def verdict(self) -> str:
        """Say whether the target is met. It is missed where the whole interval is beyond it, and else open."""
        if self.target is None:
            return ""
        if self.ratio <= self.target:
            return "met"
        return "missed" if self.interval[0] > self.target else "open"


def paired(
    cases: Mapping[str, timeit.Timer], rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Time each of *cases* in each of the *rounds* for about so many *seconds*, in a new order every time."""
    loops = {name: calibrated(timer, seconds) for name, timer in cases.items()}
    times: dict[str, list[float]] = {name: [] for name in cases}
    order, shuffle = list(cases), random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            times[name].append(cases[name].timeit(loops[name]) / loops[name])
    return times


def calibrated(timer: timeit.Timer, seconds: float) -> int:
    """Return how many calls take about as long as *seconds*; this warms the case up as well."""
    loops = 1
    while (taken := timer.timeit(loops)) < seconds / 2:
        loops *= 2
    return max(1, round(loops * seconds / taken))


def each_round(times: Times, figure: OfRound) -> list[float]:
    """Return the *figure* of each round."""
    return [figure(dict(zip(times, one, strict=True))) for one in zip(*times.values(), strict=True)]


def compared(what: str, times: Times, case: str, base: str, target: float | None = None) -> Row:
    """Return the row of what *case* costs beyond its *base*, and of the ratio of both."""
    cost = each_round(times, lambda one: one[case] - one[base])
    return Row(what, cost, each_round(times, lambda one: one[case] / one[base]), target)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return what the median is in with confidence, by order statistics: no distribution is taken for granted."""
    ordered, rank = sorted(values), 0
    outside = 2 / 2 ** len(
        ordered
    )  # the probability that the median is beyond the outermost values
    while (
        outside := outside + 2 * comb(len(ordered), rank + 1) / 2 ** len(ordered)
    ) < 1 - CONFIDENCE:
        rank += 1
    return ordered[rank], ordered[-1 - rank]
