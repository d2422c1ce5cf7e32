"""Is every call of voyageai, on requests, attributed to its session?"""

from __future__ import annotations

from typing import Any

import pytest
import voyageai
from contract import Attributed
from voyageai.api_resources import api_requestor

from cagent_session import session_factory

SDK = "voyageai==0.5.0"


@pytest.fixture(autouse=True)
def no_cached_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK keeps a session per thread: begin without an earlier test's."""
    monkeypatch.setattr(voyageai, "requestssession", None)
    vars(api_requestor._thread_context).clear()


class TestVoyageAI(Attributed):
    retries = False

    def client(self, gateway: str, headers: dict[str, str]) -> Any:
        voyageai.requestssession = session_factory(gateway=gateway, headers=headers, max_retries=2)
        return voyageai.Client(base_url=f"{gateway}/v1")

    def ask_embedding(self, client: Any, prompt: str) -> Any:
        return bool(client.embed([prompt], model="voyage-3").embeddings[0])

    def test_the_sdks_own_connection_retries_are_kept(self) -> None:
        theirs = api_requestor._make_session()
        self.client("https://gateway.example", {})
        ours = api_requestor._make_session()
        assert retries_of(ours) == retries_of(theirs) == 2


def retries_of(session: Any) -> Any:
    return session.get_adapter("https://gateway.example").max_retries.total
