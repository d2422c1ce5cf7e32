"""The calls of together 3, which is on httpx."""

from __future__ import annotations

import with_together_3
from contract import KeepsTimeouts
from openai_format import Chats, ChatsAsync, Embeds

SDK = "together==3.1.1"


class TestTogether(Chats, ChatsAsync, Embeds, KeepsTimeouts):
    example = with_together_3
    paths = ("/v1/chat/completions", "/v1/embeddings")
    retries = True
    streams_belong = "created"
    missing_raises = "APIConnectionError"
    missing_tries = (3,)
