"""Tests of the soak: it finds nothing in the library, and it finds what a test breaks."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import soak
from requests.structures import CaseInsensitiveDict
from soak import Soak

from cagent_session import SessionIdAdapter, current_session_id, session_scope

send = SessionIdAdapter.send
leaked_objects: list[object] = []  # what an adapter with a memory leak keeps


@pytest.fixture(autouse=True)
def without_logging() -> Iterator[None]:
    """Turn logging off: pytest keeps all records, so memory would grow."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)
    leaked_objects.clear()


def test_it_finds_nothing_in_the_library() -> None:
    """The run must have every kind of client, way to call, route and fault."""
    run = Soak(sessions=200)
    run.run(seconds=12, threads=32)
    assert run.findings == []
    expected_counts = [*soak.KINDS, "completed", "failed", "refused"]
    expected_counts += [f"way {way.__name__}" for way in soak.WAYS]
    expected_counts += [f"fault {fault}" for fault in soak.FAULTS]
    expected_counts += [f"route {route}" for route in soak.AT_HOME + soak.AWAY + soak.FROM_AWAY]
    assert set(expected_counts) == set(run.counts)


def test_the_program_prints_a_summary_and_its_verdict() -> None:
    command = [sys.executable, str(soak.__file__), "--threads", "4", "--minutes", "0.05"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert " completed\n" in done.stdout
    assert done.stdout.endswith("\nfound: 0\n")
    assert (done.returncode, done.stderr) == (0, "")


def stamp_the_first_session(adapter: Any, request: Any, **options: Any) -> Any:
    with session_scope(vars(adapter).setdefault("first", current_session_id())):
        return send(adapter, request, **options)


def stamp_nothing(adapter: Any, request: Any, **options: Any) -> Any:
    with session_scope(None):
        return send(adapter, request, **options)


def forget_the_origin(adapter: Any, request: Any, **options: Any) -> Any:
    response = send(adapter, request, **options)
    request.headers = CaseInsensitiveDict(request.headers)
    return response


def keep_each_call(adapter: Any, request: Any, **options: Any) -> Any:
    leaked_objects.extend(object() for _ in range(100))
    return send(adapter, request, **options)


@pytest.mark.parametrize(
    ("broken", "finding"),
    [
        (stamp_the_first_session, "wrong|lost"),
        (forget_the_origin, "leaked"),
        (stamp_nothing, "lost"),
        (keep_each_call, "memory"),
    ],
)
def test_it_finds_what_is_broken(
    broken: Any, finding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SessionIdAdapter, "send", broken)
    run = Soak(sessions=20)
    run.run(seconds=4, threads=8)
    assert any(re.match(f"({finding}): ", found) for found in run.findings), run.findings[:3]
