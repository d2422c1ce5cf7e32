"""Is every call of together 1, on requests, attributed to its session?"""

from __future__ import annotations

from typing import Any

import pytest
import together
from contract import Attributed
from together import Together
from together.abstract import api_requestor
from together.constants import MAX_CONNECTION_RETRIES

from cagent_session import session_factory

SDK = "together==1.5.35"
NEWEST = "together<2"


@pytest.fixture(autouse=True)
def no_cached_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK keeps a session per thread: begin without an earlier test's."""
    monkeypatch.setattr(together, "requestssession", None)
    vars(api_requestor._thread_context).clear()


class TestTogether(Attributed):
    retries = True

    def client(self, gateway: str, headers: dict[str, str]) -> Any:
        together.requestssession = session_factory(gateway=gateway, headers=headers, max_retries=2)
        return Together(base_url=f"{gateway}/v1")

    def ask_plain(self, client: Together, prompt: str) -> Any:
        answer: Any = client.chat.completions.create(model="llama", messages=[{"role": "user", "content": prompt}])
        return answer.choices[0].message.content

    def ask_streamed(self, client: Together, prompt: str) -> Any:
        messages = [{"role": "user", "content": prompt}]
        stream: Any = client.chat.completions.create(model="llama", messages=messages, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    def ask_embedding(self, client: Together, prompt: str) -> Any:
        return bool(client.embeddings.create(model="bert", input=prompt).data[0].embedding)

    def test_the_sdks_own_connection_retries_are_kept(self) -> None:
        theirs = api_requestor._make_session(MAX_CONNECTION_RETRIES)
        self.client("https://gateway.example", {})
        ours = api_requestor._make_session(MAX_CONNECTION_RETRIES)
        assert retries_of(ours) == retries_of(theirs) == 2


def retries_of(session: Any) -> Any:
    return session.get_adapter("https://gateway.example").max_retries.total
