"""Is every call of openai 0.28, on requests, attributed to its session?"""

from __future__ import annotations

from typing import Any

import openai
from cached_sessions import CachesSessions
from openai import api_requestor

from cagent_session import session_factory

SDK = "openai==0.28.1"
NEWEST = "openai<1"


class TestOpenAI(CachesSessions):
    sdk, api_requestor = openai, api_requestor
    retries = False
    paths = ("/v1/chat/completions", "/v1/embeddings")

    def client(self, gateway: str, headers: dict[str, str]) -> Any:
        openai.requestssession = session_factory(gateway=gateway, headers=headers, max_retries=2)
        openai.api_base = f"{gateway}/v1"
        return openai

    def ask_plain(self, client: Any, prompt: str) -> Any:
        answer = openai.ChatCompletion.create(
            model="gpt-4o", messages=[{"role": "user", "content": prompt}]
        )
        return answer.choices[0].message.content

    def ask_streamed(self, client: Any, prompt: str) -> Any:
        messages = [{"role": "user", "content": prompt}]
        stream = openai.ChatCompletion.create(model="gpt-4o", messages=messages, stream=True)
        return "".join(chunk.choices[0].delta.get("content") or "" for chunk in stream)

    def ask_embedding(self, client: Any, prompt: str) -> Any:
        return bool(
            openai.Embedding.create(model="text-embedding-3-small", input=prompt).data[0].embedding
        )
