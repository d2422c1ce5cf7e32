"""The entry point of the pytest plugin. It loads nothing with pytest older than 7."""

import pytest

pytest_plugins = ["cagent_session.pytest_plugin"] if hasattr(pytest, "StashKey") else []
