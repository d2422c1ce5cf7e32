"""``Report``: how many calls of a program were attributed, and why the others were not."""

from __future__ import annotations

import atexit
import functools
import os
import sys
import sysconfig
import threading
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from cagent_session.origins import without_secrets
from cagent_session.reporting import ANOTHER_ORIGIN, LEFT_ORIGIN, NO_MARKER, NO_SESSION, observers

K = TypeVar("K")

_MOST_ROWS = 20
_MOST_KEYS = 10_000  # it limits the memory

_WHY_NOT = {  # in the order of the table
    NO_MARKER: "no marker",
    NO_SESSION: "no session",
    ANOTHER_ORIGIN: "not sent to the gateway",
    LEFT_ORIGIN: "not sent to the gateway: redirected",
}
_NOT_TO_GATEWAY = (ANOTHER_ORIGIN, LEFT_ORIGIN)

# The stack of an SDK's coroutine in a task of its own lacks the user's code. So let Python remember
# where coroutines were made. This many frames are enough if an SDK decorates its functions.
_ORIGIN_DEPTH = 10

_STDLIB = sysconfig.get_path("stdlib") + os.sep
_PACKAGES = {"site-packages", "dist-packages"}
_THIS_PACKAGE = str(Path(__file__).parent) + os.sep


class Report:
    """The calls that this process makes, counted. A forked process begins with none.

    :param package: a package of the user's own code, even if it is installed. It may be ``""``.
    """

    def __init__(self, package: str) -> None:
        self._own = ("__main__", package)
        self._folder = os.getcwd() + os.sep  # noqa: PTH109 - it is the start of a text
        self._fork = ""
        self._clear()

    def _clear(self) -> None:
        self._lock = threading.RLock()  # the handler of a signal may make a call, too
        self._calls = Counter[str]()  # by URL
        self._attributed = Counter[str]()  # by URL
        self._not_attributed = Counter[tuple[str, str]]()  # by reason and place
        self._sessions = set[object]()

    def start(self) -> None:
        """Count the calls from now on, and print the report when the program ends."""
        observers.append(self._observe)
        sys.set_coroutine_origin_tracking_depth(_ORIGIN_DEPTH)
        atexit.register(self._write)
        if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no fork
            os.register_at_fork(after_in_child=self._begin_fork)

    def cancel(self) -> None:
        """Print no report."""
        atexit.unregister(self._write)

    def _begin_fork(self) -> None:
        self._fork = f" for the forked process {os.getpid()}"
        self._clear()

    def _observe(self, request: Any, reason: str, session_id: object) -> None:
        packages, place = self._caller()
        if _is_reported_twice(packages):
            return
        with self._lock:
            url = _kept(without_secrets(str(request.url)), self._calls, "all other URLs")
            self._calls[url] += 1
            if session_id is None:
                cause = _kept((reason, place), self._not_attributed, (reason, "all other places"))
                self._not_attributed[cause] += 1
            else:
                self._attributed[url] += 1
                self._sessions.add(_kept(session_id, self._sessions, None))

    def _write(self) -> None:
        if self._calls or not self._fork:
            sys.stderr.write(f"{self}\n")

    def __str__(self) -> str:
        with self._lock:
            calls, attributed = self._calls.copy(), self._attributed.copy()
            causes, sessions = self._not_attributed.copy(), self._sessions.copy()
        heading = f"Report of cagent-session{self._fork}"
        if not calls:
            return f"{heading}: no calls by requests, httpx, httpx2, aiohttp or botocore."
        total, right = calls.total(), attributed.total()
        number = f"more than {_MOST_KEYS}" if None in sessions else len(sessions)
        text = f"{heading} (calls: {total}, attributed: {right}, sessions: {number})\n\n"
        urls = sorted(calls, key=lambda url: (-calls[url], url))
        text += _table(
            ("calls", "attributed", "URL"), [(calls[url], attributed[url], url) for url in urls]
        )
        if causes:
            order = list(_WHY_NOT)
            keys = sorted(causes, key=lambda key: (order.index(key[0]), -causes[key], key[1]))
            rows = [(causes[key], _WHY_NOT[key[0]], key[1]) for key in keys]
            text += _table(("calls", "why not attributed", "made at"), rows)
        elsewhere = sum(n for (reason, _), n in causes.items() if reason in _NOT_TO_GATEWAY)
        return text + _conclusion(total - elsewhere, total - elsewhere - right)

    def _caller(self) -> tuple[list[str], str]:
        """Return the packages that take part in a call, and where the user's code made it."""
        packages = list[str]()
        task_frame, origin = _current_task()
        frame: FrameType | None = sys._getframe(2)  # noqa: SLF001
        while frame is not None:
            file = frame.f_code.co_filename
            package = str(frame.f_globals.get("__name__")).partition(".")[0]
            is_own = package in self._own and not file.startswith(_THIS_PACKAGE)
            if is_own or not _is_installed(file):
                return packages, self._place(file, frame.f_lineno)
            packages.append(package)
            if frame is task_frame:
                own = (self._place(*made[:2]) for made in origin if not _is_installed(made[0]))
                if place := next(own, None):
                    return packages, place
            frame = frame.f_back
        return packages, "not known"

    def _place(self, file: str, line: int) -> str:
        return f"{file.removeprefix(self._folder)}:{line}"


def _current_task() -> tuple[FrameType | None, Iterable[tuple[str, int, str]]]:
    """Return the outermost frame of the task that runs now, and where its coroutine was made."""
    try:
        task = sys.modules["asyncio"].current_task()
    except (KeyError, RuntimeError):  # the program does not use asyncio, or not in this thread
        return None, ()
    coroutine = task.get_coro() if task else None
    return getattr(coroutine, "cr_frame", None), getattr(coroutine, "cr_origin", None) or ()


@functools.lru_cache(maxsize=_MOST_KEYS)
def _is_installed(file: str) -> bool:
    """Return whether *file* is not the user's: installed, of this library, or no file at all."""
    is_known = file.startswith(("<", _STDLIB, _THIS_PACKAGE))
    return is_known or not _PACKAGES.isdisjoint(Path(file).parts)


def _is_reported_twice(packages: list[str]) -> bool:
    """Return whether another library reports the same call.

    :param packages: those that take part in the call. The one that reports it comes first.
    """
    reporter = next((name for name in packages if name not in ("cagent_session", "aiosignal")), "")
    if reporter == "aiohttp":  # a transport of httpx may send through aiohttp
        return "httpx" in packages or "httpx2" in packages
    # aiobotocore runs the handlers of stamp_botocore(), and then sends through aiohttp or httpx.
    return reporter in ("botocore", "aiobotocore") and "aiobotocore" in packages


def _kept(key: K, keys: Collection[K], rest: K) -> K:
    """Return *key*, or *rest* if *key* is new and there are too many keys already."""
    return key if key in keys or len(keys) < _MOST_KEYS else rest


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """Return a table of the first *rows*. The first column has numbers of calls."""
    shown, others = rows[:_MOST_ROWS], rows[_MOST_ROWS:]
    widths = [max(len(str(cell)) for cell in column) for column in zip(head, *shown, strict=True)]
    adjust = [str.rjust if isinstance(cell, int) else str.ljust for cell in rows[0]]
    lines = [
        "  ".join(a(str(cell), width) for a, cell, width in zip(adjust, row, widths, strict=True))
        for row in (head, *shown)
    ]
    if others:
        lines.append(f"{sum(row[0] for row in others):>{widths[0]}}  in {len(others)} more rows")
    return "".join(f"  {line.rstrip()}\n" for line in lines) + "\n"


def _conclusion(calls: int, not_attributed: int) -> str:
    if not calls:
        return "No call went to the gateway."
    if calls == 1:
        return f"The call to the gateway was {'not ' if not_attributed else ''}attributed."
    if not not_attributed:
        return f"All {calls} calls to the gateway were attributed."
    were = "was" if not_attributed == 1 else "were"
    return f"{not_attributed} of {calls} calls to the gateway {were} not attributed."
