"""Ask a question in each of two sessions with azure-ai-inference, which is on requests."""

import os

import requests
from azure.ai.inference import ChatCompletionsClient, aio
from azure.core.credentials import AzureKeyCredential
from azure.core.pipeline.transport import RequestsTransport
from example_program import run

from cagent_session import mount


def make_plain_client(gateway: str) -> ChatCompletionsClient:
    key = AzureKeyCredential(os.environ["AZURE_AI_API_KEY"])
    return ChatCompletionsClient(gateway, key)


def make_plain_async_client(gateway: str) -> aio.ChatCompletionsClient:
    key = AzureKeyCredential(os.environ["AZURE_AI_API_KEY"])
    return aio.ChatCompletionsClient(gateway, key)


def make_client(gateway: str, headers: dict[str, str]) -> ChatCompletionsClient:
    key = AzureKeyCredential(os.environ["AZURE_AI_API_KEY"])
    transport = RequestsTransport(session=mount(requests.Session(), gateway))
    return ChatCompletionsClient(gateway, key, headers=headers, transport=transport)


def ask(client: ChatCompletionsClient, model: str, question: str) -> object:
    answer = client.complete(messages=[{"role": "user", "content": question}], model=model)
    return answer.choices[0].message.content


if __name__ == "__main__":
    run(
        make_plain_client,
        ask,
        own_lines=make_client,
        forward="https://models.inference.ai.azure.com",
        model="gpt-4o-mini",
        key="AZURE_AI_API_KEY",
    )
