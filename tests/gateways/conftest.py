"""Fixtures for the tests of the gateways: the real programs, and the providers behind them."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from calling import Start, must_be_installed
from programs import ON_LOOPBACK, PROGRAMS, Edits, Gateway, running
from provider import HOSTS, Providers, running_providers

# Many tests call the same LiteLLM with the same key: more than 600 times a minute.
MORE_CALLS: Edits = {"KEY_RPM = 600": "KEY_RPM = 6000"}


@pytest.fixture(autouse=True)
def _on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use no proxy for the gateways, whatever the variables of the test run say."""
    for name, value in ON_LOOPBACK.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def _sigint() -> Iterator[None]:
    """Let SIGINT arrive: a job in a script's background ignores it, as do the job's programs."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def session_providers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Providers]:
    with running_providers(tmp_path_factory.mktemp("providers")) as providers:
        yield providers


@pytest.fixture
def providers(session_providers: Providers) -> Providers:
    """Return the providers. They have got no requests yet, and all of them answer with an echo."""
    for host in HOSTS:
        session_providers[host].clear()
    return session_providers


@pytest.fixture(scope="session")
def start_litellm(
    session_providers: Providers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Edits], Gateway]]:
    """Return a function that starts LiteLLM once for each set of edits: a start takes seconds."""
    started = dict[frozenset[tuple[str, str]], Gateway]()
    with ExitStack() as stack:

        def start_once(edits: Edits) -> Gateway:
            key = frozenset(edits.items())
            if key not in started:
                folder = tmp_path_factory.mktemp("litellm")
                program = running("litellm", folder, session_providers, edits)
                started[key] = stack.enter_context(program)
            return started[key]

        yield start_once


@pytest.fixture
def start(
    providers: Providers,
    start_litellm: Callable[[Edits], Gateway],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Start]:
    with ExitStack() as stack:

        def start_one(
            name: str, edits: Edits | None = None, behind: Providers | None = None
        ) -> Gateway:
            must_be_installed(name)
            if name == "litellm" and behind is None:
                return start_litellm(edits or MORE_CALLS)
            folder = tmp_path_factory.mktemp(name)
            return stack.enter_context(running(name, folder, behind or providers, edits))

        yield start_one


@pytest.fixture(params=PROGRAMS)
def name(request: pytest.FixtureRequest) -> str:
    """Return the name of each gateway in turn."""
    return str(request.param)


@pytest.fixture
def gateway(name: str, start: Start) -> Gateway:
    """Run each gateway with its recipe. LiteLLM takes more calls of one key: see MORE_CALLS."""
    return start(name)
