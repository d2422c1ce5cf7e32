"""Does the library stand the soak, and does the soak see what is broken? Its short form, and breaks on purpose."""

from __future__ import annotations

import functools
import inspect
import logging
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import callers
import pytest
import requests
from callers import (
    ABROAD,
    AT_HOME,
    FROM_ABROAD,
    KINDS,
    KINDS_OF_THEIR_OWN,
    WAYS,
    Shelf,
    Stage,
    Worker,
)
from calls import FAULTS, GATEWAY, READINGS, REDIRECTS
from requests.structures import CaseInsensitiveDict
from soak import session_ids, soak

from cagent_session import (
    SESSION_ID_HEADER,
    SessionExecutor,
    SessionIdAdapter,
    current_session_id,
    session_scope,
)

DEADLINE = 60
Break = Callable[[pytest.MonkeyPatch], None]
OWN: dict[str, Any] = {
    name: getattr(callers, name) for name in ("session_id_hook", "in_session", "mount")
}


@pytest.fixture(autouse=True)
def nothing_is_logged() -> Iterator[None]:
    """Pytest keeps what urllib3 logs, and thereby the connections that broke, with all that they hold."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def test_the_short_form_finds_nothing() -> None:
    """Two hundred sessions, each kind of client, each way to a call, each fault and redirect: all of them were met."""
    summary = soak(22, threads=32, sessions=200, seed=7)
    assert not any(summary.findings.values()), str(summary)
    assert summary.is_flat, str(summary)
    assert summary.is_good
    assert summary.tally["sessions"] > 150  # how many are drawn depends on the machine's speed
    assert summary.tally["retries"] > 0
    assert summary.counts("client")["mounts"] > 200
    met = {
        what: set(summary.counts(what))
        for what in ("kind", "way", "fault", "redirect", "reading", "route", "ended")
    }
    assert met == {
        "kind": {*KINDS, *KINDS_OF_THEIR_OWN},
        "way": set(WAYS),
        "fault": set(FAULTS),
        "redirect": set(map(str, REDIRECTS)),
        "reading": set(READINGS),
        "route": {GATEWAY, *AT_HOME, *ABROAD, *FROM_ABROAD},
        "ended": {"completed", "failed", "refused"},
    }


def when_sending(broken: Callable[..., Any]) -> Break:
    """Give a break the adapter's own ``send`` and the request."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        original = SessionIdAdapter.send

        def send(self: SessionIdAdapter, request: Any, **options: Any) -> Any:
            return broken(functools.partial(original, self, **options), request, vars(self))

        monkeypatch.setattr(SessionIdAdapter, "send", send)

    return patch


def stamp_the_first_session_seen(send: Any, request: Any, adapter: dict[str, Any]) -> Any:
    with session_scope(adapter.setdefault("first", current_session_id())):
        return send(request)


def take_headers_along(send: Any, request: Any, _: Any) -> Any:
    response = send(request)
    request.headers = CaseInsensitiveDict(request.headers)  # which do not remember where they went
    return response


def stamp_the_callers_request(send: Any, request: Any, _: Any) -> Any:
    response = send(request)
    if SESSION_ID_HEADER in response.request.headers:
        # As a plain str: what we set would be taken back.
        request.headers[SESSION_ID_HEADER] = str(response.request.headers[SESSION_ID_HEADER])
    return response


def answer_from_memory(send: Any, request: Any, adapter: dict[str, Any]) -> Any:
    if "answer" not in adapter:
        adapter["answer"] = send(request)
    return adapter["answer"]


def send_twice(send: Any, request: Any, _: Any) -> Any:
    send(request).close()
    return send(request)


def raise_another_error(send: Any, request: Any, _: Any) -> Any:
    raise KeyError(request.url)


def stale_hook(gateway: str | None = None, **options: Any) -> Any:
    hook, seen = OWN["session_id_hook"](gateway, **options), []

    def stale(request: Any) -> None:
        seen.append(current_session_id())
        with session_scope(seen[0]):
            hook(request)

    return stale


def leaky_hook(gateway: str | None = None, **options: Any) -> Any:
    """Like ours, but that it knows no redirects."""
    hook = OWN["session_id_hook"](gateway, **options)

    def leaky(request: Any) -> None:
        request.extensions = {}
        hook(request)

    return leaky


def scope_around_yield(of: str) -> Callable[[Any], Any]:
    def decorate(fn: Any) -> Any:
        if not inspect.isgeneratorfunction(fn):
            return OWN["in_session"](of)(fn)

        def generator(session_id: Any, *args: Any) -> Iterator[Any]:
            with session_scope(session_id):
                yield from fn(session_id, *args)

        return generator

    return decorate


def instead_of(name: str, broken: Any, owner: Any = callers) -> Break:
    return lambda monkeypatch: monkeypatch.setattr(owner, name, broken)


BREAKS: dict[str, tuple[Break, str]] = {
    "the adapter stamps the first session it saw": (
        when_sending(stamp_the_first_session_seen),
        "wrong",
    ),
    "the adapter lets headers go along on redirects": (when_sending(take_headers_along), "leaked"),
    "the adapter stamps the caller's request": (when_sending(stamp_the_callers_request), "wrong"),
    "the adapter answers from memory": (when_sending(answer_from_memory), "lost"),
    "the adapter sends twice": (when_sending(send_twice), "unaccounted"),
    "the adapter raises what it should not": (when_sending(raise_another_error), "wrong"),
    "the hook stamps the first session it saw": (
        instead_of("session_id_hook", stale_hook),
        "wrong",
    ),
    "the hook lets headers go along on redirects": (
        instead_of("session_id_hook", leaky_hook),
        "leaked",
    ),
    "mount pins no gateway": (
        instead_of("mount", lambda session, _=None, **options: OWN["mount"](session, **options)),
        "leaked",
    ),
    "mount insists on nothing": (
        instead_of("mount", lambda session, url=None, **_: OWN["mount"](session, url)),
        "wrong",
    ),
    "unmount leaves it mounted": (instead_of("unmount", lambda session: session), "wrong"),
    "jobs of a pool are not carried": (
        instead_of(
            "submit", lambda self, fn, *args: self._executor.submit(fn, *args), SessionExecutor
        ),
        "wrong",
    ),
    "what a pool maps is not carried": (
        instead_of("map", lambda self, fn, *args: self._executor.map(fn, *args), SessionExecutor),
        "wrong",
    ),
    "nothing is carried to a thread": (instead_of("carry_session", lambda fn: fn), "wrong"),
    "a generator leaks its session to its consumer": (
        instead_of("in_session", scope_around_yield),
        "wrong",
    ),
    "scopes are not left": (instead_of("__exit__", lambda *_: None, session_scope), "leaked"),
}


@pytest.mark.parametrize(("broken", "finding"), BREAKS.values(), ids=BREAKS)
def test_what_is_broken_is_found_within_seconds(
    broken: Break, finding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch)
    summary = soak(20, threads=8, sessions=20, seed=1)
    assert summary.findings[finding] > 0, str(summary)
    assert summary.is_stopped
    assert not summary.is_good
    assert any(line.startswith(f"{finding}: ") for line in summary.tally["first"])


def test_answers_that_are_dropped_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(1)

    def drop_some(send: Any, request: Any, _: Any) -> Any:
        response = send(request)
        if rng.random() < 0.05:
            response.close()
            raise requests.ConnectionError
        return response

    when_sending(drop_some)(monkeypatch)
    summary = soak(20, threads=8, sessions=20, seed=1)
    assert summary.findings["failed for no reason"] > 0, str(summary)
    assert summary.is_stopped


@pytest.mark.parametrize(
    "key", [object, current_session_id], ids=["for each call", "for each session"]
)
def test_memory_that_grows_is_found(
    key: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[object, Any] = {}

    def keep(send: Any, request: Any, _: Any) -> Any:
        kept[key()] = [dict(request.headers) for _ in range(100)]
        return send(request)

    when_sending(keep)(monkeypatch)
    summary = soak(5, threads=8, sessions=20, seed=1)
    assert not any(summary.findings.values()), str(summary)
    assert summary.is_flat is False, str(summary)
    assert not summary.is_good


def test_the_same_seed_plans_the_same_calls() -> None:
    def plans(seed: int) -> list[Any]:
        urls = {GATEWAY: "http://gateway.example"}
        worker = Worker(3, seed, Stage(urls, session_ids(10, seed), lambda _: None, Shelf(1)))
        with worker.client() as client:
            planned = [worker.plan(client, worker.session()) for _ in range(20)]
        worker.shelf.clear()
        worker.stage.shelf.clear()
        return planned

    assert plans(1) == plans(1) != plans(2)


@pytest.fixture
def running() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Give a soak that has begun, and the gateway's port."""
    command = [
        sys.executable,
        str(Path(callers.__file__).with_name("soak.py")),
        "--minutes",
        "1",
        "--threads",
        "4",
    ]
    with subprocess.Popen([*command, "--seed", "5"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, int(process.stdout.readline().rpartition(":")[2])
        finally:
            process.kill()


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_an_interrupt_ends_it_with_the_summary_so_far(
    running: tuple[subprocess.Popen[str], int],
) -> None:
    process, port = running
    assert process.stdout is not None
    assert process.stdout.readline().endswith(" failed for no reason: 0\n")  # of the first round
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=DEADLINE)
    assert (
        "wrong: 0, leaked: 0, lost: 0, unaccounted: 0, failed for no reason: 0 (seed 5, stopped)"
        in output
    )
    assert process.returncode == 0
    assert not is_listening(port)


def test_the_hosts_end_with_it_even_when_it_is_killed(
    running: tuple[subprocess.Popen[str], int],
) -> None:
    process, port = running
    assert is_listening(port)
    process.kill()
    deadline = time.monotonic() + DEADLINE
    while is_listening(port):
        assert time.monotonic() < deadline
        time.sleep(0.02)
