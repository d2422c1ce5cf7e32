"""How is azure-ai-inference, on requests by azure-core, told whose call it makes?"""

from __future__ import annotations

import os

import requests
from azure.ai.inference import ChatCompletionsClient
from azure.core.credentials import AzureKeyCredential
from azure.core.pipeline.transport import RequestsTransport
from common import run

from cagent_session import mount, new_session_id, session_scope


def main(gateway: str, headers: dict[str, str], model: str) -> None:
    key = AzureKeyCredential(os.environ["AZURE_AI_API_KEY"])
    transport = RequestsTransport(session=mount(requests.Session(), gateway))
    client = ChatCompletionsClient(gateway, key, headers=headers, transport=transport)

    for question in ("How are you?", "And you?"):
        with session_scope(new_session_id()) as session_id:
            answer = client.complete(messages=[{"role": "user", "content": question}], model=model)
            print(session_id, answer.choices[0].message.content)


if __name__ == "__main__":
    run(
        main,
        forward="https://models.inference.ai.azure.com",
        model="gpt-4o-mini",
        key="AZURE_AI_API_KEY",
    )
