"""The tests that huggingface_hub 1 and 2 share. They differ in the library that they are on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from contract import HEADERS, AsyncNeedsMore, KeepsTimeouts, Provider, our_headers_in
from huggingface_hub import (
    AsyncInferenceClient,
    close_session,
    constants,
    set_async_client_factory,
    set_client_factory,
)
from huggingface_hub.utils import _detect_agent, _http
from openai_format import Chats, ChatsAsync

from cagent_session import session_scope
from cagent_session.testing import ModelsGateway


class HuggingFaceHub(Chats, ChatsAsync, AsyncNeedsMore, KeepsTimeouts):
    paths = ("/v1/chat/completions",)
    retries = False

    @pytest.fixture(autouse=True)
    def online_with_a_fresh_client(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Let the SDK's own clients send requests, but ask for no list of agents."""
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(_detect_agent, "_registry", _detect_agent._EMPTY_REGISTRY)
        monkeypatch.delenv("HF_HUB_OFFLINE")  # the example reads these two
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
        set_client_factory(_http.default_client_factory)
        set_async_client_factory(_http.default_async_client_factory)
        yield
        close_session()

    async def call_async(self, client: Any, gateway: str, headers: dict[str, str]) -> Any:
        async_client = AsyncInferenceClient(base_url=f"{gateway}/v1", headers=headers)
        return await self.ask_async(async_client, "Hello")

    def test_a_list_of_agents_is_fetched_unmarked(
        self,
        gateway: ModelsGateway,
        provider: Provider,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """It first asks huggingface.co for a list of agents, unmarked."""
        assert constants.ENDPOINT == "https://huggingface.co"
        monkeypatch.setattr(constants, "ENDPOINT", provider.url)
        monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(tmp_path / "agents.json"))
        monkeypatch.setattr(_detect_agent, "_registry", None)
        client = self.client(gateway.url, HEADERS)
        with session_scope("sess-1"):
            self.ask_like_the_example(client, "Hello")
        assert [call.path for call in provider.calls] == ["/api/agent-harnesses"]
        assert not our_headers_in(provider.headers)
