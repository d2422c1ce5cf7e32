"""How is databricks-sdk, on requests, told whose call it makes?"""

from __future__ import annotations

import logging

from common import run
from databricks.sdk import WorkspaceClient
from databricks.sdk.service.serving import ChatMessage, ChatMessageRole

from cagent_session import mount, new_session_id, session_scope


def main(gateway: str, headers: dict[str, str], model: str) -> None:
    logging.getLogger("databricks.sdk").setLevel(
        logging.ERROR
    )  # it warns that a gateway has no workspace's metadata
    client = WorkspaceClient(host=gateway, custom_headers=headers)
    mount(client.api_client._api_client._session, gateway)  # private: the SDK has no public way in

    for question in ("How are you?", "And you?"):
        with session_scope(new_session_id()) as session_id:
            messages = [ChatMessage(content=question, role=ChatMessageRole.USER)]
            answer = client.serving_endpoints.query(model, messages=messages)
            print(session_id, answer.choices[0].message.content)


if __name__ == "__main__":
    run(
        main,
        forward="https://example.databricks.com",
        model="databricks-gpt-oss-20b",
        key="DATABRICKS_TOKEN",
    )
