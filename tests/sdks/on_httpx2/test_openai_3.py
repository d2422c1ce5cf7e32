"""The calls of openai 3, which is on httpx2."""

from __future__ import annotations

import with_openai_3
from contract import KeepsTimeouts
from openai_format import IsOpenAI

SDK = "openai==3.54.0"


class TestOpenAI(IsOpenAI, KeepsTimeouts):
    example = with_openai_3
    paths = ("/v1/chat/completions", "/v1/responses", "/v1/embeddings")
    retries = True
    streams_belong = "created"
    missing_raises = "MissingSessionId"
    missing_tries = (1,)
