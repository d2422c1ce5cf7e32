"""How long is it tried? ``short`` for whoever changes something, ``--hypothesis-profile=long`` for who looks for more.

The short form tries the same examples each time, on every machine: what turns red is a change's fault. The long one
tries others each time, ten times as many, and prints with a find the ``@reproduce_failure`` that repeats it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from wire import Names, Wire

EVERY_CHECK: Any = list(HealthCheck)
COMMON = settings(deadline=None, database=None, print_blob=True, suppress_health_check=EVERY_CHECK)
settings.register_profile("short", COMMON, max_examples=5_000, derandomize=True)
settings.register_profile("long", COMMON, max_examples=50_000)
settings.load_profile("short")


@pytest.fixture(scope="session")
def names() -> Iterator[Names]:
    """Whatever name is looked up, nothing leaves the machine."""
    with Names().instead_of_the_resolver() as names:
        yield names


@pytest.fixture(scope="session")
def wire() -> Iterator[Wire]:
    with Wire().listening() as wire:
        yield wire
