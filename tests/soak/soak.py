"""Does it hold for long? Nothing goes wrong, leaks or is lost over many threads, sessions, faults and new clients.

Run ``python tests/soak/soak.py --minutes 10 --threads 32 --sessions 200``. Ctrl-C ends it with the summary so far.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from array import array
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import IO, Any, cast

from callers import KINDS, SessionId, Shelf, Stage, Worker
from calls import GATEWAY, Report
from hosts import memory

ROUNDS, LONGEST_ROUND = (
    16,
    10,
)  # at least, and seconds; after each, every client is closed, and memory is measured
WARM_UP = 0.25  # of the rounds
ALLOWED = 0.005  # growth from the first third after that to the last one
UNWANTED = ("wrong", "leaked", "lost", "unaccounted", "failed for no reason")
MEASURED = ("blocks", "objects")
VERDICTS = {True: "flat", False: "growing", None: "not judged, in so few rounds"}


class Hosts:
    """The process of the hosts, seen from here."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("hosts.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for us; it ends when we hang up, or are no more
        )
        self._input, self._output = (
            cast("IO[str]", self._process.stdin),
            cast("IO[str]", self._process.stdout),
        )
        self._lock = threading.Lock()
        self.urls: dict[str, str] = json.loads(self._output.readline())

    def tell(self, report: Report) -> None:
        self._say(json.dumps(asdict(report)))

    def tally(self) -> dict[str, Any]:
        """Ask what was counted; no call may be under way."""
        self._say("")
        return dict(json.loads(self._output.readline()))

    def close(self) -> None:
        self._process.communicate()

    def _say(self, line: str) -> None:
        with self._lock:
            self._input.write(line + "\n")
            self._input.flush()


@dataclass
class Summary:
    """What came of a run: the hosts' tally, and what either process held after each round."""

    seed: int
    tally: dict[str, Any] = field(default_factory=dict)
    rounds: dict[str, dict[str, array[int]]] = field(
        default_factory=lambda: {"client": {}, "hosts": {}}
    )
    is_stopped: bool = False

    def add(self, process: str, held: dict[str, int]) -> None:
        """Add what a process held after a round; in arrays, so that the soak does not measure itself."""
        for what, number in held.items():
            self.rounds[process].setdefault(what, array("Q")).append(number)

    def counts(self, what: str) -> dict[str, int]:
        return dict(self.tally["counts"].get(what, {}))

    @property
    def findings(self) -> dict[str, int]:
        """How often each of the things was found that must not be."""
        return {what: self.tally["findings"].get(what, 0) for what in UNWANTED}

    def growth(self, process: str, what: str) -> float | None:
        """Return the share by which it grew, of medians; ``None`` where there were too few rounds to tell."""
        held = self.rounds[process][what]
        warm = held[int(len(held) * WARM_UP) :]
        third = len(warm) // 3
        return median(warm[-third:]) / median(warm[:third]) - 1 if third > 1 else None

    @property
    def is_flat(self) -> bool | None:
        """Tell whether memory has stopped growing; ``None`` where there were too few rounds to tell."""
        grown = [self.growth(process, what) for process in self.rounds for what in MEASURED]
        return None if None in grown else all(cast("float", share) <= ALLOWED for share in grown)

    @property
    def is_good(self) -> bool:
        return (
            self.tally["calls"] > 0
            and not any(self.findings.values())
            and self.is_flat is not False
        )

    @property
    def verdict(self) -> str:
        return ", ".join(f"{what}: {count}" for what, count in self.findings.items())

    def __str__(self) -> str:
        totals = ("calls", "sessions", "arrived", "hops", "retries")
        lines = [", ".join(f"{name}: {self.tally[name]}" for name in totals)]
        for what in sorted(self.tally["counts"]):
            counts = sorted(self.counts(what).items(), key=lambda each: -each[1])
            lines.append(f"  by {what}: {'; '.join(f'{name} {count}' for name, count in counts)}")
        lines.append(f"memory: {VERDICTS[self.is_flat]}")
        for process, rounds in self.rounds.items():
            grown = {what: self.growth(process, what) for what in MEASURED}
            held = [f"{what} {numbers[0]} to {numbers[-1]}" for what, numbers in rounds.items()]
            shares = [f"{what} {share:+.3%}" for what, share in grown.items() if share is not None]
            lines.append(
                f"  of the {process}: {', '.join(held)}; grown: {', '.join(shares) or 'unknown'}"
            )
        stopped = ", stopped" if self.is_stopped else ""
        return "\n".join(
            [*lines, *self.tally["first"], f"{self.verdict} (seed {self.seed}{stopped})"]
        )


def soak(
    seconds: float,
    threads: int,
    sessions: int,
    seed: int,
    stop: threading.Event | None = None,
    show: Callable[[str], None] = lambda _: None,
) -> Summary:
    """Run for so long, or until something is wrong or *stop* is set; *show* is given a line a round."""
    stop, summary = stop or threading.Event(), Summary(seed)
    with contextlib.closing(Hosts()) as hosts, ThreadPoolExecutor(threads) as pool:
        show(f"seed {seed}, gateway {hosts.urls[GATEWAY]}")
        stage = Stage(hosts.urls, session_ids(sessions, seed), hosts.tell, Shelf(2 * len(KINDS)))
        workers = [Worker(number, seed, stage) for number in range(threads)]
        start, rounds = time.monotonic(), max(ROUNDS, math.ceil(seconds / LONGEST_ROUND))
        for _ in range(rounds):
            stage.set_up()
            end = time.monotonic() + seconds / rounds
            list(pool.map(Worker.work, workers, itertools.repeat(end), itertools.repeat(stop)))
            stage.clear()
            for worker in workers:
                worker.shelf.clear()
            held = memory()
            summary.tally = hosts.tally()
            summary.add("client", held)
            summary.add("hosts", summary.tally.pop("memory"))
            passed, calls, blocks = time.monotonic() - start, summary.tally["calls"], held["blocks"]
            show(f"{passed:.0f} s, {calls} calls, {blocks} blocks, {summary.verdict}")
            summary.is_stopped = stop.is_set() or any(summary.findings.values())
            if summary.is_stopped:
                break
    return summary


def session_ids(number: int, seed: int) -> list[SessionId]:
    """Return UUIDs, and IDs of every character that one may have but letters."""
    rng = random.Random(seed)
    odd = [f"sess-{index}" + "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~" for index in range(number // 2)]
    return [
        *(uuid.UUID(int=rng.getrandbits(128), version=4) for _ in range(number - len(odd))),
        *odd,
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=32)
    parser.add_argument("--sessions", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    stop = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: stop.set())

    def show(line: object) -> None:
        print(line, flush=True)

    summary = soak(
        60 * options.minutes, options.threads, options.sessions, options.seed, stop, show
    )
    show(summary)
    return 0 if summary.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
