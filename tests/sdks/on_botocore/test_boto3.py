"""The calls of boto3 to Amazon Bedrock."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import with_boto3
from contract import messages_of
from stamped import Stamped

SDK = "boto3==1.44.8"

Content = list[dict[str, Any]]


def converse_messages(prompt: str) -> Content:
    return [{"role": "user", "content": [{"text": prompt}]}]


class TestBoto3(Stamped):
    example = with_boto3
    paths = (
        "/model/model/converse",
        "/model/model/converse-stream",
        "/model/model/invoke",
        "/model/model/invoke-with-response-stream",
        "/model/embed/invoke",
    )
    retries = True
    streams_belong = "created"
    missing_raises = "MissingSessionId"
    missing_tries = (1,)

    def ask_converse(self, client: Any, prompt: str) -> Any:
        return self.ask_like_the_example(client, prompt)

    def ask_invoke(self, client: Any, prompt: str) -> Any:
        body = json.dumps({"messages": messages_of(prompt), "max_tokens": 9})
        answer = client.invoke_model(modelId="model", body=body)
        return json.load(answer["body"])["content"][0]["text"]

    def ask_for_an_embedding(self, client: Any, prompt: str) -> bool:
        answer = client.invoke_model(modelId="embed", body=json.dumps({"inputText": prompt}))
        return len(json.load(answer["body"])["embedding"]) == 8

    def stream_converse(self, client: Any, prompt: str) -> Iterator[str]:
        answer = client.converse_stream(modelId="model", messages=converse_messages(prompt))
        deltas = (event.get("contentBlockDelta") for event in answer["stream"])
        return (delta["delta"]["text"] for delta in deltas if delta)

    def stream_invoke(self, client: Any, prompt: str) -> Iterator[str]:
        body = json.dumps({"messages": messages_of(prompt), "max_tokens": 9})
        answer = client.invoke_model_with_response_stream(modelId="model", body=body)
        events = (json.loads(event["chunk"]["bytes"]) for event in answer["body"])
        return (
            event["delta"]["text"] for event in events if event["type"] == "content_block_delta"
        )

    def usage_converse(self, client: Any, prompt: str) -> Any:
        usage = client.converse(modelId="model", messages=converse_messages(prompt))["usage"]
        return usage["inputTokens"], usage["outputTokens"]
