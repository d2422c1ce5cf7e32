"""Is every call of voyageai, on requests, attributed to its session?"""

from __future__ import annotations

from typing import Any

import voyageai
from cached_sessions import CachesSessions
from voyageai.api_resources import api_requestor

from cagent_session import session_factory

SDK = "voyageai==0.5.0"


class TestVoyageAI(CachesSessions):
    sdk, api_requestor = voyageai, api_requestor
    retries = False
    paths = ("/v1/embeddings",)

    def client(self, gateway: str, headers: dict[str, str]) -> Any:
        voyageai.requestssession = session_factory(gateway=gateway, headers=headers, max_retries=2)
        return voyageai.Client(base_url=f"{gateway}/v1")

    def ask_embedding(self, client: Any, prompt: str) -> Any:
        return bool(client.embed([prompt], model="voyage-3").embeddings[0])
