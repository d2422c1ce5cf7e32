"""Settings and fixtures for all tests."""

import os
import sys
from collections.abc import Callable

import pytest
from hypothesis import settings

settings.register_profile("no deadline", deadline=None)  # for busy machines
settings.load_profile("no deadline")

for name in [name for name in os.environ if name.startswith("CELERY_")]:
    del os.environ[name]  # they would take precedence over the settings of an app under test


@pytest.fixture
def inherited_by_threads() -> Callable[[str], str | None]:
    """Return a function that tells in which session a new thread starts.

    It takes the session of the code that starts the thread. It returns that session where threads
    inherit the context, and ``None`` elsewhere.
    """
    inherits = getattr(sys.flags, "thread_inherit_context", False)
    return lambda session_id: session_id if inherits else None
