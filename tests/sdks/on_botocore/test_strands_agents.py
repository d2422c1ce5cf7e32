"""The calls of strands-agents to Amazon Bedrock, with boto3."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import with_strands_agents
from stamped import Stamped
from strands import Agent
from strands.models import BedrockModel

SDK = "strands-agents==1.62.0"


def agent_on(bedrock: BedrockModel) -> Agent:
    bedrock.update_config(model_id="model")
    return Agent(model=bedrock, callback_handler=None)


class TestStrands(Stamped):
    example = with_strands_agents
    paths = ("/model/model/converse-stream", "/model/model/converse")
    retries = True
    streams_belong = "first read"
    missing_raises = "MissingSessionId"
    missing_tries = (1,)

    def ask_agent(self, bedrock: BedrockModel, prompt: str) -> Any:
        return self.ask_like_the_example(bedrock, prompt)

    def ask_agent_that_does_not_stream(self, bedrock: BedrockModel, prompt: str) -> str:
        bedrock.update_config(streaming=False)
        return str(agent_on(bedrock)(prompt)).strip()

    def usage_agent(self, bedrock: BedrockModel, prompt: str) -> Any:
        usage = agent_on(bedrock)(prompt).metrics.accumulated_usage
        return usage["inputTokens"], usage["outputTokens"]

    async def ask_agent_async(self, bedrock: BedrockModel, prompt: str) -> str:
        return str(await agent_on(bedrock).invoke_async(prompt)).strip()

    async def stream_agent_async(self, bedrock: BedrockModel, prompt: str) -> AsyncIterator[str]:
        events = agent_on(bedrock).stream_async(prompt)
        return (event["data"] async for event in events if "data" in event)
