"""The calls of huggingface_hub 1, which is on httpx."""

from __future__ import annotations

import with_huggingface_hub_1
from huggingface_client import HuggingFaceHub

SDK = "huggingface_hub==1.33.0"
NEWEST = "huggingface_hub<2"


class TestHuggingFaceHub(HuggingFaceHub):
    example = with_huggingface_hub_1
    streams_belong = "created"
    missing_raises = "MissingSessionId"
    missing_tries = (1,)
    async_calls_arrive = "in no session"
