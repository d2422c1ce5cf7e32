"""Is every call of together 1, on requests, attributed to its session?"""

from __future__ import annotations

from typing import Any

import together
from cached_sessions import CachesSessions
from openai_shaped import Chats, Embeds
from together import Together
from together.abstract import api_requestor
from together.constants import MAX_CONNECTION_RETRIES

from cagent_session import session_factory

SDK = "together==1.5.35"
NEWEST = "together<2"


class TestTogether(CachesSessions, Chats, Embeds):
    sdk, api_requestor = together, api_requestor
    arguments_of_make_session = (MAX_CONNECTION_RETRIES,)
    retries = True
    paths = ("/v1/chat/completions", "/v1/embeddings")

    def client(self, gateway: str, headers: dict[str, str]) -> Any:
        together.requestssession = session_factory(gateway=gateway, headers=headers, max_retries=2)
        return Together(base_url=f"{gateway}/v1")
