"""Ask a question in each of two sessions with databricks-sdk, which is on requests."""

import logging

from databricks.sdk import WorkspaceClient
from databricks.sdk.service.serving import ChatMessage, ChatMessageRole
from example_program import run

from cagent_session import mount


def make_plain_client(gateway: str) -> WorkspaceClient:
    return WorkspaceClient(host=gateway)


def make_client(gateway: str, headers: dict[str, str]) -> WorkspaceClient:
    client = WorkspaceClient(host=gateway, custom_headers=headers)
    # The SDK has no public name for the session.
    mount(client.api_client._api_client._session, gateway)
    return client


def ask(client: WorkspaceClient, model: str, question: str) -> object:
    messages = [ChatMessage(content=question, role=ChatMessageRole.USER)]
    answer = client.serving_endpoints.query(model, messages=messages)
    return answer.choices[0].message.content


if __name__ == "__main__":
    # It warns that the gateway has no metadata of a workspace.
    logging.getLogger("databricks.sdk").setLevel(logging.ERROR)
    run(
        make_plain_client,
        ask,
        own_lines=make_client,
        forward="https://example.databricks.com",
        model="databricks-gpt-oss-20b",
        key="DATABRICKS_TOKEN",
    )
