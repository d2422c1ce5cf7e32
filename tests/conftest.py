"""What holds for all tests? No deadline for the property-based ones: a busy machine is no failure. Nobody's broker."""

import os
import sys
from collections.abc import Callable

import pytest
from hypothesis import settings

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture
def inherited_by_threads() -> Callable[[str], str | None]:
    """Return what makes the session of a plain thread from the session of the thread that starts it.

    None, but on free-threaded builds of Python 3.14, and where the flag is set, the same.
    """
    inherits = getattr(sys.flags, "thread_inherit_context", False)
    return lambda session_id: session_id if inherits else None


for name in [name for name in os.environ if name.startswith("CELERY_")]:
    del os.environ[name]  # Celery would heed it more than an app's own settings
