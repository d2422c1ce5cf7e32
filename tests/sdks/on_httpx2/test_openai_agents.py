"""The calls of openai-agents, which is on openai 3 and httpx2."""

from __future__ import annotations

from typing import Any

import pytest
import with_openai_agents
from agents import Agent, Runner, set_tracing_disabled
from agents.tracing import processors
from contract import HEADERS, KeepsTimeouts, Provider, Streams, our_headers_in

from cagent_session import session_scope
from cagent_session.testing import ModelsGateway

SDK = "openai-agents==0.24.0"


AGENT = Agent("assistant")

pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed event loop:ResourceWarning",  # run_sync leaves its own open
    "ignore:asynchronous generator:ResourceWarning",  # a stream is not read to its end
)


class TestOpenAIAgents(Streams, KeepsTimeouts):
    example = with_openai_agents
    paths = ("/v1/responses",)
    retries = True
    streams_belong = "created"
    missing_raises = "MissingSessionId"
    missing_tries = (1,)

    def test_traces_go_past_the_gateway(
        self, gateway: ModelsGateway, provider: Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its traces would go to OpenAI itself. The last line turns them off."""
        exporter = processors.default_exporter()
        assert exporter.endpoint.startswith("https://api.openai.com/")
        monkeypatch.setattr(exporter, "endpoint", provider.url_for("/traces"))
        client = self.client(gateway.url, HEADERS)
        for disabled in (True, False):
            set_tracing_disabled(disabled=disabled)
            with session_scope("sess-1"):
                self.ask_like_the_example(client, "Hello")
            processors.default_processor().force_flush()
            assert [call.path for call in provider.calls] == ([] if disabled else ["/traces"])
        assert not our_headers_in(provider.headers)

    async def ask_async(self, client: None, prompt: str) -> Any:
        return (await Runner.run(AGENT, prompt)).final_output

    async def stream_async(self, client: None, prompt: str) -> Any:
        result = Runner.run_streamed(AGENT, prompt)

        async def text() -> Any:
            async for _ in result.stream_events():
                pass
            yield result.final_output

        return text()
