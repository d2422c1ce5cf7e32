"""What do the tests of the provider SDKs share? Servers, keys, and the ways to call that each SDK has."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from contract import Provider

from cagent_session.testing import ModelsGateway

KEYS = (
    *(
        "ANTHROPIC_API_KEY",
        "AZURE_AI_API_KEY",
        "CO_API_KEY",
        "DASHSCOPE_API_KEY",
        "DATABRICKS_TOKEN",
        "GEMINI_API_KEY",
    ),
    *(
        "GOOGLE_API_KEY",
        "GROQ_API_KEY",
        "HF_TOKEN",
        "MISTRAL_API_KEY",
        "OPENAI_API_KEY",
        "OLLAMA_API_KEY",
    ),
    *("TOGETHER_API_KEY", "VOYAGE_API_KEY"),
)

# Here, not in a fixture: some SDKs look for their key when they are imported.
os.environ.update(dict.fromkeys(KEYS, "key"), NO_PROXY="127.0.0.1")
for gateway_variable in ("DOCKER_AGENT_MODELS_GATEWAY", "CAGENT_MODELS_GATEWAY"):
    os.environ.pop(gateway_variable, None)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes a ``way`` once for each function of its class named ``ask_...``; likewise ``figures``."""
    for fixture, prefix in (("way", "ask_"), ("figures", "figures_")):
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(
                fixture, [name for name in dir(metafunc.cls) if name.startswith(prefix)]
            )


@pytest.fixture
def gateway() -> Iterator[ModelsGateway]:
    with ModelsGateway() as server:
        yield server


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as server:
        yield server
