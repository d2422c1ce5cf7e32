"""Ask a question in each of two sessions with ibm-watsonx-ai, which is on httpx."""

import os

from example_program import run
from ibm_watsonx_ai import APIClient, Credentials
from ibm_watsonx_ai.foundation_models import ModelInference

from cagent_session import session_id_hook


def make_plain_client(gateway: str) -> APIClient:
    credentials = Credentials(url=gateway, platform_url="https://api.dataplatform.cloud.ibm.com")
    client = APIClient(credentials)
    client.default_project_id = os.environ.get("PROJECT_ID")
    return client


def make_client(gateway: str, headers: dict[str, str]) -> APIClient:
    hooks = {"request": [session_id_hook(gateway)]}
    credentials = Credentials(url=gateway, platform_url="https://api.dataplatform.cloud.ibm.com")
    client = APIClient(credentials)
    client.default_project_id = os.environ.get("PROJECT_ID")
    client.httpx_client.headers.update(headers)
    client.httpx_client.event_hooks = hooks
    return client


def make_async_client(gateway: str, headers: dict[str, str]) -> APIClient:
    hooks = {"request": [session_id_hook(gateway)]}
    client = make_plain_client(gateway)
    client.async_httpx_client.headers.update(headers)
    client.async_httpx_client.event_hooks = hooks
    return client


def ask(client: APIClient, model: str, question: str) -> object:
    inference = ModelInference(model_id=model, api_client=client, validate=False)
    answer = inference.chat([{"role": "user", "content": question}])
    return answer["choices"][0]["message"]["content"]


if __name__ == "__main__":
    run(
        make_plain_client,
        ask,
        own_lines=make_client,
        forward="https://us-south.ml.cloud.ibm.com",
        model="ibm/granite-3-3-8b-instruct",
        key="USER_ACCESS_TOKEN",
        has_stand_in=False,
    )
