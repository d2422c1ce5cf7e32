"""What do the tests of the gateways share? The real programs, providers behind them, and a client before them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from calling import Start, must_be_installed
from programs import PROGRAMS, Edits, Gateway, running
from provider import HOSTS, Providers, running_providers


@pytest.fixture(scope="session")
def running_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Providers]:
    with running_providers(tmp_path_factory.mktemp("providers")) as providers:
        yield providers


@pytest.fixture
def providers(running_behind: Providers) -> Providers:
    """Return the providers; nothing has arrived there yet, and all of them answer by an echo."""
    for host in HOSTS:
        running_behind[host].clear()
    return running_behind


@pytest.fixture
def start(providers: Providers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    with ExitStack() as stack:

        def start_one(
            name: str, edits: Edits | None = None, behind: Providers | None = None
        ) -> Gateway:
            must_be_installed(name)
            return stack.enter_context(
                running(name, tmp_path_factory.mktemp(name), behind or providers, edits)
            )

        yield start_one


@pytest.fixture(scope="session")
def shared_litellm(
    running_behind: Providers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """Run one LiteLLM for all tests that take it as it is: it starts for ten seconds."""
    must_be_installed("litellm")
    with running("litellm", tmp_path_factory.mktemp("litellm"), running_behind) as gateway:
        yield gateway


@pytest.fixture(params=PROGRAMS)
def name(request: pytest.FixtureRequest) -> str:
    """Name each of the gateways."""
    return str(request.param)


@pytest.fixture
def gateway(name: str, start: Start, request: pytest.FixtureRequest) -> Gateway:
    """Run it by the recipe as it is."""
    if name == "litellm":
        shared: Gateway = request.getfixturevalue("shared_litellm")
        return shared
    return start(name)
