"""The calls of openai 2, which is on httpx."""

from __future__ import annotations

import with_openai_2
from contract import KeepsTimeouts
from openai_format import IsOpenAI

SDK = "openai==2.54.0"
NEWEST = "openai<3"


class TestOpenAI(IsOpenAI, KeepsTimeouts):
    example = with_openai_2
    paths = ("/v1/chat/completions", "/v1/responses", "/v1/embeddings")
    retries = True
    streams_belong = "created"
    missing_raises = "APIConnectionError"
    missing_tries = (3,)
