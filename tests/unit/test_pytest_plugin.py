"""Do the fixtures say of every call whose it is, and what does a user see where one is nobody's?"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable

import pytest

from cagent_session import current_session_id

Run = Callable[..., pytest.RunResult]

HEAD = """
import asyncio
import contextlib
import unittest

import pytest
import requests

from cagent_session import current_session_id, gateway_headers, session_scope

QUESTION = {"messages": [{"role": "user", "content": "How are you?"}]}

def ask(http, gateway):
    return http.post(f"{gateway.url}/v1/chat/completions", json=QUESTION, timeout=10)
"""
LEAK = (
    "the test left session_scope('leaked') open; it is closed now. "
    "Enter it in a with statement, or decorate with in_session()"
)


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """Run tests of a user's in a pytest of their own, with the plugins that are installed."""
    pytester.makeini(
        "[pytest]\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = default"
    )

    def run(tests: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(HEAD + textwrap.dedent(tests))
        result = pytester.runpytest_inprocess("--strict-markers", "-p", "no:randomly", *arguments)
        assert current_session_id() is None
        return result

    return run


def test_the_fixtures_agree_on_the_session(run: Run) -> None:
    result = run("""
        def test_one(models_gateway, gateway_session, session_id):
            assert current_session_id() == session_id
            assert ask(gateway_session, models_gateway).json()["choices"]
            models_gateway.assert_attributed(session_id, calls=1)
            (call,) = models_gateway.calls
            assert call.forward == "https://api.openai.com/v1"
            assert call.headers["X-Cagent-Lang"] == "python"

        def test_another(models_gateway):
            assert current_session_id() is None
            assert models_gateway.calls == []
    """)
    result.assert_outcomes(passed=2)


def test_every_test_has_a_session_and_a_gateway_of_its_own(run: Run) -> None:
    result = run("""
        seen = []

        @pytest.mark.parametrize("number", range(3))
        def test_it(models_gateway, session_id, number):
            assert models_gateway.calls_in(session_id) == models_gateway.calls == []
            models_gateway.expect_request("/once").respond_with_data("")
            seen.append((session_id, models_gateway))

        def test_all():
            assert len({session_id for session_id, _ in seen}) == len({gateway for _, gateway in seen}) == 3
            assert not any(gateway.is_running() for _, gateway in seen)
    """)
    result.assert_outcomes(passed=4)


def test_a_call_that_comes_after_its_test_is_not_the_next_ones(run: Run) -> None:
    result = run("""
        late = []

        def test_one(models_gateway):
            late.append(models_gateway.url)

        def test_next(models_gateway):
            with pytest.raises(requests.ConnectionError):
                requests.post(late[0], headers=gateway_headers("https://api.openai.com/v1"), timeout=10)
            assert models_gateway.calls == []
    """)
    result.assert_outcomes(passed=2)


def test_the_gateways_session_is_pinned_and_heeds_no_proxy(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    result = run("""
        from cagent_session.testing import ModelsGateway

        def test_it(models_gateway, gateway_session, session_id):
            ask(gateway_session, models_gateway)
            with ModelsGateway() as elsewhere:
                ask(gateway_session, elsewhere)
            assert [call.session_id for call in models_gateway.calls + elsewhere.calls] == [session_id, None]
    """)
    result.assert_outcomes(passed=1)


MARKED = """
    @pytest.mark.session_id("sess-abc1")
    def test_with_the_fixture(session_id):
        assert current_session_id() == session_id == "sess-abc1"

    @pytest.mark.session_id("sess-abc1")
    def test_without_a_word_of_the_fixture():
        assert current_session_id() == "sess-abc1"

    @pytest.mark.parametrize("given", [pytest.param("sess-1", marks=pytest.mark.session_id("sess-1")), None])
    def test_one_parameter(given):
        assert current_session_id() == given

    @pytest.mark.session_id("outer")
    class TestClass:
        def test_the_class(self, session_id):
            assert current_session_id() == session_id == "outer"

        @pytest.mark.session_id("inner")
        def test_the_closest(self):
            assert current_session_id() == "inner"

    class TestOfUnittest(unittest.TestCase):
        @pytest.mark.session_id("sess-u")
        def test_sync(self):
            assert current_session_id() == "sess-u"

        def test_unmarked(self):
            assert current_session_id() is None
"""


def test_the_marker_sets_the_session(run: Run) -> None:
    run(MARKED).assert_outcomes(passed=8)


@pytest.mark.parametrize(
    ("marker", "told"),
    [
        ("session_id('two words')", "got no session ID: * got a space at position 3"),
        (
            "session_id(None)",
            "got no session ID: session ID must be a str or a uuid.UUID, got NoneType",
        ),
        ("session_id", 'takes one session ID, as in session_id("sess-abc1")'),
        ("session_id('a', 'b')", 'takes one session ID, as in session_id("sess-abc1")'),
        ("session_id('a', id='b')", 'takes one session ID, as in session_id("sess-abc1")'),
    ],
)
def test_a_malformed_marker_is_told_in_a_line(run: Run, marker: str, told: str) -> None:
    result = run(f"""
        @pytest.mark.{marker}
        def test_it():
            pass
    """)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*ERROR at setup of test_it*", f"@pytest.mark.session_id {told}", "*short test summary*"]
    )
    assert "During handling" not in result.stdout.str()
    assert "two words" not in result.stdout.str().replace(
        "@pytest.mark.session_id('two words')", ""
    )


def test_the_marker_covers_the_tests_own_fixtures_and_no_wider_ones(run: Run) -> None:
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


def test_a_fixture_and_a_parameter_of_that_name_come_first(run: Run) -> None:
    result = run("""
        class TestFixture:
            @pytest.fixture
            def session_id(self):
                return "their own"

            def test_it(self, session_id):
                assert (session_id, current_session_id()) == ("their own", None)

        @pytest.mark.parametrize("session_id", ["their own"])
        def test_parameter(session_id):
            assert (session_id, current_session_id()) == ("their own", None)
    """)
    result.assert_outcomes(passed=2)


ASYNC = """
    @pytest.fixture({scope}, autouse=True)
    async def keeps_the_loop({backend}):
        yield current_session_id()

    {mark}
    class TestOnOneLoop:
        @pytest.fixture
        async def agent(self, session_id):
            assert current_session_id() == session_id
            yield "agent"
            assert current_session_id() == session_id

        @pytest.fixture
        async def sub_session(self, session_id):
            with session_scope("sub"):
                yield

        @pytest.fixture
        def synchronous_sub_session(self, session_id):
            with session_scope("synchronous-sub"):
                yield

        @pytest.fixture
        async def no_session(self, session_id):
            with session_scope(None):
                yield

        async def test_before(self):
            assert current_session_id() is None

        async def test_the_session(self, session_id):
            assert current_session_id() == session_id
            assert await in_a_thread(current_session_id) == session_id

        async def test_gone(self, keeps_the_loop):
            assert current_session_id() is keeps_the_loop is None

        @pytest.mark.session_id("sess-abc1")
        async def test_marked(self):
            assert current_session_id() == "sess-abc1"

        async def test_asynchronous_fixtures(self, agent, session_id):
            assert current_session_id() == session_id

        async def test_a_scope_within(self, sub_session):
            assert current_session_id() == "sub"

        async def test_a_synchronous_scope_within(self, synchronous_sub_session):
            assert current_session_id() == "synchronous-sub"

        async def test_none_within(self, no_session):
            assert current_session_id() is None

        async def test_leaves_a_scope_open(self, session_id):
            session_scope("leaked").__enter__()

        async def test_next(self):
            assert current_session_id() is None

        async def test_calls(self, models_gateway, gateway_session, session_id):
            await in_a_thread(ask, gateway_session, models_gateway)
            models_gateway.assert_attributed(session_id, calls=1)

    async def in_a_thread(function, *arguments):
        import anyio.to_thread
        return await anyio.to_thread.run_sync(function, *arguments)
"""
SCOPES = ["function", "class", "module", "package", "session"]


@pytest.mark.parametrize("scope", SCOPES)
def test_on_pytest_asyncios_loops(run: Run, scope: str) -> None:
    mark, kept = (
        f'@pytest.mark.asyncio(loop_scope="{scope}")',
        f'scope="{scope}", loop_scope="{scope}"',
    )
    tests = ASYNC.format(mark=mark, scope=kept, backend="").replace(
        "pytest.fixture", "pytest_asyncio.fixture"
    )
    result = run("    import pytest_asyncio" + tests)
    result.assert_outcomes(passed=11, warnings=1)
    result.stdout.fnmatch_lines([f"*SessionLeakWarning: {LEAK}"])


@pytest.mark.parametrize("scope", SCOPES)
def test_on_anyios_loops(run: Run, scope: str) -> None:
    backends = f"""
    @pytest.fixture(scope="{scope}", params=["asyncio", "trio"])
    def anyio_backend(request):
        return request.param
    """
    tests = ASYNC.format(
        mark="@pytest.mark.anyio", scope=f'scope="{scope}"', backend="anyio_backend"
    )
    result = run(backends + tests)
    result.assert_outcomes(passed=22, warnings=2)
    result.stdout.fnmatch_lines([f"*SessionLeakWarning: {LEAK}"])


def test_on_unittests_loop(run: Run) -> None:
    result = run("""
        class TestOfUnittest(unittest.IsolatedAsyncioTestCase):
            @pytest.mark.session_id("sess-u")
            async def test_marked(self):
                assert current_session_id() == "sess-u"

            async def test_unmarked(self):
                assert current_session_id() is None

        @pytest.mark.usefixtures("session_id")
        class TestWithTheFixture(unittest.IsolatedAsyncioTestCase):
            async def test_it(self):
                assert current_session_id() is not None
    """)
    result.assert_outcomes(passed=3)


@pytest.mark.parametrize("mark", ["", "@pytest.mark.asyncio", "@pytest.mark.anyio"])
def test_with_hypothesis(run: Run, mark: str) -> None:
    result = run(f"""
        from hypothesis import HealthCheck, given, settings, strategies

        {mark}
        @pytest.mark.session_id("sess-abc1")
        @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=5, deadline=None)
        @given(strategies.integers())
        {"async " * bool(mark)}def test_it(number):
            assert current_session_id() == "sess-abc1"
            {'session_scope("leaked").__enter__()' if mark else ""}  # which would be the next example's
    """)
    result.assert_outcomes(passed=2 if "anyio" in mark else 1)


SWALLOWED = """
    def test_it(models_gateway, gateway_session):
        {insist}
        with contextlib.suppress(Exception):
            ask(gateway_session, models_gateway).raise_for_status()
        requests.get(f"{{models_gateway.url}}/v1/models?key=s3cret", timeout=10)
"""
OFFENDERS = [
    "2 calls reached the models gateway in no session:",
    "  POST  /v1/chat/completions  forward https://api.openai.com/v1",
    "  GET   /v1/models            without a forward, so not gateway-bound: see gateway_headers()",
    "Make each in session_scope() or under in_session(), through mount() or session_id_hook(); *",
]


@pytest.mark.parametrize(
    ("insist", "arguments"),
    [("models_gateway.require_session()", []), ("pass", ["-o", "cagent_require_session=true"])],
)
def test_a_call_in_no_session_fails_its_test_though_the_error_is_swallowed(
    run: Run, insist: str, arguments: list[str]
) -> None:
    result = run(SWALLOWED.format(insist=insist), *arguments)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*= FAILURES =*", "*_ test_it _*", *OFFENDERS, "*short test summary*"], consecutive=True
    )
    assert "s3cret" not in result.stdout.str().replace("?key=s3cret", "", 1)


def test_two_lines_in_conftest_find_the_call_in_tests_of_any_kind(
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

        def forgetful():
            requests.get(os.environ["GATEWAY"], headers=gateway_headers("https://api.openai.com/v1"), timeout=10)

        def test_function():
            forgetful()

        @pytest.mark.asyncio
        async def test_on_asyncio():
            forgetful()

        @pytest.mark.anyio
        @pytest.mark.parametrize("anyio_backend", ["trio"])
        async def test_on_anyio():
            forgetful()

        class TestOfUnittest(unittest.TestCase):
            def test_sync(self):
                forgetful()

            def test_that_is_skipped_too_late(self):
                forgetful()
                self.skipTest("late")

            def test_that_fails_by_itself(self):
                forgetful()
                self.fail("by itself")

        class TestOfAsynchronousUnittest(unittest.IsolatedAsyncioTestCase):
            async def test_async(self):
                forgetful()

        def test_that_is_skipped_too_late():
            forgetful()
            pytest.skip("late")

        @pytest.mark.skip
        def test_that_is_skipped():
            forgetful()

        def test_that_calls_nothing():
            pass
    """)
    result.assert_outcomes(
        passed=1, failed=6, skipped=3, errors=3
    )  # errors of those that did not pass
    assert result.outlines.count("1 call reached the models gateway in no session:") == 8


def test_nobody_insists_by_default(run: Run) -> None:
    run(SWALLOWED.format(insist="pass")).assert_outcomes(passed=1)


def test_one_test_may_be_let_off(run: Run) -> None:
    tests = SWALLOWED.format(insist="models_gateway.require_session(False)")
    run(tests, "-o", "cagent_require_session=true").assert_outcomes(passed=1)


def test_a_test_that_fails_by_itself_tells_the_calls_as_well(run: Run) -> None:
    result = run("""
        def test_it(models_gateway, gateway_session):
            models_gateway.require_session()
            assert ask(gateway_session, models_gateway).ok
    """)
    result.assert_outcomes(failed=1, errors=1)
    told = [
        "*ERROR at teardown of test_it*",
        "1 call reached the models gateway in no session:",
        "*= FAILURES =*",
    ]
    result.stdout.fnmatch_lines([*told, "E  *assert False*"])


def test_what_fixtures_call_is_told_where_they_do(run: Run) -> None:
    result = run("""
        @pytest.fixture
        def agent(models_gateway, gateway_session):
            models_gateway.require_session()
            yield
            ask(gateway_session, models_gateway)

        def test_it(agent):
            pass
    """)
    result.assert_outcomes(passed=1, errors=1)
    told = ["*ERROR at teardown of test_it*", "1 call reached the models gateway in no session:"]
    result.stdout.fnmatch_lines(told, consecutive=True)
    assert "During handling" not in result.stdout.str()


def test_a_wrong_count_is_told_with_a_difference(run: Run) -> None:
    result = run("""
        @pytest.mark.session_id("sess-abc1")
        def test_it(models_gateway, gateway_session):
            for session_id in ("sess-abc1", "sess-abc2", None):
                with session_scope(session_id):
                    ask(gateway_session, models_gateway)
            models_gateway.assert_attributed("sess-abc1", calls=3)
    """)
    result.assert_outcomes(failed=1)
    call = "POST  /v1/chat/completions  forward https://api.openai.com/v1"
    told = [
        '>       models_gateway.assert_attributed("sess-abc1", calls=3)',
        "E       AssertionError: expected 3 calls in session sess-abc1, got 1 of 3, and 1 in no session",
        f"E            in sess-abc1   {call}",
        f"E         >  in sess-abc2   {call}",
        f"E         >  in no session  {call}",
        "",
    ]
    result.stdout.fnmatch_lines(told, consecutive=True)


def test_without_the_extra_a_line_says_what_to_install(run: Run, pytester: pytest.Pytester) -> None:
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


LEAKS = {
    "a test": """
        def test_leaks():
            session_scope("leaked").__enter__()
    """,
    "a test that fails": """
        def test_leaks():
            session_scope("leaked").__enter__()
            raise AssertionError("failed")
    """,
    "a test that then sets up a fixture of its module": """
        @pytest.fixture(scope="module")
        def wide():
            pass

        def test_leaks(request):
            session_scope("leaked").__enter__()
            request.getfixturevalue("wide")
    """,
    "a fixture": """
        @pytest.fixture
        def leaking():
            return session_scope("leaked").__enter__()

        def test_leaks(leaking):
            assert current_session_id() == "leaked"
    """,
    "a method that sets up": """
        class TestClass:
            def setup_method(self):
                session_scope("leaked").__enter__()

            def test_leaks(self):
                assert current_session_id() == "leaked"
    """,
    "unittest": """
        class TestClass(unittest.TestCase):
            def setUp(self):
                session_scope("leaked").__enter__()

            def test_leaks(self):
                assert current_session_id() == "leaked"
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


@pytest.mark.parametrize("leak", LEAKS.values(), ids=LEAKS)
def test_a_scope_left_open_does_not_colour_the_next_test_and_is_told(run: Run, leak: str) -> None:
    result = run(
        leak
        + """
        def test_next():
            assert current_session_id() is None
    """
    )
    failed = "raise AssertionError" in leak
    result.assert_outcomes(passed=2 - failed, failed=failed, warnings=1)
    result.stdout.fnmatch_lines(["*test_leaks", f"*SessionLeakWarning: {LEAK}"])


@pytest.mark.parametrize(
    ("scope", "then"), [("class", None), ("module", None), ("session", "leaked")]
)
def test_a_scope_that_a_wider_fixture_leaves_open_ends_with_it_and_is_told(
    run: Run, pytester: pytest.Pytester, scope: str, then: str | None
) -> None:
    leak = f"""
        @pytest.fixture(scope="{scope}", autouse=True)
        def leaking(request):
            session_scope("leaked").__enter__()

        class TestClass:
            def test_one(self):
                assert current_session_id() == "leaked"

            def test_two(self):
                assert current_session_id() == "leaked"
    """
    next_test = f"""
        def test_next():
            assert current_session_id() == {then!r}
    """
    files = {"test_a": HEAD + textwrap.dedent(leak), "test_b": HEAD + textwrap.dedent(next_test)}
    pytester.makepyfile(**files)
    result = run("")
    result.assert_outcomes(passed=3, warnings=1)
    told = LEAK.replace("the test", "the fixture leaking")
    result.stdout.fnmatch_lines([f"*SessionLeakWarning: {told}"])


def test_each_of_several_leaks_is_told(run: Run) -> None:
    result = run("""
        def test_leaks():
            session_scope("one").__enter__()
            session_scope("two").__enter__()

        def test_next():
            assert current_session_id() is None
    """)
    result.assert_outcomes(passed=2, warnings=2)


def test_what_a_hook_opens_it_may_close(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makeconftest("""
        import pytest
        from cagent_session import current_session_id, session_scope

        scope = session_scope("hooked")

        def pytest_runtest_setup(item):
            scope.__enter__()

        @pytest.hookimpl(hookwrapper=True)
        def pytest_runtest_teardown(item):
            yield
            scope.__exit__()
    """)
    result = run("""
        def test_one(session_id):
            assert current_session_id() == session_id

        def test_two():
            assert current_session_id() == "hooked"
    """)
    result.assert_outcomes(passed=2, warnings=0)


def test_what_a_hook_leaves_open_does_not_colour_the_next_test(
    run: Run, pytester: pytest.Pytester
) -> None:
    pytester.makeconftest("""
        from cagent_session import session_scope

        def pytest_runtest_setup(item):
            if item.name == "test_one":
                session_scope("leaked").__enter__()
    """)
    result = run("""
        def test_one():
            assert current_session_id() == "leaked"

        def test_two():
            assert current_session_id() is None
    """)
    result.assert_outcomes(passed=2, warnings=1)


def test_an_asynchronous_test_keeps_its_name_and_its_function(run: Run) -> None:
    result = run("""
        @pytest.fixture
        def function(request):
            function = request.node.function
            yield function
            assert request.node.function is function

        @pytest.mark.asyncio
        async def test_it(request, function):
            assert request.node.function.__name__ == function.__name__ == "test_it"
    """)
    result.assert_outcomes(passed=1)


def test_items_that_are_no_functions_are_left_alone(run: Run, pytester: pytest.Pytester) -> None:
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


def test_a_teardown_that_fails_keeps_no_scope_open(run: Run) -> None:
    result = run("""
        @pytest.fixture
        def failing():
            yield
            raise AssertionError("failed")

        def test_leaks(failing):
            session_scope("leaked").__enter__()

        def test_next():
            assert current_session_id() is None
    """)
    result.assert_outcomes(passed=2, errors=1, warnings=1)


def test_a_leak_fails_where_warnings_are_errors(run: Run) -> None:
    result = run(LEAKS["a test"], "-W", "error::cagent_session.pytest_plugin.SessionLeakWarning")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_leaks*", LEAK])


def test_an_asynchronous_leak_fails_where_warnings_are_errors(run: Run) -> None:
    tests = """
        @pytest.mark.asyncio
        async def test_leaks():
            session_scope("leaked").__enter__()

        @pytest.mark.asyncio
        async def test_leaks_and_fails():
            session_scope("leaked").__enter__()
            raise AssertionError("failed")
    """
    result = run(tests, "-W", "error::cagent_session.pytest_plugin.SessionLeakWarning")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        ["*_ test_leaks _*", LEAK, "*_ test_leaks_and_fails _*", "E *failed"]
    )


def test_scopes_that_end_later_are_no_leaks(run: Run) -> None:
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

        def test_a_fixture_asked_for_in_the_test(request, session_id):
            request.getfixturevalue("later")

        def test_it_still_is_the_modules():
            assert current_session_id() == "later"
    """)
    result.assert_outcomes(passed=5, warnings=0)


def test_the_fixtures_the_marker_and_the_option_are_documented(run: Run) -> None:
    fixtures = run("", "--fixtures").stdout
    for name, told in {
        "models_gateway": "A models gateway: a cagent_session.testing.ModelsGateway, a real server on loopback*",
        "gateway_session": "A requests.Session for models_gateway: mounted, pinned to its URL, and with*",
        "session_id": "The ID of the session in which the test runs: a new one, or that of*",
    }.items():
        fixtures.fnmatch_lines([f"{name} -- *pytest_plugin.py:*", f"    {told}"])
    run("", "--markers").stdout.fnmatch_lines(
        ["@pytest.mark.session_id(id): run the test in this session*"]
    )
    option = "cagent_require_session (bool): models_gateway refuses a call in no session"
    assert option in " ".join(run("", "--help").stdout.str().split())


ENTRY_POINT, PLUGIN = (
    ["-p", "cagent_session.pytest_entry_point"],
    ["-p", "cagent_session.pytest_plugin"],
)


@pytest.mark.parametrize(
    "arguments",
    [
        ENTRY_POINT,
        PLUGIN,
        [*ENTRY_POINT, *PLUGIN],
        [*PLUGIN, *ENTRY_POINT],
        [*ENTRY_POINT, "-p", "xdist.plugin", "-n", "1"],
    ],
)
def test_it_is_registered_once_however_it_is_loaded(
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


def test_its_entry_point_loads_nothing_with_pytest_older_than_7(pytester: pytest.Pytester) -> None:
    program = """
        import sys

        import pytest

        del pytest.StashKey  # it is new in pytest 7
        sys.exit(pytest.main(["-p", "cagent_session.pytest_entry_point"]))
    """
    pytester.makepyfile("""
        import sys

        def test_it(request):
            plugins = request.config.pluginmanager
            assert plugins.has_plugin("cagent_session.pytest_entry_point")
            assert "cagent_session.pytest_plugin" not in sys.modules
    """)
    command = [sys.executable, "-c", textwrap.dedent(program)]
    environment = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    subprocess.run(command, check=True, cwd=pytester.path, env=environment)


def test_import_before_pytest_starts_gives_no_warning(pytester: pytest.Pytester) -> None:
    """Otherwise pytest would warn that it can't rewrite the module's assertions any more."""
    program = """
        import sys

        import cagent_session.pytest_plugin
        import pytest

        sys.exit(pytest.main(["-p", "cagent_session.pytest_entry_point"]))
    """
    pytester.makepyfile("def test_it(session_id): pass")
    command = [sys.executable, "-c", textwrap.dedent(program)]
    environment = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    output = subprocess.check_output(command, cwd=pytester.path, env=environment)
    assert b" 1 passed in " in output, "with a warning it is: 1 passed, 1 warning in"


def test_it_is_inert_if_it_is_blocked(run: Run) -> None:
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


LOADED = """
import sys

def test_nothing():
    pass

def pytest_unconfigure():
    print("loaded:", *sorted({name.partition(".")[0] for name in sys.modules}))
"""


@pytest.mark.parametrize(
    ("fixtures", "loads"), [("", set()), ("session_id", set()), ("gateway_session", {"requests"})]
)
def test_who_does_not_use_the_gateway_pays_for_no_server(
    pytester: pytest.Pytester, fixtures: str, loads: set[str]
) -> None:
    pytester.makeconftest(LOADED)
    path = pytester.makepyfile(f"def test_it({fixtures}): pass")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-s",
        "-p",
        "cagent_session.pytest_plugin",
        str(path),
    ]
    environment = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    ran = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=pytester.path, env=environment
    )
    loaded = set(ran.stdout.partition("loaded:")[2].split())
    assert "cagent_session" in loaded
    assert loaded & {"requests", "werkzeug", "pytest_httpserver"} == (
        loads and {"requests", "werkzeug", "pytest_httpserver"}
    )
