"""Fixtures for the tests of the provider SDKs, and the environment for importing SDKs."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from contract import Provider

from cagent_session.testing import ModelsGateway

EXAMPLES = Path(__file__).parents[2] / "examples" / "sdks"
KEYS = [
    "ANTHROPIC_API_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AZURE_AI_API_KEY",
    "CO_API_KEY",
    "DASHSCOPE_API_KEY",
    "DATABRICKS_TOKEN",
    "GEMINI_API_KEY",
    "GOOGLE_API_KEY",
    "GROQ_API_KEY",
    "HF_TOKEN",
    "MISTRAL_API_KEY",
    "NVIDIA_API_KEY",
    "OPENAI_API_KEY",
    "OLLAMA_API_KEY",
    "REPLICATE_API_TOKEN",
    "TOGETHER_API_KEY",
    "USER_ACCESS_TOKEN",
    "VOYAGE_API_KEY",
]

sys.path.append(str(EXAMPLES))  # the tests use the clients that the examples make

# This is not a fixture, because some SDKs read their key when they are imported.
os.environ.update(dict.fromkeys(KEYS, "key"), NO_PROXY="127.0.0.1")
for name in ("DOCKER_AGENT_MODELS_GATEWAY", "CAGENT_MODELS_GATEWAY"):
    os.environ.pop(name, None)

# Each of these fixtures is the name of a method. The values are prefixes of the names.
METHODS = {"way": ("ask_", "stream_"), "stream": ("stream_",), "usage": ("usage_",)}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes such a fixture for each of these methods of its class, on each line.

    A test that only takes ``line`` runs once on each line.
    """
    tests: Any = metafunc.cls
    for fixture in METHODS.keys() & {*metafunc.fixturenames}:
        names = [name for name in dir(tests) if name.startswith(METHODS[fixture])]
        pairs = [
            (line, name)
            for line in tests.lines
            for name in names
            if line == "instrument" or name not in tests.only_instrumented
        ]
        metafunc.parametrize(["line", fixture], pairs, indirect=["line"])
        return
    if "line" in inspect.signature(metafunc.function).parameters:
        metafunc.parametrize("line", tests.lines, indirect=True)


@pytest.fixture
def gateway() -> Iterator[ModelsGateway]:
    with ModelsGateway() as server:
        yield server


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as server:
        yield server
