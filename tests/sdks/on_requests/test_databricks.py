"""Is every call of databricks-sdk, on requests, attributed to its session?"""

from __future__ import annotations

from typing import Any

from contract import Attributed
from databricks.sdk import WorkspaceClient
from databricks.sdk.service.serving import ChatMessage, ChatMessageRole

from cagent_session import mount

SDK = "databricks-sdk==0.156.0"


class TestDatabricks(Attributed):
    retries = True
    paths = ("/serving-endpoints/llama/invocations",)

    def client(self, gateway: str, headers: dict[str, str]) -> Any:
        client = WorkspaceClient(host=gateway, custom_headers=headers)
        mount(
            client.api_client._api_client._session, gateway
        )  # private: the SDK has no public way in
        return client

    def ask_plain(self, client: WorkspaceClient, prompt: str) -> Any:
        messages = [ChatMessage(content=prompt, role=ChatMessageRole.USER)]
        answer = client.serving_endpoints.query("llama", messages=messages)
        return answer.choices[0].message.content
