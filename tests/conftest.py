"""Settings and fixtures for all tests."""

import os
import sys
from collections.abc import Callable

import pytest
from hypothesis import settings

settings.register_profile("no deadline", deadline=None)  # on a busy machine an example takes longer
settings.load_profile("no deadline")

for name in [name for name in os.environ if name.startswith("CELERY_")]:
    del os.environ[name]  # they would take precedence over the settings of an app under test


@pytest.fixture
def inherited_by_threads() -> Callable[[str], str | None]:
    """Return a function: which session a thread starts in, given that of the thread that starts it.

    It is none, except where threads inherit the context.
    """
    inherits = getattr(sys.flags, "thread_inherit_context", False)
    return lambda session_id: session_id if inherits else None
