"""The calls of groq, which is on httpx."""

from __future__ import annotations

import with_groq
from contract import KeepsTimeouts
from openai_format import Chats, ChatsAsync

SDK = "groq==1.7.0"


class TestGroq(Chats, ChatsAsync, KeepsTimeouts):
    example = with_groq
    paths = ("/openai/v1/chat/completions",)
    retries = True
    streams_belong = "created"
    missing_raises = "APIConnectionError"
    missing_tries = (3,)
