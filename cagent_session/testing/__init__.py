"""A models gateway for tests: :class:`ModelsGateway` and what it returns."""

from __future__ import annotations

try:
    import pytest_httpserver  # noqa: F401 - the modules below need it
except ImportError as error:
    raise ImportError(
        f'{error}: cagent_session.testing needs pip install "cagent-session[testing]"'
    ) from None

from cagent_session.testing.calls import Call, Usage
from cagent_session.testing.models_gateway import ModelsGateway

__all__ = ["Call", "ModelsGateway", "Usage"]
