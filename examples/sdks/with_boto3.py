"""Ask a question in each of two sessions with boto3, which is on botocore, and Amazon Bedrock."""

import os
from typing import Any

import boto3
from example_program import run

from cagent_session import stamp_botocore


def make_plain_client(gateway: str) -> Any:
    return boto3.client("bedrock-runtime", region_name="us-east-1", endpoint_url=gateway)


def make_client(gateway: str, headers: dict[str, str]) -> Any:
    client = boto3.client("bedrock-runtime", region_name="us-east-1", endpoint_url=gateway)
    return stamp_botocore(client, gateway, headers=headers)


def ask(client: Any, model: str, question: str) -> object:
    messages = [{"role": "user", "content": [{"text": question}]}]
    answer = client.converse(modelId=model, messages=messages)
    return answer["output"]["message"]["content"][0]["text"]


if __name__ == "__main__":
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "the stand-in needs no key")
    run(
        make_plain_client,
        ask,
        own_lines=make_client,
        forward="https://bedrock-runtime.us-east-1.amazonaws.com",
        model="us.amazon.nova-lite-v1:0",
        key="AWS_ACCESS_KEY_ID",
    )
