"""Is every call of azure-ai-inference, on requests by azure-core, attributed to its session?"""

from __future__ import annotations

from typing import Any

import requests
from azure.ai.inference import ChatCompletionsClient
from azure.core.credentials import AzureKeyCredential
from azure.core.pipeline.transport import RequestsTransport
from contract import Attributed

from cagent_session import mount

SDK = "azure-ai-inference==1.0.0b9"

key = AzureKeyCredential("key")


class TestAzureAIInference(Attributed):
    retries = True
    paths = ("/chat/completions",)

    def client(self, gateway: str, headers: dict[str, str]) -> Any:
        transport = RequestsTransport(session=mount(requests.Session(), gateway))
        return ChatCompletionsClient(gateway, key, headers=headers, transport=transport)

    def ask_plain(self, client: ChatCompletionsClient, prompt: str) -> Any:
        answer = client.complete(messages=[{"role": "user", "content": prompt}])
        return answer.choices[0].message.content

    def ask_streamed(self, client: ChatCompletionsClient, prompt: str) -> Any:
        stream = client.complete(messages=[{"role": "user", "content": prompt}], stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
