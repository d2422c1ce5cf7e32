"""The pytest plugin: the fixtures, the marker and the option of this library.

PYTEST_DONT_REWRITE: this module has no assertions. Without this line pytest would warn if the
module was imported before pytest started.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import AsyncIterator, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from cagent_session.context import open_scopes, session_scope
from cagent_session.session_id import InvalidSessionId, new_session_id, validate_session_id

if TYPE_CHECKING:
    import pluggy
    import requests

    from cagent_session.testing import ModelsGateway

_gateway_of_test = pytest.StashKey["ModelsGateway"]()
_scope_of_test = pytest.StashKey[session_scope]()
_scopes_to_keep = pytest.StashKey[list[session_scope]]()  # they stay open after the running test

# Parameters of ModelsGateway. The options in pytest's configuration begin with "cagent_".
_HEADERS = {
    "session_header": "the header in which models_gateway finds the session ID",
    "marker": "the header that marks the requests for models_gateway, or none",
    "root_header": "the header in which models_gateway finds the root session's ID, or none",
    "parent_header": "the header in which models_gateway finds the parent session's ID, or none",
}
_UNSET = object()  # an option that is not set. An empty text is a value.


class SessionLeakWarning(pytest.PytestWarning):
    """A test or a fixture left a session scope open.

    The plugin has closed it, so that the next test does not run in it.
    """


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the ini options."""
    purpose = "models_gateway refuses a call in no session, and the test that makes it fails"
    parser.addini("cagent_require_session", purpose, type="bool", default=False)
    for parameter, purpose in _HEADERS.items():
        parser.addini(f"cagent_{parameter}", f"the name of {purpose}", default=_UNSET)


def pytest_configure(config: pytest.Config) -> None:
    """Add the marker."""
    marker = "session_id(id): run the test in this session; the fixture session_id returns the ID."
    config.addinivalue_line("markers", marker)
    config.stash[_scopes_to_keep] = []


@pytest.fixture
def models_gateway(request: pytest.FixtureRequest) -> Iterator[ModelsGateway]:
    """A models gateway: a cagent_session.testing.ModelsGateway, a real server on loopback.

    Each test has a new one. It answers as the providers do and records the calls: see url, calls,
    calls_in(session_id), usage() and assert_attributed(session_id, calls=N). After
    require_session(), or with the ini option cagent_require_session, a call in no session is
    answered 400, and the test fails. If its headers have other names than docker-agent's, the ini
    options cagent_session_header, cagent_marker, cagent_root_header and cagent_parent_header give
    them, and models_gateway.gateway is the Gateway for your clients. The fixture needs the extra
    [testing].
    """
    with _new_gateway(request.config) as gateway:
        gateway.require_session(request.config.getini("cagent_require_session"))
        request.node.stash[_gateway_of_test] = gateway
        yield gateway
    try:
        # This finds the calls of a test that did not pass, and of fixtures that ended before.
        gateway.check_sessions()
    except AssertionError as error:
        raise _failure(error) from None


@pytest.fixture
def gateway_session(models_gateway: ModelsGateway) -> Iterator[requests.Session]:
    """A requests.Session for models_gateway: mounted, pinned to its URL, and with gateway headers.

    The headers are those of models_gateway.gateway.route("openai"). There are none if the gateway
    has no marker.
    """
    # Not at the top: only tests that use the gateway need to load requests.
    import requests  # noqa: PLC0415

    from cagent_session import mount  # noqa: PLC0415

    gateway = models_gateway.gateway
    with mount(requests.Session(), gateway) as session:
        session.trust_env = False  # a proxy could not reach the loopback interface
        session.headers.update(gateway.route("openai").headers)
        yield session


@pytest.fixture
def session_id(request: pytest.FixtureRequest) -> Iterator[str]:
    """The ID of the session in which the test runs: a new one, or that of the marker session_id.

    The marker is ``@pytest.mark.session_id("sess-abc1")``. An application that the test calls by an
    in-process client, such as Starlette's TestClient, runs in no session, as on a real server.
    """
    # Not at the top: only tests that use the fixture need it.
    from cagent_session.in_process_clients import serving_outside  # noqa: PLC0415

    marker = request.node.get_closest_marker("session_id")
    scope = session_scope(_session_id_of(marker) if marker else new_session_id())
    request.node.stash[_scope_of_test] = scope
    with scope as session_id, serving_outside(scope):
        if "anyio_backend" in request.fixturenames:
            request.getfixturevalue(_session_on_anyio_loop.__name__)
        yield session_id


@pytest.fixture
async def _session_on_anyio_loop(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Enter the session on anyio's event loop too, for the asynchronous fixtures.

    If the loop is older than the test, its context does not have the test's scope.
    """
    with request.node.stash[_scope_of_test]:
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note which scopes are open before the test. Let a marked test use the fixture session_id."""
    item.config.stash[_scopes_to_keep] = open_scopes()
    if isinstance(item, pytest.Function) and item.get_closest_marker("session_id"):
        # pytest-asyncio reads this private attribute as well.
        definitions = item._fixtureinfo.name2fixturedefs  # noqa: SLF001
        names = item.fixturenames
        # Fixtures of wider scopes must be set up first.
        wider = sum(
            name in definitions and definitions[name][-1].scope != "function" for name in names
        )
        # A new list, because other items may share the old one.
        item.fixturenames = [*names[:wider], "session_id", *names[wider:]]


@pytest.hookimpl(hookwrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None]:
    """Keep the scopes that a fixture opens for several tests, until the fixture ends."""
    if fixturedef.scope == "function":
        yield
        return
    before = open_scopes()
    opened: list[session_scope] = []
    owner = f"the fixture {fixturedef.argname}"
    # The first finalizer runs last: after the fixture's own teardown.
    fixturedef.addfinalizer(lambda: _close(opened, request.node, owner))
    yield
    opened += [scope for scope in open_scopes() if scope not in before]
    request.config.stash[_scopes_to_keep] += opened


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, pluggy.Result[Any], None]:
    """Fail a test that made calls in no session.

    If the test is asynchronous, also keep its scopes from the next test on the same event loop.
    """
    left_open: list[session_scope] = []
    patch = pytest.MonkeyPatch()
    if isinstance(item, pytest.Function):
        _isolate_async_test(item, patch, left_open)
    outcome = yield
    patch.undo()
    # pytest keeps the failures of a unittest.TestCase in item._excinfo.
    passed = outcome.excinfo is None and not getattr(item, "_excinfo", None)
    with _fail_on_problem(outcome):
        if passed and _gateway_of_test in item.stash:
            item.stash[_gateway_of_test].check_sessions()
        _warn_about(left_open, item, "the test")


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, pluggy.Result[Any], None]:
    """Close the scopes that the test left open."""
    outcome = yield
    keep = item.config.stash[_scopes_to_keep]
    with _fail_on_problem(outcome):
        _close([scope for scope in open_scopes() if scope not in keep], item, "the test")


def _new_gateway(config: pytest.Config) -> ModelsGateway:
    """Return a gateway that reads the headers of *config*, or fail the test."""
    names: dict[str, Any] = {}
    for parameter in _HEADERS:
        name = config.getini(f"cagent_{parameter}")
        if name is not _UNSET:
            names[parameter] = None if name.lower() in ("", "none") else name
    try:
        # Not at the top: only tests that use the gateway need to load a web server.
        from cagent_session.testing import ModelsGateway  # noqa: PLC0415

        return ModelsGateway(**names)
    except ImportError as error:
        raise _failure(error) from None
    except (TypeError, ValueError) as error:
        options = ", ".join(f"cagent_{parameter} = {name}" for parameter, name in names.items())
        raise _failure(f"{error}. pytest's configuration has {options}") from None


def _session_id_of(marker: pytest.Mark) -> str:
    """Return the session ID in *marker*, or fail the test if there is no valid one."""
    problem = 'takes one session ID, as in session_id("sess-abc1")'
    if len(marker.args) == 1 and not marker.kwargs:
        try:
            return validate_session_id(marker.args[0])
        except InvalidSessionId as error:
            problem = f"has an invalid session ID: {error}"
    pytest.fail(f"@pytest.mark.session_id {problem}", pytrace=False)


def _failure(problem: object) -> BaseException:
    """Return a failure with *problem* as its message and no traceback."""
    return pytest.fail.Exception(str(problem), pytrace=False)


@contextlib.contextmanager
def _fail_on_problem(outcome: pluggy.Result[Any]) -> Iterator[None]:
    """Turn a problem in the ``with`` block into a failure of *outcome*.

    An outcome that is a failure already stays as it is.
    """
    try:
        yield
    except (AssertionError, SessionLeakWarning) as problem:
        if outcome.excinfo is None:
            outcome.force_exception(_failure(problem))


def _isolate_async_test(
    item: pytest.Function, patch: pytest.MonkeyPatch, left_open: list[session_scope]
) -> None:
    """Run an asynchronous test in the current session, and close the scopes that it leaves open.

    Otherwise they would stay in the context of the event loop, on which the next test may run.
    The loop may not know the current session: anyio's loop may be older than the fixtures, and
    unittest's loop copies the context before them. But scopes that were entered on the loop are
    the inner ones, so their session counts.

    :param left_open: receives the scopes that the test leaves open.
    """
    target, name = item, "obj"
    if hasattr(item.obj, "hypothesis"):
        target, name = item.obj.hypothesis, "inner_test"
    elif getattr(item, "nofuncargs", False):  # a method of a unittest.TestCase
        target, name = item.instance, item.name
    test = getattr(target, name)
    if not inspect.iscoroutinefunction(test):
        return
    open_here = open_scopes()

    @functools.wraps(test)
    async def isolated(*args: Any, **kwargs: Any) -> Any:
        on_loop = open_scopes()
        scopes = on_loop if any(scope not in open_here for scope in on_loop) else open_here
        with contextlib.ExitStack() as stack:
            # The same scopes, not new ones: serving_outside() has to recognize the innermost one.
            # All of them: a sub-session, or a scope for a purpose, depends on those around it.
            for scope in reversed(scopes):
                stack.enter_context(scope)
            keep = open_scopes()
            try:
                return await test(*args, **kwargs)
            finally:
                left_open.extend(scope for scope in open_scopes() if scope not in keep)
                _leave(left_open)

    patch.setattr(target, name, isolated)


def _leave(scopes: list[session_scope]) -> list[session_scope]:
    """Leave those of *scopes* that are open, and return them."""
    still_open = [scope for scope in open_scopes() if scope in scopes]
    for scope in still_open:
        scope.__exit__()
    return still_open


def _close(scopes: list[session_scope], node: pytest.Item | pytest.Collector, owner: str) -> None:
    """Leave those of *scopes* that are open, with a warning for each."""
    _warn_about(_leave(scopes), node, owner)


def _warn_about(scopes: list[session_scope], node: Any, owner: str) -> None:
    """Warn that *owner* left *scopes* open."""
    for scope in scopes:
        message = (
            f"{owner} left {scope!r} open. The scope is closed now. "
            "Use it in a with statement, or decorate a function with in_session()"
        )
        node.warn(SessionLeakWarning(message))
