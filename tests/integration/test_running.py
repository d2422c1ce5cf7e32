"""``python -m cagent_session`` runs a program as python does, and attributes its calls."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import runpy
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from cagent_session import context, reporting, uninstrument
from cagent_session.__main__ import main
from cagent_session.testing import ModelsGateway

PYTHON = [sys.executable]
OURS = [sys.executable, "-m", "cagent_session", "--gateway", "https://gateway.example"]
VARIABLES = {
    name: value
    for name, value in {**os.environ, "PYTHONUNBUFFERED": "1"}.items()
    if not name.endswith("_MODELS_GATEWAY") and "proxy" not in name.lower()
}

Result = subprocess.CompletedProcess[str]
RunHere = Callable[..., None]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, **sources: str) -> None:
    """Write modules into *folder*."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(source), encoding="utf-8")


def run(*command: str, **variables: str) -> Result:
    return subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        env={**VARIABLES, **variables},
        timeout=60,
    )


@pytest.fixture
def run_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunHere]:
    """Return a function that runs a program in this process."""
    modules, observers = dict(sys.modules), list(reporting.observers)
    monkeypatch.setattr(sys, "path", ["the folder of cagent-session", *sys.path])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(context, "_whole_program", None)
    monkeypatch.setattr(context, "_current", context._current)
    monkeypatch.setattr(atexit, "register", lambda function: None)

    def run_with(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["cagent-session", *arguments])
        main()

    yield run_with
    uninstrument()
    reporting.observers[:] = observers
    for name in set(sys.modules) - set(modules):
        del sys.modules[name]
    sys.modules.update(modules)


PROBE = '''
"""A docstring."""
import sys, __main__
print(sys.argv, sys.path[0], __name__, __file__, __package__, __builtins__, __doc__)
print(__spec__ and (__spec__.name, __spec__.origin), type(__loader__))
print(vars(__main__) is globals(), sys.modules["__main__"] is __main__)
'''
WAYS = """
probe.py a --report -m b
./package/../probe.py -- a
links/link.py
-m probe --session a -m -- b
-m package a
-m package.probe
-m namespace.probe
package a
./app.zip a
"""


@pytest.fixture
def probes(folder: Path) -> None:
    """Programs of all kinds. Each prints what python has told it."""
    write(folder, probe=PROBE)
    package = "import sys, __main__; print(sys.argv, vars(__main__).get('__file__'))"
    write(folder / "package", __init__=package, __main__=PROBE, probe=PROBE)
    write(folder / "namespace", probe=PROBE)
    (folder / "links").mkdir()
    (folder / "links" / "link.py").symlink_to("../probe.py")
    with zipfile.ZipFile(folder / "app.zip", "w") as archive:
        archive.writestr("__main__.py", PROBE)


@pytest.mark.usefixtures("probes")
@pytest.mark.parametrize("way", WAYS.strip().split("\n"))
def test_a_program_finds_what_python_tells_it(
    run_here: RunHere, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    program = way.split()
    expected = run(*PYTHON, *program)
    assert expected.returncode == 0
    assert run(*OURS, *program).stdout == expected.stdout
    run_here("--gateway=https://gateway.example", *program)
    assert capsys.readouterr().out == expected.stdout


@pytest.mark.usefixtures("probes")
@pytest.mark.parametrize("program", ["probe.py", "-m json.tool --help", "package"])
def test_safe_paths_stay_safe(
    run_here: RunHere,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    program: str,
) -> None:
    """The option -I puts neither the working directory nor the program's folder on sys.path."""
    expected = run(*PYTHON, "-I", *program.split())
    assert expected.returncode == 0
    assert run(sys.executable, "-I", *OURS[1:], *program.split()).stdout == expected.stdout

    paths = len(sys.path)
    flags = {name: getattr(sys.flags, name) for name in dir(sys.flags) if name[0] != "_"}
    monkeypatch.setattr(sys, "flags", SimpleNamespace(**{**flags, "safe_path": True}))
    with contextlib.suppress(SystemExit):
        run_here("--gateway=https://gateway.example", *program.split())
    assert len(sys.path) == paths + (program == "package")
    assert capsys.readouterr().out.count("\n") == expected.stdout.count("\n")


PROGRAMS = {
    "the end": "print('end')",
    "a status": "import sys; sys.exit(3)",
    "a text": "import sys; sys.exit('this is wrong')",
    "an error": """
        def fail():
            try:
                {}["key"]
            except KeyError as error:
                raise ValueError("failed") from error
        fail()
        """,
    "a syntax error": "print('never')\nx = = 1",
    "an interrupt": "import signal; signal.raise_signal(signal.SIGINT)",
    "a sudden end": "import atexit, os; atexit.register(print, 'never'); os._exit(4)",
    "a group of errors": "import asyncio\nasync def f(): raise OSError(1)\nasyncio.run(f())",
    "an own excepthook": """
        import sys, traceback
        def hook(kind, value, tb):
            names = [frame.f_code.co_name for frame, _ in traceback.walk_tb(tb)]
            print(kind, value, names, [e.name for e in traceback.extract_tb(value.__traceback__)])
        sys.excepthook = hook
        def fail(): raise ValueError("failed")
        fail()
        """,
    "a thread and functions at exit": """
        import atexit, pickle, sys, threading
        def text():
            return "from __main__"
        def work():
            threading.main_thread().join()  # it ends after the main code, not at its error
            print("thread", pickle.loads(pickle.dumps(text))())
        atexit.register(lambda: print("at exit", sys.modules["__main__"].text()))
        threading.Thread(target=work).start()
        print("end")
        raise OSError("failed")
        """,
    "processes": """
        import multiprocessing, sys
        print(__name__)
        def square(x):
            return x * x
        if __name__ == "__main__":
            for method in "fork", "spawn":
                with multiprocessing.get_context(method).Pool(1) as pool:
                    print(method, pool.map(square, [2, 3]))
        """,
    "names of the module": "print(sorted(globals()))",
    "annotated names": "name: int = 1\nprint(__annotations__)",
    "annotations": "def f(x: 1 + 1): pass\nprint(f.__annotations__)",
    "an encoding": "# coding: latin-1\nprint(len('\xe4'))",
    "own modules": """
        import argparse, email, gettext, queue, report
        print(argparse.own, gettext.own, report.own, queue.__file__, email.__file__)
        """,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_runs_and_ends_as_with_python(folder: Path, name: str) -> None:
    write(folder, program=PROGRAMS[name])
    write(folder, argparse="own = 1", gettext="own = 2", report="own = 3", queue="")
    (folder / "email").mkdir()  # it has no __init__.py, so the standard library's comes first
    expected = run(*PYTHON, "program.py")
    ran = run(*OURS, "program.py")
    assert (ran.returncode, ran.stdout, ran.stderr) == (
        expected.returncode,
        expected.stdout,
        expected.stderr,
    )


@pytest.mark.parametrize("module", ["fails", "fails.inside", "exits", "interrupted", "incomplete"])
def test_a_module_ends_as_with_python(folder: Path, module: str) -> None:
    write(folder / "fails", __init__="", __main__="1 / 0", inside="def f(): f.x\nf()")
    write(folder, exits="import sys; sys.exit('wrong')", interrupted="raise KeyboardInterrupt")
    write(folder / "incomplete", __init__="import incomplete.part", __main__="")
    expected, ran = run(*PYTHON, "-m", module), run(*OURS, "-m", module)
    assert expected.returncode
    assert ran.returncode == expected.returncode
    assert ran.stderr.splitlines()[-3:] == expected.stderr.splitlines()[-3:]
    assert "cagent_session" not in ran.stderr


CALLS = """
    import asyncio, os, sys, threading
    import httpx, requests
    from cagent_session import session_scope
    url = os.environ["URL"]
    marked = {"X-Cagent-Forward": "https://api.openai.com/v1"}
    def call():
        return requests.post(f"{url}/v1/chat", headers=marked, timeout=10)
    """
CALLS_IN_A_SESSION = """
    async def call_in_a_task():
        async with httpx.AsyncClient() as client:
            await client.post(f"{url}/task", headers=marked)
    call()
    with session_scope("inner"):
        call()
    with session_scope(None):
        call()
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    asyncio.run(call_in_a_task())
    if os.fork() == 0:
        call()
        os._exit(0)
    os.wait()
    """


def test_the_whole_program_is_in_the_session(folder: Path, gateway: Any) -> None:
    write(folder, program=CALLS + CALLS_IN_A_SESSION)
    ran = run(
        *(*PYTHON, "-m", "cagent_session", "--session", "outer", "program.py"),
        URL=gateway.url,
        CAGENT_MODELS_GATEWAY=gateway.url,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert gateway.session_ids == ["outer", "inner", None, "outer", "outer", "outer"]


def test_the_program_enters_its_own_sessions(folder: Path, gateway: Any, elsewhere: Any) -> None:
    """Without --session, code outside of scopes is in none. The headers mark the calls."""
    program = """
    marked = {}
    call()
    with session_scope("inner"):
        call()
        url = os.environ["ELSEWHERE"]
        call()
    """
    write(folder, program=CALLS + program)
    forward = "--header=X-Cagent-Forward=https://api.openai.com/v1?a=b"
    options = ("--gateway", gateway.url, forward, "--header", "X-Cagent-Lang=python")
    ran = run(
        *(*PYTHON, "-m", "cagent_session", *options, "program.py"),
        URL=gateway.url,
        ELSEWHERE=elsewhere.url,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert gateway.session_ids == [None, "inner"]
    assert {arrived.get("X-Cagent-Forward") for arrived in gateway.arrived} == {
        "https://api.openai.com/v1?a=b"
    }
    assert "x-cagent-lang" in gateway.arrived[0].cagent_headers
    assert elsewhere.arrived[0].cagent_headers == set()


def test_the_gateway_may_read_other_headers(folder: Path, gateway: Any) -> None:
    program = """
    marked = {}
    from cagent_session import sub_session
    with sub_session("inner"):
        call()
    """
    write(folder, program=CALLS + program)
    names = ["--session-header=x-session-id", "--root-header", "X-Root", "--marker=none"]
    names += ["--parent-header", "X-Parent"]
    options = ("--gateway", gateway.url, "--session", "outer", *names)
    ran = run(*PYTHON, "-m", "cagent_session", *options, "program.py", URL=gateway.url)
    assert (ran.returncode, ran.stderr) == (0, "")
    (arrived,) = gateway.arrived
    assert (arrived.get("x-session-id"), arrived.get("X-Root")) == ("inner", "outer")
    assert arrived.get("X-Parent") == "outer"
    assert arrived.cagent_headers == set()


def test_the_command_is_installed(folder: Path) -> None:
    """Modules of the working directory don't hide those that the command imports."""
    write(folder, program="import sys; print(sys.argv, __file__)", requests="", argparse="")
    command = str(Path(sys.executable).with_name("cagent-session"))
    ran = run(command, "--gateway", "https://gateway.example", "program.py", "--report")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == f"{['program.py', '--report']} {folder / 'program.py'}\n"


URL, SECRET = "--gateway=https://gateway.example", "hunter2"
WRONG = {
    "program.py": "give the gateway's URL with --gateway, or set the environment variable "
    "DOCKER_AGENT_MODELS_GATEWAY",
    f"--gateway https://a:{SECRET}@gateway.example program.py": "gateway URL must not contain a "
    "user or a password: send credentials in a header",
    f"--gateway={SECRET} program.py": "gateway URL must be absolute, and start with http:// or "
    "https://",
    "--gateway": "argument --gateway: expected one argument",
    f"--gatewai={SECRET} program.py": "there is no option --gatewai; see --help",
    f"{URL} --sess {SECRET} program.py": "there is no option --sess; see --help",
    f"{URL} --session {'x' * 257} program.py": "session ID must be 1-256 visible ASCII "
    "characters, got 257 characters",
    f"{URL} --session-header=Host program.py": "session_header must not be Host, which has a "
    "meaning of its own",
    f"{URL} --marker=none --header X-Cagent-OS={SECRET} program.py": "--header is only for a "
    "gateway that has a marker",
    f"{URL} --header {SECRET} program.py": "argument --header: give it as NAME=VALUE",
    f"{URL} --header Authorization={SECRET} program.py": "--header needs the marker, too: "
    "--header X-Cagent-Forward=VALUE",
    f"{URL} --header X-Cagent-Forward=http://a --header A={SECRET} program.py": "headers must be "
    "X-Cagent-Forward and X-Cagent-* headers only, got A",
    f"{URL} --header X-Cagent-Forward=\xe4{SECRET} program.py": "the value of X-Cagent-Forward "
    "must be visible ASCII characters, with spaces only inside",
    f"{URL} --header x-cagent-session-id={SECRET} program.py": "argument --header: use --session "
    "for the session's ID",
    URL: "say what to run: program.py or -m module; see --help",
    f"{URL} --report -m": "say what to run: program.py or -m module; see --help",
    f"{URL} --report missing.py": "can't open missing.py: No such file or directory",
    f"{URL} --report empty": "there is no Python module __main__ in empty",
    f"{URL} --report -m missing": "there is no Python module missing",
    f"{URL} --report -m missing.part": "there is no Python module missing.part",
    f"{URL} --report -m empty": "there is no Python module empty.__main__",
    f"{URL} --report -m empty.part": "there is no Python module empty.part",
    f"{URL} --report -m ./program.py": "there is no Python module ./program.py",
    f"{URL} --report -m sys": "there is no Python module sys",
}


@pytest.mark.parametrize("arguments", WRONG)
def test_wrong_arguments_get_one_line(
    folder: Path,
    run_here: RunHere,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
) -> None:
    for name in set(os.environ) - set(VARIABLES):
        monkeypatch.delenv(name)
    write(folder, program="raise AssertionError('the program runs')")
    write(folder / "empty", __init__="")
    with pytest.raises(SystemExit) as ended:
        run_here(*arguments.split())
    assert ended.value.code == 2
    assert capsys.readouterr() == ("", f"cagent-session: {WRONG[arguments]}\n")


def test_a_missing_program_gets_no_report(folder: Path) -> None:
    for program in ("missing.py", "-m missing"):
        ran = run(*OURS, "--report", *program.split())
        assert ran.returncode == 2
        assert ran.stderr.count("\n") == 1


def test_a_wrong_variable_is_named(
    folder: Path,
    run_here: RunHere,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DOCKER_AGENT_MODELS_GATEWAY", SECRET)
    with pytest.raises(SystemExit, match="2"):
        run_here("program.py")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("cagent-session: environment variable DOCKER_AGENT_MODELS_GATEWAY: ")
    assert SECRET not in line


def test_help_has_an_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["__main__.py", "--help"])
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(sys.modules["cagent_session.__main__"].__file__ or "", run_name="__main__")
    text = capsys.readouterr().out
    assert text.startswith("usage: cagent-session [--gateway URL] [--session ID]")
    assert "  cagent-session --gateway https://gateway.example --session job-17 --report" in text
    assert "Processes that it starts anew are not" in text


def test_an_error_is_shown_from_the_programs_code_on(
    folder: Path, run_here: RunHere, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder, program="def fail(): raise OSError('failed')\nfail()")
    with pytest.raises(OSError, match="failed") as failed:
        run_here("--gateway=https://gateway.example", "program.py")
    sys.excepthook(failed.type, failed.value, failed.tb)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == [
        "Traceback (most recent call last):",
        f'  File "{folder / "program.py"}", line 2, in <module>',
    ]


def test_a_package_that_lacks_a_module_fails_by_itself(folder: Path, run_here: RunHere) -> None:
    write(folder / "package", __init__="import package.missing", __main__="")
    with pytest.raises(ModuleNotFoundError, match=r"package\.missing"):
        run_here("--gateway=https://gateway.example", "-m", "package")


def test_modules_that_this_package_imports_do_not_hide_those_of_the_program(
    folder: Path,
    run_here: RunHere,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("helpers", "helpers.part", "others"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    write(
        folder, program="import helpers, sys; print(helpers.own, *sys.modules)", helpers="own = 1"
    )
    run_here("--gateway=https://gateway.example", "program.py")
    own, *modules = capsys.readouterr().out.split()
    assert own == "1"
    assert {"helpers", "helpers.part", "others"} & set(modules) == {"helpers", "others"}


REPORTED = """
    async def call_elsewhere():
        async with httpx.AsyncClient(follow_redirects=True) as client:
            await asyncio.gather(
                client.get(f"{os.environ['ELSEWHERE']}/weather?key=hunter2"),
                client.get(f"{url}/moved"),
            )
    for session_id in ("one", "two", "two"):
        with session_scope(session_id):
            call()
            requests.post(f"{url}/v1/chat", timeout=10)
    call()
    threading.Thread(target=requests.get, args=(f"{url}/v1/chat",)).start()
    with session_scope("two"):
        asyncio.run(call_elsewhere())
    raise SystemExit("failed")
    """


def test_the_report_shows_which_calls_were_attributed_and_where_the_others_were_made(
    folder: Path, gateway: Any, elsewhere: Any
) -> None:
    write(folder, program=CALLS + REPORTED)
    gateway.redirect("/moved", f"{elsewhere.url}/weather")
    ran = run(
        *(*PYTHON, "-m", "cagent_session", "--report", "--gateway", gateway.url, "program.py"),
        URL=gateway.url,
        ELSEWHERE=elsewhere.url,
    )
    assert ran.returncode == 1
    report = ran.stderr.replace(gateway.url, "GATEWAY").replace(elsewhere.url, "ELSEWHERE")
    assert report == textwrap.dedent(
        """\
        failed
        Report of cagent-session (calls: 11, attributed: 3, sessions: 2)

          calls  attributed  URL
              8           3  GATEWAY/v1/chat
              2           0  ELSEWHERE/weather
              1           0  GATEWAY/moved

          calls  why not attributed                   made at
              3  no marker                            program.py:19
              1  no marker                            not known
              1  no marker                            program.py:14
              1  no session                           program.py:8
              1  not sent to the gateway              program.py:13
              1  not sent to the gateway: redirected  program.py:14

        6 of 9 calls to the gateway were not attributed.
        """
    )


def test_processes_that_are_forked_have_reports_of_their_own(folder: Path, gateway: Any) -> None:
    """A fork that ends as python does prints one, if it has made a call."""
    program = """
    call()
    for number_of_calls in (0, 2):
        pid = os.fork()
        if pid == 0:
            for _ in range(number_of_calls):
                call()
            raise SystemExit
        os.wait()
    print(pid)
    """
    write(folder, program=CALLS + program)
    options = ("--report", "--session", "outer", "--gateway", gateway.url)
    ran = run(*PYTHON, "-m", "cagent_session", *options, "program.py", URL=gateway.url)
    of_fork, of_program = re.findall(r"Report of .*", ran.stderr)
    assert of_fork == (
        f"Report of cagent-session for the forked process {ran.stdout.strip()} "
        "(calls: 2, attributed: 2, sessions: 1)"
    )
    assert of_program == "Report of cagent-session (calls: 1, attributed: 1, sessions: 1)"


HTTPX_OVER_AIOHTTP = """
    import aiohttp, httpx
    class Transport(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request):
            async with aiohttp.ClientSession() as session:
                url, headers = str(request.url), dict(request.headers)
                async with session.request(request.method, url, headers=headers) as response:
                    return httpx.Response(response.status, content=await response.read())
    async def ask(url, headers):
        async with httpx.AsyncClient(transport=Transport()) as client:
            return await client.post(url, headers=headers)
    """


def test_a_call_that_two_libraries_report_counts_once(folder: Path, gateway: Any) -> None:
    program = """
    import aiohttp, sdk
    async def ask():
        await asyncio.gather(sdk.ask(f"{url}/sdk", marked), sdk.ask(f"{url}/sdk", {}))
        async with aiohttp.ClientSession() as session:
            await session.post(f"{url}/aiohttp")
    asyncio.run(ask())
    """
    write(folder, program=CALLS + program)
    installed = folder / "site-packages"
    write(installed, sdk=HTTPX_OVER_AIOHTTP)
    options = ("--report", "--session", "outer", "--gateway", gateway.url)
    variables = {"URL": gateway.url, "PYTHONPATH": str(installed)}
    ran = run(*PYTHON, "-m", "cagent_session", *options, "program.py", **variables)
    assert ran.stderr.replace(gateway.url, "GATEWAY").splitlines()[2:9] == [
        "  calls  attributed  URL",
        "      2           1  GATEWAY/sdk",
        "      1           0  GATEWAY/aiohttp",
        "",
        "  calls  why not attributed  made at",
        "      1  no marker           program.py:12",
        "      1  no marker           program.py:14",
    ]


def test_an_installed_program_counts_as_the_users_code(folder: Path, gateway: Any) -> None:
    installed = folder / "site-packages"
    write(installed / "agent", __init__="", __main__="import agent.calls", calls=CALLS + "call()")
    options = ("--report", "--gateway", gateway.url)
    variables = {"URL": gateway.url, "PYTHONPATH": str(installed)}
    ran = run(*PYTHON, "-m", "cagent_session", *options, "-m", "agent", **variables)
    assert f"no session          {Path('site-packages', 'agent', 'calls.py')}:8\n" in ran.stderr


def test_a_program_without_calls_gets_a_report(folder: Path) -> None:
    write(folder, program="1 / 0")
    error, report = run(*OURS, "--report", "program.py").stderr.splitlines()[-2:]
    assert error == "ZeroDivisionError: division by zero"
    assert report == (
        "Report of cagent-session: no calls by requests, httpx, httpx2, aiohttp or botocore."
    )


FOUR = """
import asyncio
import sys

import aiohttp
import boto3
import requests
from openai import AsyncOpenAI, OpenAI

from cagent_session import session_scope

url = sys.argv[1]
messages = [{"role": "user", "content": "Hello!"}]
body = {"model": "gpt-4o", "messages": messages}
bedrock = boto3.client(
    "bedrock-runtime",
    endpoint_url=url,
    region_name="eu-west-1",
    aws_access_key_id="id",
    aws_secret_access_key="key",
)

async def call_async():
    async with AsyncOpenAI(base_url=url + "/v1", api_key="key") as client:
        await client.chat.completions.create(**body)
    async with aiohttp.ClientSession() as client:
        async with client.post(url + "/v1/chat/completions", json=body) as response:
            await response.json()

for session_id in ("sess-one", "sess-two"):
    with session_scope(session_id):
        OpenAI(base_url=url + "/v1", api_key="key").chat.completions.create(**body)
        requests.post(url + "/v1/chat/completions", json=body)
        bedrock.converse(modelId="m", messages=[{"role": "user", "content": [{"text": "Hello!"}]}])
        asyncio.run(call_async())
"""


def test_every_call_of_an_agent_on_four_clients_is_attributed_without_a_change(
    folder: Path, models_gateway: ModelsGateway
) -> None:
    (folder / "agent.py").write_text(FOUR, encoding="utf-8")
    url = models_gateway.url
    marker = ("--header", "X-Cagent-Forward=https://api.openai.com/v1")
    command = (*PYTHON, "-m", "cagent_session", "--gateway", url, *marker, "--report", "agent.py")
    ended = run(*command, url)
    assert ended.returncode == 0, ended.stderr
    assert "All 10 calls to the gateway were attributed." in ended.stderr
    for session_id in ("sess-one", "sess-two"):
        assert len(models_gateway.calls_in(session_id)) == 5
    assert len(models_gateway.calls) == 10


def test_every_call_of_an_agent_on_four_clients_is_attributed_by_one_line(
    folder: Path, models_gateway: ModelsGateway
) -> None:
    line = (
        "from cagent_session import gateway_headers, instrument\n"
        f"instrument({models_gateway.url!r}, headers=gateway_headers('https://api.openai.com'))\n"
    )
    (folder / "agent.py").write_text(line + FOUR, encoding="utf-8")
    assert run(*PYTHON, "agent.py", models_gateway.url).returncode == 0
    for session_id in ("sess-one", "sess-two"):
        assert len(models_gateway.calls_in(session_id)) == 5
    assert len(models_gateway.calls) == 10
