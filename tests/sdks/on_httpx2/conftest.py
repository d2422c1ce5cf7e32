"""The environment of the SDKs on httpx2: they call only the gateway, and leave no loop open."""

from __future__ import annotations

import asyncio
import gc
import os
import tempfile
from collections.abc import Iterator

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # else huggingface_hub fetches a list of agents
FOLDER = tempfile.TemporaryDirectory()  # it is removed at exit
os.environ["MEM0_DIR"] = FOLDER.name  # else mem0 writes to the home directory


@pytest.fixture(scope="module", autouse=True)
def no_event_loop_left() -> Iterator[None]:
    """Collect the event loops that a framework's ``run_sync`` leaves open.

    The framework's own module ignores the warning.
    """
    yield
    asyncio.set_event_loop(None)
    gc.collect()
