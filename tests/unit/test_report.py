"""Tests of ``Report``: what it counts, whose code made a call, and its text."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import re
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cagent_session import Gateway, reporting
from cagent_session import report as report_module
from cagent_session.decision import Decision
from cagent_session.report import Report
from cagent_session.reporting import ANOTHER_ORIGIN, LEFT_ORIGIN, NO_MARKER, NO_SESSION, STAMPED

CHAT = "https://gateway.example/v1/chat"
SDK = "/venv/lib/python3.11/site-packages/sdk.py"


@pytest.fixture
def at_exit(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """The functions that a program would run at its end."""
    functions: list[Callable[[], None]] = []
    monkeypatch.setattr(atexit, "register", functions.append)
    return functions


@pytest.fixture
def report(at_exit: list[Callable[[], None]]) -> Iterator[Report]:
    """A report that counts. "my_agent" is the user's own package."""
    observers, depth = list(reporting.observers), sys.get_coroutine_origin_tracking_depth()
    report = Report("my_agent")
    report.start()
    yield report
    reporting.observers[:] = observers
    sys.set_coroutine_origin_tracking_depth(depth)


def defined_in(file: str, source: str, module: str = "agent", **names: Any) -> Any:
    """Return the function ``f`` of *source*, which is the code of *module* in *file*."""
    namespace: dict[str, Any] = {"__name__": module, **names}
    exec(compile(source, file, "exec"), namespace)
    return namespace["f"]


CALL = f"""
def f(reason={NO_SESSION!r}, session_id=None, url={CHAT!r}):
    decision = decision_of(Gateway(), reason, False, None, session_id)
    report("omit", request(method="POST", url=url), decision)
"""


def call_by(*packages: str) -> Callable[..., None]:
    """Return a function of installed packages. Each calls the next, and the last one reports."""
    names: dict[str, Any] = {"report": reporting.report, "request": SimpleNamespace}
    names.update(decision_of=Decision, Gateway=Gateway)
    function = defined_in(SDK, CALL, packages[-1], **names)
    for package in reversed(packages[:-1]):
        function = defined_in(SDK, "def f(*args): g(*args)", package, g=function)
    return function  # type: ignore[no-any-return] # it is of generated code


call = call_by("requests.sessions")


def table(report: Report, number: int) -> list[list[str]]:
    """Return the rows of the first or second table, without its head."""
    rows = str(report).split("\n\n")[number].splitlines()
    return [re.split(r"  +", row.strip()) for row in rows[1:]]


def places(report: Report) -> list[str]:
    return [place for _, _, place in table(report, 2)]


def test_the_text_has_both_tables_and_ends_with_the_result(
    report: Report, at_exit: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    use = "def f():\n  for args in calls: call(*args)"
    calls = [
        *((STAMPED, "sess-1"), (STAMPED, "sess-2"), (STAMPED, "sess-1")),
        *((NO_SESSION, b"callers"), (NO_SESSION, None), (NO_MARKER, None)),
        (LEFT_ORIGIN, None, "https://user:hunter2@other.example/?key=hunter2"),
        *[(ANOTHER_ORIGIN, None, "https://other.example/")] * 10,
        (ANOTHER_ORIGIN, None, "hunter2"),
    ]
    defined_in("/project/agent.py", use, calls=calls, call=call)()
    for function in at_exit:
        function()
    assert capsys.readouterr().err == textwrap.dedent(
        """\
        Report of cagent-session (calls: 18, attributed: 4, sessions: 3)

          calls  attributed  URL
             11           0  https://other.example/
              6           4  https://gateway.example/v1/chat
              1           0  a URL that can't be read

          calls  why not attributed                   made at
              1  no marker                            /project/agent.py:2
              1  no session                           /project/agent.py:2
             11  not sent to the gateway              /project/agent.py:2
              1  not sent to the gateway: redirected  /project/agent.py:2

        2 of 6 calls to the gateway were not attributed.
        """
    )


@pytest.mark.parametrize(
    ("attributed", "others", "result"),
    [
        (0, 0, "No call went to the gateway."),
        (1, 0, "The call to the gateway was attributed."),
        (0, 1, "The call to the gateway was not attributed."),
        (12, 0, "All 12 calls to the gateway were attributed."),
        (11, 1, "1 of 12 calls to the gateway was not attributed."),
        (9, 3, "3 of 12 calls to the gateway were not attributed."),
    ],
)
def test_the_result_is_a_sentence(
    report: Report, attributed: int, others: int, result: str
) -> None:
    call(ANOTHER_ORIGIN)
    for _ in range(attributed):
        call(STAMPED, "sess-1")
    for _ in range(others):
        call()
    assert str(report).endswith(f"\n\n{result}")


def test_without_calls_the_report_says_so(report: Report) -> None:
    assert str(report).endswith(": no calls by requests, httpx, httpx2, aiohttp or botocore.")


def test_if_all_calls_are_attributed_there_is_no_second_table(report: Report) -> None:
    call(STAMPED, "sess-1")
    assert len(str(report).split("\n\n")) == 3
    assert "why not" not in str(report)


def test_at_most_20_rows_are_shown(report: Report) -> None:
    for number in range(30):
        for _ in range(30 - number):
            call(url=f"{CHAT}/{number:02}")
    rows = table(report, 1)
    assert rows[0] == ["30", "0", f"{CHAT}/00"]
    assert rows[19] == ["11", "0", f"{CHAT}/19"]
    assert rows[20:] == [["55", "in 10 more rows"]]


def test_the_memory_is_limited(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_module, "_MOST_KEYS", 3)
    for _ in range(2):
        for number in range(5):
            call(STAMPED, f"sess-{number}", f"{CHAT}/{number}")
            source = f"def f(): call(url={CHAT + '/0'!r})"
            defined_in(f"/project/{number}.py", source, call=call)()
    assert "(calls: 20, attributed: 10, sessions: more than 3)" in str(report)
    assert table(report, 1) == [
        ["12", "2", f"{CHAT}/0"],
        ["4", "4", "all other URLs"],
        ["2", "2", f"{CHAT}/1"],
        ["2", "2", f"{CHAT}/2"],
    ]
    assert table(report, 2) == [
        ["4", "no session", "all other places"],
        *(["2", "no session", f"/project/{number}.py:1"] for number in range(3)),
    ]


class Interrupted(Counter[str]):
    """A counter that lets other threads run between reading a number and writing it."""

    def __getitem__(self, key: str) -> int:
        number = super().__getitem__(key)
        time.sleep(0)
        return number


def test_threads_can_call_at_the_same_time(report: Report) -> None:
    report._calls = Interrupted()
    threads = 8
    barrier = threading.Barrier(threads)

    def work(session_id: str) -> None:
        barrier.wait()
        for _ in range(50):
            call(STAMPED, session_id)

    workers = [threading.Thread(target=work, args=(f"sess-{n}",)) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert "(calls: 400, attributed: 400, sessions: 8)" in str(report)


def test_the_caller_is_the_innermost_code_of_the_user(report: Report) -> None:
    files = [
        *(SDK, "/usr/lib/python3/dist-packages/sdk.py", "<string>", "<frozen runpy>"),
        *(contextlib.__file__, reporting.__file__),
    ]
    inner = call
    for file in files:
        inner = defined_in(file, "def f(): g()", "sdk", g=inner)
    middle = defined_in("/project/agent.py", "\n\ndef f(): g()", g=inner)
    defined_in("/project/program.py", "def f(): g()", g=middle)()
    assert places(report) == ["/project/agent.py:3"]


@pytest.mark.parametrize("module", ["__main__", "my_agent", "my_agent.calls"])
def test_code_of_the_program_itself_is_the_users_even_if_it_is_installed(
    report: Report, module: str
) -> None:
    defined_in(SDK, "def f(): g()", module, g=call)()
    assert places(report) == [f"{SDK}:1"]


def test_files_in_the_working_directory_are_named_from_there(
    at_exit: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report = Report("")
    assert report._place(str(tmp_path / "agent.py"), 7) == "agent.py:7"
    assert report._place(f"{tmp_path}-2/agent.py", 7) == f"{tmp_path}-2/agent.py:7"


def test_if_no_code_is_the_users_the_caller_is_not_known(report: Report) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert places(report) == ["not known"]


GATHERED = """
import asyncio
async def ask():
    await asyncio.gather(*[sdk()])
def f():
    asyncio.run(ask())
"""


def test_a_coroutine_of_an_sdk_in_a_task_of_its_own_was_made_by_the_user(report: Report) -> None:
    names = {"call": call}
    sdk = defined_in(SDK, "async def work(): call()\ndef f(): return work()", "sdk", **names)
    defined_in("/project/agent.py", GATHERED, sdk=sdk)()
    assert places(report) == ["/project/agent.py:4"]


def test_a_coroutine_that_an_sdk_has_made_is_traced_to_what_runs_the_loop(report: Report) -> None:
    """Such are those that were made before the report started, or in another thread."""
    sdk = defined_in(SDK, "async def work(): call()\ndef f(): return work()", "sdk", call=call)
    sys.set_coroutine_origin_tracking_depth(0)
    defined_in("/project/agent.py", GATHERED, sdk=sdk)()
    assert places(report) == ["/project/agent.py:6"]


def test_a_callback_of_the_event_loop_is_no_task(report: Report) -> None:
    async def main() -> None:
        called = asyncio.Event()
        asyncio.get_running_loop().call_soon(call)
        asyncio.get_running_loop().call_soon(called.set)
        await called.wait()

    defined_in("/project/agent.py", "def f(): run(main())", run=asyncio.run, main=main)()
    assert places(report) == ["/project/agent.py:1"]


def test_the_program_need_not_use_asyncio(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "asyncio")
    defined_in("/project/agent.py", "def f(): call()", call=call)()
    assert places(report) == ["/project/agent.py:1"]


@pytest.mark.parametrize(
    ("packages", "calls"),
    [
        (("openai", "httpx", "httpx_aiohttp", "aiohttp.client", "aiosignal"), 0),
        (("httpx2", "aiohttp.client"), 0),
        (("aiohttp.client", "aiosignal"), 1),
        (("openai", "httpx"), 1),
        (("aiobotocore.endpoint", "botocore.hooks"), 0),
        (("aiobotocore.endpoint", "aiobotocore.hooks"), 0),
        (("aiobotocore.httpsession", "aiohttp.client", "aiosignal"), 1),
        (("boto3", "botocore.hooks"), 1),
    ],
)
def test_a_call_that_two_libraries_report_counts_once(
    report: Report, packages: tuple[str, ...], calls: int
) -> None:
    call_by(*packages)(STAMPED, "sess-1")
    assert report._calls.total() == calls


def test_a_call_of_the_users_code_in_a_transport_is_one_of_its_own(report: Report) -> None:
    """A test client of httpx may run the user's server in the same thread."""
    server = defined_in("/project/server.py", "def f(): call()", call=call_by("aiohttp.client"))
    defined_in(SDK, "def f(): g()", "httpx", g=server)()
    assert places(report) == ["/project/server.py:1"]


def test_a_forked_process_counts_its_own_calls(
    report: Report, at_exit: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    (write,) = at_exit
    call()
    report._begin_fork()  # Python calls it after a fork
    write()
    assert capsys.readouterr().err == ""
    call()
    write()
    heading = f"Report of cagent-session for the forked process {os.getpid()} (calls: 1, "
    assert capsys.readouterr().err.startswith(heading)


def test_a_call_of_code_whose_module_has_no_name_has_a_place() -> None:
    report = Report("")
    request = SimpleNamespace(method="GET", url="https://gateway.example/v1")
    names = {"__name__": None, "observe": report._observe, "request": request}
    run: Any = exec
    run(compile("observe(request, 'no session', None)", "made.py", "exec"), names)
    assert "made.py:1" in str(report)
