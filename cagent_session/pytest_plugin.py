"""Is every call that a test makes attributed? The fixtures of the library, which pytest finds by themselves."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import AsyncIterator, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from cagent_session.context import current_session_id, open_scopes, session_scope
from cagent_session.session_id import InvalidSessionId, new_session_id, validate_session_id

if TYPE_CHECKING:
    import pluggy
    import requests

    from cagent_session.testing import ModelsGateway

_gateway = pytest.StashKey["ModelsGateway"]()
_scope = pytest.StashKey[session_scope]()
_kept = pytest.StashKey[list[session_scope]]()  # the open scopes that are not for the running test to close


class SessionLeakWarning(pytest.PytestWarning):
    """A test, or a fixture, has left a session scope open. It was closed, so that the next test is not in it."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the ini option."""
    told = "models_gateway refuses a call in no session, and the test that made it fails"
    parser.addini("cagent_require_session", told, type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """Add the marker, and the place for the open scopes."""
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
        gateway.check_sessions()  # of what a test that did not pass has called, and other fixtures after it
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
    scope = request.node.stash[_scope] = session_scope(_marked(marker) if marker else new_session_id())
    with scope as session_id:
        if "anyio_backend" in request.fixturenames:
            request.getfixturevalue(_session_on_anyios_loop.__name__)
        yield session_id


@pytest.fixture
async def _session_on_anyios_loop(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Put the fixtures on anyio's loop in the session, too: it may be older than the test, and so is its context."""
    with request.node.stash[_scope]:
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note which scopes are open before the test; let the marker be enough, without a word of the fixture."""
    item.config.stash[_kept] = open_scopes()
    if isinstance(item, pytest.Function) and item.get_closest_marker("session_id"):
        known, names = item._fixtureinfo.name2fixturedefs, item.fixturenames  # noqa: SLF001 - as pytest-asyncio does
        wider = sum(name in known and known[name][-1].scope != "function" for name in names)  # they come first
        item.fixturenames = [*names[:wider], "session_id", *names[wider:]]  # a new list: others may share this one


@pytest.hookimpl(hookwrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> Generator[None]:
    """Note which scopes a fixture opens for more than one test, and close those that it leaves open at its end."""
    if fixturedef.scope == "function":
        yield
        return
    before, opened = open_scopes(), list[session_scope]()
    fixturedef.addfinalizer(lambda: _close(opened, request.node, f"the fixture {fixturedef.argname}"))  # runs last
    yield
    opened += [scope for scope in open_scopes() if scope not in before]
    request.config.stash[_kept] += opened


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, pluggy.Result[Any], None]:
    """Fail a test that made calls in no session; isolate an asynchronous one from the next on the same loop."""
    left: list[session_scope] = []
    patch = pytest.MonkeyPatch()
    if isinstance(item, pytest.Function):
        _isolate(item, patch, left)
    outcome = yield
    patch.undo()
    passed = outcome.excinfo is None and not getattr(item, "_excinfo", None)  # where unittest's failures are
    with _failing(outcome):
        if passed and _gateway in item.stash:
            item.stash[_gateway].check_sessions()
        _warn_of(left, item, "the test")


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, pluggy.Result[Any], None]:
    """Close what the test has left open."""
    outcome = yield
    kept = item.config.stash[_kept]
    with _failing(outcome):
        _close([scope for scope in open_scopes() if scope not in kept], item, "the test")


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


@contextlib.contextmanager
def _failing(outcome: pluggy.Result[Any]) -> Iterator[None]:
    """Fail what has come to *outcome* for a problem, unless it has failed by itself."""
    try:
        yield
    except (AssertionError, SessionLeakWarning) as problem:
        if outcome.excinfo is None:
            outcome.force_exception(_failure(problem))


def _isolate(item: pytest.Function, patch: pytest.MonkeyPatch, left: list[session_scope]) -> None:
    """Let an asynchronous test leave no scope open in its loop's context, which may be the next test's, too.

    It begins in the session that is in scope here. A loop that is older than the fixtures, as anyio's may be, or that
    has copied the context before them, as unittest's has, does not know that. But scopes of the loop's own count more.
    """
    target, name = item, "obj"
    if hasattr(item.obj, "hypothesis"):
        target, name = item.obj.hypothesis, "inner_test"
    elif getattr(item, "nofuncargs", False):  # a method of a unittest.TestCase
        target, name = item.instance, item.name
    test = getattr(target, name)
    if not inspect.iscoroutinefunction(test):
        return
    here, session_id = open_scopes(), current_session_id()

    @functools.wraps(test)
    async def isolated(*args: Any, **kwargs: Any) -> Any:
        own = any(scope not in here for scope in open_scopes())
        with session_scope(current_session_id() if own else session_id):
            kept = open_scopes()
            try:
                return await test(*args, **kwargs)
            finally:
                left.extend(scope for scope in open_scopes() if scope not in kept)
                _exit(left)

    patch.setattr(target, name, isolated)


def _exit(scopes: list[session_scope]) -> list[session_scope]:
    """Leave those of *scopes* that are open; return them."""
    left = [scope for scope in open_scopes() if scope in scopes]
    for scope in left:
        scope.__exit__()
    return left


def _close(scopes: list[session_scope], node: pytest.Item | pytest.Collector, whose: str) -> None:
    _warn_of(_exit(scopes), node, whose)


def _warn_of(left: list[session_scope], node: Any, whose: str) -> None:
    """Warn of the scopes that were left open."""
    for scope in left:
        told = f"{whose} left session_scope({scope.session_id!r}) open; it is closed now"
        node.warn(SessionLeakWarning(f"{told}. Enter it in a with statement, or decorate with in_session()"))
