"""Fixtures for the provider SDKs' tests, and the environment in which SDKs are imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from contract import Provider

from cagent_session.testing import ModelsGateway

EXAMPLES = Path(__file__).parents[2] / "examples" / "sdks"
KEYS = [
    "ANTHROPIC_API_KEY",
    "AZURE_AI_API_KEY",
    "CO_API_KEY",
    "DASHSCOPE_API_KEY",
    "DATABRICKS_TOKEN",
    "GEMINI_API_KEY",
    "GOOGLE_API_KEY",
    "GROQ_API_KEY",
    "HF_TOKEN",
    "MISTRAL_API_KEY",
    "OPENAI_API_KEY",
    "OLLAMA_API_KEY",
    "TOGETHER_API_KEY",
    "VOYAGE_API_KEY",
]

sys.path.append(str(EXAMPLES))  # the tests call through the clients that the examples make

# This is no fixture because some SDKs read their key when they are imported.
os.environ.update(dict.fromkeys(KEYS, "key"), NO_PROXY="127.0.0.1")
for name in ("DOCKER_AGENT_MODELS_GATEWAY", "CAGENT_MODELS_GATEWAY"):
    os.environ.pop(name, None)

# Fixtures that stand for a method's name, and how these names begin.
METHODS = {"way": ("ask_", "stream_"), "stream": ("stream_",), "usage": ("usage_",)}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes ``way`` once for each way to call of its class, and so on."""
    for fixture in METHODS.keys() & {*metafunc.fixturenames}:
        names = [name for name in dir(metafunc.cls) if name.startswith(METHODS[fixture])]
        metafunc.parametrize(fixture, names)


@pytest.fixture
def gateway() -> Iterator[ModelsGateway]:
    with ModelsGateway() as server:
        yield server


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as server:
        yield server
