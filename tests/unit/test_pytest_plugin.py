"""Tests of the pytest plugin: its fixtures, its marker, its option and its messages."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import unittest
from collections.abc import Callable

import pytest
import requests

from cagent_session import current_session_id, sub_session
from cagent_session.testing import ModelsGateway

Run = Callable[..., pytest.RunResult]

IMPORTS = """
import asyncio
import contextlib
import unittest

import pytest
import requests

from cagent_session import compacting, current_session_id, gateway_headers, root_session_id
from cagent_session import session_id_hook, session_scope, sub_session

QUESTION = {"messages": [{"role": "user", "content": "How are you?"}]}

def ask(http, gateway):
    return http.post(f"{gateway.url}/v1/chat/completions", json=QUESTION, timeout=10)

def leak():
    session_scope("leaked").__enter__()
"""
LEAK_WARNING = (
    "the test left session_scope('leaked') open. The scope is closed now. "
    "Use it in a with statement, or decorate a function with in_session()"
)
LEAKS_ARE_ERRORS = ["-W", "error::cagent_session.pytest_plugin.SessionLeakWarning"]
ENTRY_POINT = ["-p", "cagent_session.pytest_entry_point"]
PLUGIN = ["-p", "cagent_session.pytest_plugin"]


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """Return a function that runs a user's tests with all installed plugins."""
    options = ["asyncio_default_fixture_loop_scope = function", "filterwarnings = default"]
    pytester.makeini("\n".join(["[pytest]", *options]))

    def run(tests: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(IMPORTS + textwrap.dedent(tests))
        result = pytester.runpytest_inprocess("--strict-markers", "-p", "no:randomly", *arguments)
        assert current_session_id() is None
        return result

    return run


def run_python(pytester: pytest.Pytester, *arguments: str) -> str:
    """Run a new interpreter and return its output. pytest loads no plugins by itself in it."""
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, *arguments]
    return subprocess.check_output(command, cwd=pytester.path, env=environment, text=True)


def ask(http: requests.Session, gateway: ModelsGateway) -> requests.Response:
    question = {"messages": [{"role": "user", "content": "How are you?"}]}
    return http.post(f"{gateway.url}/v1/chat/completions", json=question, timeout=10)


# The plugin is active in this module, too. So some of its tests need no pytester.


def test_the_fixtures_belong_to_the_same_session(
    models_gateway: ModelsGateway, gateway_session: requests.Session, session_id: str
) -> None:
    assert current_session_id() == session_id
    assert ask(gateway_session, models_gateway).json()["choices"]
    models_gateway.assert_attributed(session_id, calls=1)
    (call,) = models_gateway.calls
    assert call.forward == "https://api.openai.com/v1"
    assert call.headers["X-Cagent-Lang"] == "python"
    assert (call.root_session_id, call.parent_session_id) == (session_id, None)


def test_gateway_session_sends_the_root_and_its_gateway_bills_it(
    models_gateway: ModelsGateway, gateway_session: requests.Session, session_id: str
) -> None:
    for each in ("sub-1", "sub-2"):
        with sub_session(each):
            ask(gateway_session, models_gateway)
    assert [call.session_id for call in models_gateway.calls] == ["sub-1", "sub-2"]
    assert models_gateway.usage(by="root")[session_id].calls == 2


OTHER_NAMES = [
    *("-o", "cagent_session_header=x-session-id"),
    *("-o", "cagent_marker=X-Use-Gateway"),
    *("-o", "cagent_root_header=x-root-session-id"),
    *("-o", "cagent_parent_header=x-parent-session-id"),
]


def test_the_gateway_reads_the_headers_that_the_options_name(run: Run) -> None:
    result = run(
        """
        import httpx

        @pytest.mark.session_id("sess-1")
        def test_it(models_gateway, gateway_session):
            gateway = models_gateway.gateway
            hooks = {"request": [session_id_hook(gateway)]}
            headers = gateway.route("openai").headers
            with httpx.Client(headers=headers, event_hooks=hooks, trust_env=False) as client:
                for http in (gateway_session, client):
                    ask(http, models_gateway)
                    with sub_session("sub-1"), sub_session("sub-2"):
                        ask(http, models_gateway)
            for call in models_gateway.calls[::2]:
                assert (call.session_id, call.root_session_id, call.parent_session_id) == (
                    "sess-1", "sess-1", None
                )
            for call in models_gateway.calls[1::2]:
                assert (call.session_id, call.root_session_id, call.parent_session_id) == (
                    "sub-2", "sess-1", "sub-1"
                )
            for call in models_gateway.calls:
                assert call.headers["x-session-id"] == call.session_id
                assert call.headers["X-Use-Gateway"] == call.forward == "https://api.openai.com/v1"
                assert not [name for name in call.headers if name.lower().startswith("x-cagent-")]
        """,
        *OTHER_NAMES,
    )
    result.assert_outcomes(passed=1)


def test_a_call_in_flight_at_the_end_of_the_test_counts(run: Run) -> None:
    """The gateway accepts the call only when the fixture stops it."""
    result = run(
        """
        import socket, threading

        def test_it(models_gateway):
            server, stopping = models_gateway.server, threading.Event()
            accept, shutdown = server.process_request, server.shutdown
            server.process_request = lambda *call: (stopping.wait(10), accept(*call))
            server.shutdown = lambda: (stopping.set(), shutdown())
            with socket.create_connection((models_gateway.host, models_gateway.port)) as client:
                client.sendall(b"POST /v1/chat/completions HTTP/1.1\\r\\n\\r\\n")
        """,
        "-o",
        "cagent_require_session=true",
    )
    result.assert_outcomes(passed=1, errors=1)
    problem = "1 call reached the models gateway in no session:"
    result.stdout.fnmatch_lines([problem, "  POST  /v1/chat/completions  *"])


@pytest.mark.parametrize("value", ["", "none", "None"])
def test_the_gateway_has_no_marker_and_no_root_if_the_options_say_so(run: Run, value: str) -> None:
    result = run(
        """
        @pytest.mark.session_id("sess-1")
        def test_it(models_gateway, gateway_session):
            with sub_session("sub-1"):
                assert ask(gateway_session, models_gateway).ok
            (call,) = models_gateway.calls
            assert call.headers["X-Cagent-Session-Id"] == "sub-1"
            assert [name for name in call.headers if "cagent" in name.lower()] == [
                "X-Cagent-Session-Id"
            ]
            assert (call.root_session_id, call.parent_session_id) == ("sub-1", None)

        def test_in_no_session(models_gateway, gateway_session):
            models_gateway.require_session()
            ask(gateway_session, models_gateway)
        """,
        *("-o", f"cagent_marker={value}"),
        *("-o", f"cagent_root_header={value}"),
        *("-o", f"cagent_parent_header={value}"),
    )
    result.assert_outcomes(passed=1, failed=1)
    failure = ["1 call reached the models gateway in no session:", "  POST  /v1/chat/completions"]
    result.stdout.fnmatch_lines([*failure, "*: gateway is Gateway(*, marker=None)"])


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ("cagent_session_header=x y", "session_header must be * got 'x y'. *{}"),
        ("cagent_session_header=none", "session_header must be * got NoneType. *{}"),
        ("cagent_marker=x:y", "marker must be * got 'x:y'. *{}"),
        ("cagent_root_header=root id", "root_header must be * got 'root id'. *{}"),
        ("cagent_parent_header=x-cagent-forward", "*must be different names. *{}"),
    ],
)
def test_a_bad_name_in_the_configuration_fails_with_one_line(
    run: Run, option: str, problem: str
) -> None:
    result = run("def test_it(models_gateway): pass", "-o", option)
    result.assert_outcomes(errors=1)
    given = option.replace("=none", "=None").replace("=", " = ")
    line = problem.format(f"pytest's configuration has {given}")
    result.stdout.fnmatch_lines(["*ERROR at setup of test_it*", line], consecutive=True)
    assert "During handling" not in result.stdout.str()


@pytest.fixture
def unreachable_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")


@pytest.mark.usefixtures("unreachable_proxy")
def test_gateway_session_is_pinned_to_the_gateway_and_uses_no_proxy(
    models_gateway: ModelsGateway, gateway_session: requests.Session, session_id: str
) -> None:
    ask(gateway_session, models_gateway)
    with ModelsGateway() as elsewhere:
        ask(gateway_session, elsewhere)
    calls = models_gateway.calls + elsewhere.calls
    assert [call.session_id for call in calls] == [session_id, None]


@pytest.mark.session_id("sess-abc1")
def test_the_marker_sets_the_session_id_of_the_fixture(session_id: str) -> None:
    assert current_session_id() == session_id == "sess-abc1"


@pytest.mark.parametrize(
    "given", [pytest.param("sess-1", marks=pytest.mark.session_id("sess-1")), None]
)
def test_the_marker_may_be_on_one_parameter(given: str | None) -> None:
    assert current_session_id() == given


@pytest.mark.session_id("outer")
class TestOfAMarkedClass:
    def test_is_in_the_session_of_its_class(self, session_id: str) -> None:
        assert current_session_id() == session_id == "outer"

    @pytest.mark.session_id("inner")
    def test_uses_the_closest_marker(self) -> None:
        assert current_session_id() == "inner"


class TestOfUnittest(unittest.TestCase):
    @pytest.mark.session_id("sess-u")
    def test_with_marker(self) -> None:
        assert current_session_id() == "sess-u"

    def test_without_marker(self) -> None:
        assert current_session_id() is None


class AsynchronousTestOfUnittest(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        """From Python 3.11 on, this method is not in the session. The guide says so."""
        assert sys.version_info < (3, 11) or current_session_id() is None

    @pytest.mark.session_id("sess-u")
    async def test_with_marker(self) -> None:
        assert current_session_id() == "sess-u"

    @pytest.mark.usefixtures("session_id")
    async def test_with_fixture(self) -> None:
        assert current_session_id() is not None

    async def test_without_marker(self) -> None:
        assert current_session_id() is None


class TestWithItsOwnFixture:
    @pytest.fixture
    def session_id(self) -> str:
        return "their own"

    def test_uses_it(self, session_id: str) -> None:
        assert (session_id, current_session_id()) == ("their own", None)


@pytest.mark.parametrize("session_id", ["their own"])
def test_a_parameter_may_have_the_fixtures_name(session_id: str) -> None:
    assert (session_id, current_session_id()) == ("their own", None)


def test_every_test_has_its_own_session_and_gateway(run: Run) -> None:
    result = run("""
        seen = []

        @pytest.mark.parametrize("number", range(3))
        def test_it(models_gateway, session_id, number):
            assert models_gateway.calls_in(session_id) == models_gateway.calls == []
            models_gateway.expect_request("/once").respond_with_data("")
            seen.append((session_id, models_gateway))

        def test_all(models_gateway):
            session_ids, gateways = map(set, zip(*seen))
            assert len(session_ids) == len(gateways) == 3
            assert not any(gateway.is_running() for gateway in gateways)
            assert current_session_id() is None
            assert models_gateway.calls == []
    """)
    result.assert_outcomes(passed=4)


@pytest.mark.parametrize(
    ("marker", "problem"),
    [
        ("session_id('two words')", "has an invalid session ID: * got a space at position 3"),
        (
            "session_id(None)",
            "has an invalid session ID: session ID must be a str or a uuid.UUID, got NoneType",
        ),
        ("session_id", 'takes one session ID, as in session_id("sess-abc1")'),
        ("session_id('a', 'b')", 'takes one session ID, as in session_id("sess-abc1")'),
        ("session_id('a', id='b')", 'takes one session ID, as in session_id("sess-abc1")'),
    ],
)
def test_an_invalid_marker_fails_with_one_line(run: Run, marker: str, problem: str) -> None:
    result = run(f"""
        @pytest.mark.{marker}
        def test_it():
            pass
    """)
    result.assert_outcomes(errors=1)
    failure = f"@pytest.mark.session_id {problem}"
    result.stdout.fnmatch_lines(["*ERROR at setup of test_it*", failure, "*short test summary*"])
    output = result.stdout.str()
    assert "During handling" not in output
    assert "two words" not in output.replace("@pytest.mark.session_id('two words')", "")


def test_the_marker_applies_to_function_fixtures_but_not_to_wider_ones(run: Run) -> None:
    result = run("""
        seen = []

        @pytest.fixture(params=[1])
        def agent(request):
            seen.append(current_session_id())
            yield
            seen.append(current_session_id())

        @pytest.fixture(autouse=True, scope="module")
        def wide():
            assert current_session_id() is None

        @pytest.mark.session_id("sess-abc1")
        @pytest.mark.parametrize("number", [1])
        def test_it(agent, number):
            assert seen == [current_session_id()] == ["sess-abc1"]

        def test_next():
            assert seen == ["sess-abc1"] * 2
    """)
    result.assert_outcomes(passed=2)


ASYNCHRONOUS_TESTS = """
    @pytest.fixture({scope}, autouse=True)
    async def keeps_the_loop({backend}):
        yield current_session_id()

    {mark}
    class TestOnOneLoop:
        @pytest.fixture
        async def agent(self, request, session_id):
            function = request.node.function
            assert current_session_id() == session_id
            yield function
            assert current_session_id() == session_id
            assert request.node.function is function

        @pytest.fixture
        async def sub_session(self, session_id):
            with session_scope("sub"): yield

        @pytest.fixture
        def synchronous_sub_session(self, session_id):
            with session_scope("synchronous-sub"): yield

        @pytest.fixture
        def synchronous_line(self, session_id):
            with sub_session("sub-1"), sub_session("sub-2"), compacting(): yield

        @pytest.fixture
        async def no_session(self, session_id):
            with session_scope(None): yield

        async def test_session(self, session_id):
            assert current_session_id() == session_id
            assert await in_a_thread(current_session_id) == session_id

        async def test_after(self, keeps_the_loop):
            assert current_session_id() is keeps_the_loop is None

        @pytest.mark.session_id("sess-abc1")
        async def test_marker(self):
            assert current_session_id() == "sess-abc1"

        async def test_asynchronous_fixture(self, request, agent, session_id):
            assert current_session_id() == session_id
            assert request.node.function.__name__ == agent.__name__ == request.node.originalname

        async def test_scope_of_an_asynchronous_fixture(self, sub_session):
            assert current_session_id() == "sub"

        async def test_scope_of_a_synchronous_fixture(self, synchronous_sub_session):
            assert current_session_id() == "synchronous-sub"

        async def test_line_of_a_synchronous_fixture(
            self, synchronous_line, session_id, gateway_session, models_gateway
        ):
            assert (root_session_id(), current_session_id()) == (session_id, "sub-2")
            await in_a_thread(ask, gateway_session, models_gateway)
            assert models_gateway.calls[0].headers["X-Cagent-Compacting"] == "1"

        async def test_no_session_in_a_fixture(self, no_session):
            assert current_session_id() is None

        async def test_leaves_a_scope_open(self, session_id):
            leak()

        async def test_next(self):
            assert current_session_id() is None

        async def test_calls(self, models_gateway, gateway_session, session_id):
            await in_a_thread(ask, gateway_session, models_gateway)
            models_gateway.assert_attributed(session_id, calls=1)

    async def in_a_thread(function, *arguments):
        import anyio.to_thread
        return await anyio.to_thread.run_sync(function, *arguments)
"""
OF_PYTEST_ASYNCIO = """
    import pytest_asyncio
""" + ASYNCHRONOUS_TESTS.format(
    mark='@pytest.mark.asyncio(loop_scope="SCOPE")',
    scope='scope="SCOPE", loop_scope="SCOPE"',
    backend="",
).replace("pytest.fixture", "pytest_asyncio.fixture")
OF_ANYIO = """
    @pytest.fixture(scope="SCOPE", params=["asyncio", "trio"])
    def anyio_backend(request):
        return request.param
""" + ASYNCHRONOUS_TESTS.format(
    mark="@pytest.mark.anyio", scope='scope="SCOPE"', backend="anyio_backend"
)


@pytest.mark.parametrize("scope", ["function", "class", "module", "package", "session"])
@pytest.mark.parametrize(
    ("tests", "loops"), [(OF_PYTEST_ASYNCIO, 1), (OF_ANYIO, 2)], ids=["pytest-asyncio", "anyio"]
)
def test_asynchronous_tests_work_with_event_loops_of_any_scope(
    run: Run, tests: str, loops: int, scope: str
) -> None:
    result = run(tests.replace("SCOPE", scope))
    result.assert_outcomes(passed=11 * loops, warnings=loops)
    result.stdout.fnmatch_lines([f"*SessionLeakWarning: {LEAK_WARNING}"])


@pytest.mark.parametrize("mark", ["", "@pytest.mark.asyncio", "@pytest.mark.anyio"])
def test_each_example_of_hypothesis_is_in_the_tests_session(run: Run, mark: str) -> None:
    """If an asynchronous example leaves a scope open, the next example is not in it."""
    result = run(f"""
        from hypothesis import HealthCheck, given, settings, strategies

        unchecked = [HealthCheck.function_scoped_fixture]

        {mark}
        @pytest.mark.session_id("sess-abc1")
        @settings(suppress_health_check=unchecked, max_examples=5, deadline=None)
        @given(strategies.integers())
        {"async " * bool(mark)}def test_it(number):
            assert current_session_id() == "sess-abc1"
            {"leak()" if mark else ""}
    """)
    result.assert_outcomes(passed=2 if "anyio" in mark else 1)


REQUIRED = ["-o", "cagent_require_session=true"]


@pytest.mark.parametrize(
    ("line", "arguments", "outcome"),
    [
        ("models_gateway.require_session()", [], "failed"),
        ("pass", REQUIRED, "failed"),
        ("pass", [], "passed"),
        ("models_gateway.require_session(False)", REQUIRED, "passed"),
    ],
)
def test_a_call_in_no_session_fails_its_test_if_sessions_are_required(
    run: Run, line: str, arguments: list[str], outcome: str
) -> None:
    """The test fails even if it ignores the error."""
    result = run(
        f"""
        def test_it(models_gateway, gateway_session):
            {line}
            with contextlib.suppress(Exception):
                ask(gateway_session, models_gateway).raise_for_status()
            requests.get(f"{{models_gateway.url}}/v1/models?key=s3cret", timeout=10)
        """,
        *arguments,
    )
    result.assert_outcomes(**{outcome: 1})
    if outcome == "failed":
        failure = [
            "*= FAILURES =*",
            "*_ test_it _*",
            "2 calls reached the models gateway in no session:",
            "  POST  /v1/chat/completions  X-Cagent-Forward: https://api.openai.com/v1",
            "  GET   /v1/models            no X-Cagent-Forward: add gateway.route(...).headers",
            "Make each call inside session_scope(), or in a function decorated with in_session().",
            "A web application needs SessionMiddleware. Test clients call it in no session.",
            "Call instrument(gateway) first, or use a client with mount() or session_id_hook().",
            'To find a call, use instrument(gateway, missing="raise"). Then the call itself *',
            "*short test summary*",
        ]
        result.stdout.fnmatch_lines(failure, consecutive=True)
        assert "s3cret" not in result.stdout.str().replace("?key=s3cret", "", 1)


def test_an_autouse_fixture_finds_calls_in_tests_of_any_kind(
    run: Run, pytester: pytest.Pytester
) -> None:
    pytester.makeconftest("""
        import pytest

        @pytest.fixture(autouse=True)
        def every_call_is_in_a_session(models_gateway, monkeypatch):
            monkeypatch.setenv("GATEWAY", models_gateway.url)
            models_gateway.require_session()
    """)
    result = run("""
        import os

        def call():
            marker = gateway_headers("https://api.openai.com/v1")
            requests.get(os.environ["GATEWAY"], headers=marker, timeout=10)

        def test_function(): call()

        @pytest.mark.asyncio
        async def test_on_asyncio(): call()

        @pytest.mark.anyio
        @pytest.mark.parametrize("anyio_backend", ["trio"])
        async def test_on_anyio(): call()

        class AsynchronousTest(unittest.IsolatedAsyncioTestCase):
            async def test_it(self): call()

        class Test(unittest.TestCase):
            def test_it(self): call()
            def test_is_skipped_after_the_call(self): call(); self.skipTest("late")
            def test_fails_for_another_reason(self): call(); self.fail("another reason")

        def test_is_skipped_after_the_call(): call(); pytest.skip("late")

        @pytest.mark.skip
        def test_is_skipped(): call()

        def test_calls_nothing(): pass
    """)
    # A test that fails or is skipped for another reason gets an error in addition.
    result.assert_outcomes(passed=1, failed=6, skipped=3, errors=3)
    assert result.outlines.count("1 call reached the models gateway in no session:") == 8


@pytest.mark.parametrize(
    ("body", "outcomes"),
    [
        ("assert ask(gateway_session, models_gateway).ok", {"failed": 1, "errors": 1}),
        ("pass", {"passed": 1, "errors": 1}),
    ],
    ids=["a failing test", "a fixture that ends later"],
)
def test_calls_that_are_found_after_the_test_are_an_error_in_its_teardown(
    run: Run, body: str, outcomes: dict[str, int]
) -> None:
    result = run(f"""
        @pytest.fixture
        def calls_at_the_end(models_gateway, gateway_session):
            models_gateway.require_session()
            yield
            ask(gateway_session, models_gateway)

        def test_it(models_gateway, gateway_session, calls_at_the_end):
            {body}
    """)
    result.assert_outcomes(**outcomes)
    number = "2 calls" if "failed" in outcomes else "1 call"
    problem = f"{number} reached the models gateway in no session:"
    failure = ["*ERROR at teardown of test_it*", problem]
    result.stdout.fnmatch_lines(failure, consecutive=True)
    assert "During handling" not in result.stdout.str()


def test_assert_attributed_shows_the_line_of_the_test_and_all_calls(run: Run) -> None:
    result = run("""
        @pytest.mark.session_id("sess-abc1")
        def test_it(models_gateway, gateway_session):
            for session_id in ("sess-abc1", "sess-abc2", None):
                with session_scope(session_id):
                    ask(gateway_session, models_gateway)
            models_gateway.assert_attributed("sess-abc1", calls=3)
    """)
    result.assert_outcomes(failed=1)
    call = "POST  /v1/chat/completions  X-Cagent-Forward: https://api.openai.com/v1"
    problem = "expected 3 calls in session sess-abc1, got 1; calls in all: 3, in no session: 1"
    failure = [
        '>       models_gateway.assert_attributed("sess-abc1", calls=3)',
        f"E       AssertionError: {problem}",
        f"E            in sess-abc1   {call}",
        f"E         >  in sess-abc2   {call}",
        f"E         >  in no session  {call}",
        "",
    ]
    result.stdout.fnmatch_lines(failure, consecutive=True)


def test_without_the_extra_one_line_says_what_to_install(
    run: Run, pytester: pytest.Pytester
) -> None:
    pytester.makeconftest("""
        import sys

        sys.modules["pytest_httpserver"] = None
        sys.modules.pop("cagent_session.testing", None)
    """)
    result = run("""
        def test_it(models_gateway):
            pass

        def test_the_session(session_id):
            assert current_session_id() == session_id
    """)
    result.assert_outcomes(passed=1, errors=1)
    needed = '*: cagent_session.testing needs pip install "cagent-session[[]testing]"'
    result.stdout.fnmatch_lines(["*ERROR at setup of test_it*", needed], consecutive=True)
    assert "During handling" not in result.stdout.str()


@pytest.mark.parametrize("scope", ["sub_session('leaked')", "compacting()"])
def test_the_warning_shows_the_scope_as_the_test_wrote_it(run: Run, scope: str) -> None:
    result = run(f"""
        def test_leaks():
            {scope}.__enter__()

        def test_next():
            assert current_session_id() is None
    """)
    result.assert_outcomes(passed=2, warnings=1)
    warning = LEAK_WARNING.replace("session_scope('leaked')", scope)
    result.stdout.fnmatch_lines([f"*SessionLeakWarning: {warning}"])


LEAKS = {
    "a test": """
        def test_leaks(): leak()
    """,
    "a test with two scopes": """
        def test_leaks(): leak(); leak()
    """,
    "a test that fails": """
        def test_leaks(): leak(); pytest.fail("failed")
    """,
    "a test whose teardown fails": """
        @pytest.fixture
        def failing():
            yield
            pytest.fail("failed")

        def test_leaks(failing): leak()
    """,
    "a test that then sets up a fixture of its module": """
        @pytest.fixture(scope="module")
        def wide(): pass

        def test_leaks(request):
            leak()
            request.getfixturevalue("wide")
    """,
    "a fixture": """
        @pytest.fixture
        def leaking(): leak()

        def test_leaks(leaking): assert current_session_id() == "leaked"
    """,
    "setup_method": """
        class Test:
            def setup_method(self): leak()
            def test_leaks(self): assert current_session_id() == "leaked"
    """,
    "setUp of unittest": """
        class Test(unittest.TestCase):
            def setUp(self): leak()
            def test_leaks(self): assert current_session_id() == "leaked"
    """,
    "a generator with a scope around its yield": """
        running = []

        def run_loop():
            with session_scope("leaked"):
                yield

        def test_leaks():
            running.append(run_loop())
            next(running[0])
    """,
}
OUTCOMES = {
    "a test with two scopes": {"passed": 2, "warnings": 2},
    "a test that fails": {"passed": 1, "failed": 1, "warnings": 1},
    "a test whose teardown fails": {"passed": 2, "errors": 1, "warnings": 1},
}
NEXT_TEST = """
        def test_next():
            assert current_session_id() is None
"""


@pytest.mark.parametrize("leak", LEAKS)
def test_a_scope_left_open_is_closed_before_the_next_test_with_a_warning(
    run: Run, leak: str
) -> None:
    result = run(LEAKS[leak] + NEXT_TEST)
    result.assert_outcomes(**OUTCOMES.get(leak, {"passed": 2, "warnings": 1}))
    result.stdout.fnmatch_lines(["*test_leaks", f"*SessionLeakWarning: {LEAK_WARNING}"])


@pytest.mark.parametrize(
    ("scope", "session_after"), [("class", None), ("module", None), ("session", "leaked")]
)
def test_a_scope_that_a_wider_fixture_leaves_open_is_closed_at_the_fixtures_end(
    run: Run, pytester: pytest.Pytester, scope: str, session_after: str | None
) -> None:
    leak = f"""
        @pytest.fixture(scope="{scope}", autouse=True)
        def leaking(request):
            leak()

        class TestClass:
            @pytest.mark.parametrize("number", range(2))
            def test_it(self, number):
                assert current_session_id() == "leaked"
    """
    after = f"""
        def test_next():
            assert current_session_id() == {session_after!r}
    """
    files = {"test_a": IMPORTS + textwrap.dedent(leak), "test_b": IMPORTS + textwrap.dedent(after)}
    pytester.makepyfile(**files)
    result = run("")
    result.assert_outcomes(passed=3, warnings=1)
    warning = LEAK_WARNING.replace("the test", "the fixture leaking")
    result.stdout.fnmatch_lines([f"*SessionLeakWarning: {warning}"])


def test_a_scope_that_a_wider_asynchronous_fixture_of_anyio_leaves_open_is_not_noticed(
    run: Run,
) -> None:
    """The guide says so."""
    result = run("""
        @pytest.fixture(scope="module")
        def anyio_backend():
            return "asyncio"

        @pytest.fixture(scope="module")
        async def leaking(anyio_backend):
            leak()

        @pytest.mark.anyio
        async def test_it(leaking):
            pass
    """)
    result.assert_outcomes(passed=1, warnings=0)


CLOSED_BY_THE_HOOK = """
        def pytest_runtest_setup(item):
            scope.__enter__()

        @pytest.hookimpl(hookwrapper=True)
        def pytest_runtest_teardown(item):
            yield
            scope.__exit__()
"""
LEFT_OPEN_ONCE = """
        def pytest_runtest_setup(item):
            if item.name == "test_one":
                scope.__enter__()
"""


@pytest.mark.parametrize(
    ("hooks", "second", "warnings"), [(CLOSED_BY_THE_HOOK, "hooked", 0), (LEFT_OPEN_ONCE, None, 1)]
)
def test_a_hook_may_close_its_scope_and_one_that_it_leaves_open_is_closed(
    run: Run, pytester: pytest.Pytester, hooks: str, second: str | None, warnings: int
) -> None:
    scope = """
        import pytest
        from cagent_session import session_scope

        scope = session_scope("hooked")
    """
    pytester.makeconftest(scope + hooks)
    result = run(f"""
        def test_one():
            assert current_session_id() == "hooked"

        def test_two():
            assert current_session_id() == {second!r}

        def test_with_the_fixture(session_id):
            assert current_session_id() == session_id
    """)
    result.assert_outcomes(passed=3, warnings=warnings)


def test_items_that_are_not_functions_are_ignored(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makeconftest("""
        import pytest

        class Item(pytest.Item):
            nofuncargs = True

            @property
            def obj(self):
                async def no_test(): ...
                return no_test

            def runtest(self):
                pass

        class File(pytest.File):
            def collect(self):
                yield Item.from_parent(self, name="item")

        def pytest_collect_file(parent, file_path):
            if file_path.suffix == ".txt":
                return File.from_parent(parent, path=file_path)
    """)
    pytester.maketxtfile("")
    run("").assert_outcomes(passed=1)


def test_a_scope_left_open_fails_the_test_if_warnings_are_errors(run: Run) -> None:
    asynchronous = """
        @pytest.mark.asyncio
        async def test_asynchronous():
            leak()

        @pytest.mark.asyncio
        async def test_that_fails():
            leak()
            raise AssertionError("failed")
    """
    result = run(LEAKS["a test"] + asynchronous, *LEAKS_ARE_ERRORS)
    result.assert_outcomes(passed=1, errors=1, failed=2)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_leaks*", LEAK_WARNING])
    failures = ["*_ test_asynchronous _*", LEAK_WARNING, "*_ test_that_fails _*", "E *failed"]
    result.stdout.fnmatch_lines(failures)


def test_a_scope_that_is_closed_later_gets_no_warning(run: Run) -> None:
    result = run("""
        whole_run = session_scope("run")
        whole_run.__enter__()

        def teardown_module():
            whole_run.__exit__()

        def test_before():
            assert current_session_id() == "module"

        @pytest.fixture(scope="module", autouse=True)
        def whole_module():
            assert current_session_id() == "run"
            with session_scope("module"):
                yield

        @pytest.fixture
        def stack():
            with contextlib.ExitStack() as stack:
                yield stack

        @pytest.fixture(scope="module")
        def later():
            with session_scope("later"):
                yield

        def test_a_scope_on_a_stack(stack):
            stack.enter_context(session_scope("sess-1"))

        def test_a_scope_of_the_module():
            assert current_session_id() == "module"

        def test_a_fixture_that_the_test_requests(request, session_id):
            request.getfixturevalue("later")

        def test_a_scope_of_that_fixture():
            assert current_session_id() == "later"
    """)
    result.assert_outcomes(passed=5, warnings=0)


def test_pytests_help_shows_the_fixtures_the_marker_and_the_option(run: Run) -> None:
    fixtures = run("", "--fixtures").stdout
    for name, line in {
        "models_gateway": "A models gateway: a cagent_session.testing.ModelsGateway, a real*",
        "gateway_session": "A requests.Session for models_gateway: mounted, pinned to its URL*",
        "session_id": "The ID of the session in which the test runs: a new one, or that of*",
    }.items():
        fixtures.fnmatch_lines([f"{name} -- *pytest_plugin.py:*", f"    {line}"])
    markers = run("", "--markers").stdout
    markers.fnmatch_lines(["@pytest.mark.session_id(id): run the test in this session*"])
    shown = " ".join(run("", "--help").stdout.str().split())
    assert "cagent_require_session (bool): models_gateway refuses a call in no session" in shown
    assert "cagent_marker (string): the name of the header that marks the requests for" in shown
    assert all(f" cagent_{of}_header (string): " in shown for of in ("session", "root", "parent"))


@pytest.mark.parametrize(
    "arguments",
    [
        ENTRY_POINT,
        PLUGIN,
        [*ENTRY_POINT, *PLUGIN],
        [*PLUGIN, *ENTRY_POINT],
        [*ENTRY_POINT, "-p", "xdist.plugin", "-n", "1"],
    ],
    ids=" ".join,
)
def test_the_plugin_is_registered_once_however_it_is_loaded(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    result = run(
        """
        import cagent_session.pytest_plugin

        def test_it(request, session_id):
            assert current_session_id() == session_id
            plugins = request.config.pluginmanager.list_name_plugin()
            names = [name for name, plugin in plugins if plugin is cagent_session.pytest_plugin]
            assert names == ["cagent_session.pytest_plugin"]
        """,
        *arguments,
    )
    result.assert_outcomes(passed=1)


def test_the_entry_point_loads_nothing_with_pytest_older_than_7(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import sys

        def test_it(request):
            plugins = request.config.pluginmanager
            assert plugins.has_plugin("cagent_session.pytest_entry_point")
            assert "cagent_session.pytest_plugin" not in sys.modules
    """)
    remove_what_is_new_in_7 = "import pytest; del pytest.StashKey"
    program = f"{remove_what_is_new_in_7}; raise SystemExit(pytest.main({ENTRY_POINT}))"
    run_python(pytester, "-c", program)


def test_an_import_before_pytest_starts_causes_no_warning(pytester: pytest.Pytester) -> None:
    """Without PYTEST_DONT_REWRITE, pytest would warn that it can't rewrite assertions."""
    pytester.makepyfile("def test_it(session_id): pass")
    program = f"import cagent_session.pytest_plugin, pytest; pytest.main({ENTRY_POINT})"
    output = run_python(pytester, "-c", program)
    assert " 1 passed in " in output, "with a warning it is: 1 passed, 1 warning in"


def test_the_plugin_does_nothing_if_it_is_blocked(run: Run) -> None:
    tests = """
        left_open = session_scope("open")

        def test_leaks():
            left_open.__enter__()

        def test_next(request):
            assert current_session_id() == "open"
            with pytest.raises(pytest.FixtureLookupError):
                request.getfixturevalue("models_gateway")

        def test_end():
            left_open.__exit__()
    """
    run(tests, "-p", "no:cagent_session").assert_outcomes(passed=3)


PRINT_LOADED_MODULES = """
import sys

def pytest_unconfigure():
    print("loaded:", *sorted({name.partition(".")[0] for name in sys.modules}))
"""
SERVER = {"requests", "werkzeug", "pytest_httpserver"}


@pytest.mark.parametrize(
    ("fixture", "loads"), [("", set()), ("session_id", set()), ("gateway_session", SERVER)]
)
def test_only_tests_that_use_the_gateway_load_a_server(
    pytester: pytest.Pytester, fixture: str, loads: set[str]
) -> None:
    pytester.makeconftest(PRINT_LOADED_MODULES)
    pytester.makepyfile(f"def test_it({fixture}): pass")
    output = run_python(pytester, "-m", "pytest", "-s", *PLUGIN)
    loaded = set(output.partition("loaded:")[2].split())
    assert "cagent_session" in loaded
    assert loaded & SERVER == loads
