"""Is every call of openai 0.28, on requests, attributed to its session?"""

from __future__ import annotations

from typing import Any

import openai
import pytest
from contract import Attributed
from openai import api_requestor

from cagent_session import session_factory

SDK = "openai==0.28.1"
NEWEST = "openai<1"


@pytest.fixture(autouse=True)
def no_cached_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK keeps a session per thread: begin without an earlier test's."""
    monkeypatch.setattr(openai, "requestssession", None)
    vars(api_requestor._thread_context).clear()


class TestOpenAI(Attributed):
    retries = False

    def client(self, gateway: str, headers: dict[str, str]) -> Any:
        openai.requestssession = session_factory(gateway=gateway, headers=headers, max_retries=2)
        openai.api_base = f"{gateway}/v1"
        openai.api_key = "key"
        return openai

    def ask_plain(self, client: Any, prompt: str) -> Any:
        answer = openai.ChatCompletion.create(model="gpt-4o", messages=[{"role": "user", "content": prompt}])
        return answer.choices[0].message.content

    def ask_streamed(self, client: Any, prompt: str) -> Any:
        messages = [{"role": "user", "content": prompt}]
        stream = openai.ChatCompletion.create(model="gpt-4o", messages=messages, stream=True)
        return "".join(chunk.choices[0].delta.get("content") or "" for chunk in stream)

    def ask_embedding(self, client: Any, prompt: str) -> Any:
        return bool(openai.Embedding.create(model="text-embedding-3-small", input=prompt).data[0].embedding)

    def test_the_sdks_own_connection_retries_are_kept(self) -> None:
        theirs = api_requestor._make_session()
        self.client("https://gateway.example", {})
        ours = api_requestor._make_session()
        assert retries_of(ours) == retries_of(theirs) == 2


def retries_of(session: Any) -> Any:
    return session.get_adapter("https://gateway.example").max_retries.total
