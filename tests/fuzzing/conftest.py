"""The profiles of Hypothesis, and fixtures that keep all connections on this machine.

The profile ``short`` is the default. It tries the same examples each time, so a failure is caused
by a change. ``--hypothesis-profile=long`` tries other examples each time, and many more. With a
failure it prints the ``@reproduce_failure`` that repeats it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from wire import Names, Wire

EVERY_CHECK: Any = list(HealthCheck)
COMMON = settings(deadline=None, database=None, print_blob=True, suppress_health_check=EVERY_CHECK)
settings.register_profile("short", COMMON, max_examples=1_250, derandomize=True)
settings.register_profile("long", COMMON, max_examples=50_000)
settings.load_profile("short")


@pytest.fixture(scope="session")
def names() -> Iterator[Names]:
    """Replace the look-up of names, so that no request leaves this machine."""
    with Names().instead_of_the_resolver() as names:
        yield names


@pytest.fixture(scope="session")
def wire() -> Iterator[Wire]:
    with Wire().listening() as wire:
        yield wire
