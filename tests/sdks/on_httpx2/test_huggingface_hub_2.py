"""The calls of huggingface_hub 2, which is on httpx2."""

from __future__ import annotations

import with_huggingface_hub_2
from huggingface_client import HuggingFaceHub

SDK = "huggingface_hub==2.4.0"


class TestHuggingFaceHub(HuggingFaceHub):
    example = with_huggingface_hub_2
    streams_belong = "created"
    missing_raises = "MissingSessionId"
    missing_tries = (1,)
    async_calls_arrive = "in no session"
