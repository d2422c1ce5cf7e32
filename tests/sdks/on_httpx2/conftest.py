"""What do the tests of the SDKs on httpx2 share? They call nobody but the gateway, and leave no event loop behind."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Iterator

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # else huggingface_hub fetches a list of agents


@pytest.fixture(scope="module", autouse=True)
def no_event_loop_left() -> Iterator[None]:
    """Collect those that a framework's run_sync() leaves open, where its module ignores the warning."""
    yield
    asyncio.set_event_loop(None)
    gc.collect()
