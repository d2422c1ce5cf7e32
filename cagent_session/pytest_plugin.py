"""Is every call that a test makes attributed? The fixtures of the library, which pytest finds by themselves."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from cagent_session.context import current_session_id, open_scopes, session_scope
from cagent_session.session_id import InvalidSessionId, new_session_id, validate_session_id

if TYPE_CHECKING:
    import pluggy
    import requests

    from cagent_session.testing import ModelsGateway

_gateway = pytest.StashKey["ModelsGateway"]()
_session_id = pytest.StashKey[str]()
_kept = pytest.StashKey[list[session_scope]]()  # the open scopes that are not for the running test to close


class SessionLeakWarning(pytest.PytestWarning):
    """A test has left a session scope open. It was closed, so that the next test is not in that session."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the ini option."""
    told = "models_gateway refuses a call in no session, and the test that made it fails"
    parser.addini("cagent_require_session", told, type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """Add the marker."""
    config.addinivalue_line("markers", "session_id(id): run the test in this session; the fixture session_id tells it.")
    config.stash[_kept] = []


@pytest.fixture
def models_gateway(request: pytest.FixtureRequest) -> Iterator[ModelsGateway]:
    """A models gateway: a cagent_session.testing.ModelsGateway, a real server on loopback, new for each test.

    It answers as the providers do and records what reaches it: url, calls, calls_in(session_id), usage() and
    assert_attributed(session_id, calls=N). After require_session(), or with the ini option cagent_require_session, it
    answers a call in no session 400, and the test fails. It needs the extra [testing].
    """
    try:
        from cagent_session.testing import ModelsGateway  # noqa: PLC0415 - spares who does not use it a web server
    except ImportError as error:
        raise _failure(error) from None
    with ModelsGateway() as gateway:
        gateway.require_session(request.config.getini("cagent_require_session"))
        request.node.stash[_gateway] = gateway
        yield gateway
    try:
        gateway.check_sessions()  # of what other fixtures called after the test
    except AssertionError as error:
        raise _failure(error) from None


@pytest.fixture
def gateway_session(models_gateway: ModelsGateway) -> Iterator[requests.Session]:
    """A requests.Session for models_gateway: mounted, pinned to its URL, and with gateway_headers() for OpenAI."""
    import requests  # noqa: PLC0415 - see models_gateway

    from cagent_session import gateway_headers, mount  # noqa: PLC0415 - they load requests

    with mount(requests.Session(), models_gateway.url) as session:
        session.trust_env = False  # a proxy does not reach the loopback interface
        session.headers.update(gateway_headers("https://api.openai.com/v1"))
        yield session


@pytest.fixture
def session_id(request: pytest.FixtureRequest) -> Iterator[str]:
    """The ID of the session in which the test runs: a new one, or that of @pytest.mark.session_id("sess-abc1")."""
    marker = request.node.get_closest_marker("session_id")
    with session_scope(_marked(marker) if marker else new_session_id()) as session_id:
        request.node.stash[_session_id] = session_id
        if "anyio_backend" in request.fixturenames:
            request.getfixturevalue(_session_on_anyios_loop.__name__)
        yield session_id


@pytest.fixture
async def _session_on_anyios_loop(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Put the fixtures on anyio's loop in the session, too: it may be older than the test, and so is its context."""
    with session_scope(request.node.stash[_session_id]):
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note which scopes are open before the test; let the marker be enough, without a word of the fixture."""
    item.config.stash[_kept] = open_scopes()
    if isinstance(item, pytest.Function) and item.get_closest_marker("session_id"):
        item.fixturenames = [*item.fixturenames, "session_id"]  # a new list: the tests of one function share theirs


@pytest.hookimpl(hookwrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> Generator[None]:
    """Note which scopes a fixture opens for more than one test."""
    before = open_scopes()
    yield
    if fixturedef.scope != "function":
        request.config.stash[_kept] += [scope for scope in open_scopes() if scope not in before]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, pluggy.Result[Any], None]:
    """Fail a test that made calls in no session; isolate an asynchronous one from the next on the same loop."""
    left: list[session_scope] = []
    with pytest.MonkeyPatch.context() as patch:
        target, name = _test_function(item)
        if inspect.iscoroutinefunction(getattr(target, name, None)):
            patch.setattr(target, name, _isolated(getattr(target, name), left))
        outcome = yield
    try:
        if _gateway in item.stash:
            item.stash[_gateway].check_sessions()
        _warn_of(left, item)
    except (AssertionError, SessionLeakWarning) as error:
        _fail(outcome, item, "call", error)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, pluggy.Result[Any], None]:
    """Close what the test has left open."""
    outcome = yield
    try:
        _warn_of(_close_all_but(item.config.stash[_kept]), item)
    except SessionLeakWarning as error:
        _fail(outcome, item, "teardown", error)


def _marked(marker: pytest.Mark) -> str:
    """Return the session ID that *marker* gives."""
    problem = 'takes one session ID, as in session_id("sess-abc1")'
    if len(marker.args) == 1 and not marker.kwargs:
        try:
            return validate_session_id(marker.args[0])
        except InvalidSessionId as error:
            problem = f"got no session ID: {error}"
    pytest.fail(f"@pytest.mark.session_id {problem}", pytrace=False)


def _failure(problem: Exception) -> BaseException:
    """Return a failure that shows what *problem* says, and no traceback."""
    return pytest.fail.Exception(str(problem), pytrace=False)


def _fail(outcome: pluggy.Result[Any], item: pytest.Item, phase: str, problem: Exception) -> None:
    """Fail the test, in a phase of its run, for *problem*; where it has failed already, show that beside."""
    if outcome.excinfo is None or issubclass(outcome.excinfo[0], pytest.skip.Exception):
        outcome.force_exception(_failure(problem))
    else:
        item.add_report_section(phase, "cagent_session", str(problem))


def _test_function(item: pytest.Item) -> tuple[Any, str]:
    """Return where the function stands that is called for *item*: an object, and the name of its attribute."""
    function: Any = item
    if hasattr(getattr(item, "obj", None), "hypothesis"):
        return function.obj.hypothesis, "inner_test"
    if getattr(item, "nofuncargs", False):  # a method of a unittest.TestCase
        return function.instance, item.name
    return item, "obj"


def _isolated(test: Callable[..., Any], left: list[session_scope]) -> Callable[..., Any]:
    """Return *test* with nothing that it leaves open in its loop's context, which may be the next test's, too.

    unittest's loop, and one that is older than the test, know nothing of the session: its own is that of here and now.
    """
    session_id = current_session_id()

    @functools.wraps(test)
    async def isolated(*args: Any, **kwargs: Any) -> Any:
        with session_scope(current_session_id() if open_scopes() else session_id):
            kept = open_scopes()
            try:
                return await test(*args, **kwargs)
            finally:
                left.extend(_close_all_but(kept))

    return isolated


def _close_all_but(kept: list[session_scope]) -> list[session_scope]:
    """Close the open scopes that are not among *kept*, and return them."""
    left = [scope for scope in open_scopes() if scope not in kept]
    for scope in left:
        scope.__exit__()
    return left


def _warn_of(left: list[session_scope], item: pytest.Item) -> None:
    """Warn of the scopes that *item* has left open."""
    for scope in left:
        told = f"the test left session_scope({scope.session_id!r}) open; it is closed now"
        item.warn(SessionLeakWarning(f"{told}. Enter it in a with statement, or decorate with in_session()"))
