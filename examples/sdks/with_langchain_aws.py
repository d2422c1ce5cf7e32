"""Ask a question in each of two sessions with langchain-aws, which is on botocore."""

import os

from example_program import run
from langchain_aws import ChatBedrockConverse

from cagent_session import stamp_botocore

MODEL = "us.amazon.nova-lite-v1:0"


def make_plain_client(gateway: str) -> ChatBedrockConverse:
    return ChatBedrockConverse(model=MODEL, region_name="us-east-1", base_url=gateway)


def make_client(gateway: str, headers: dict[str, str]) -> ChatBedrockConverse:
    chat = ChatBedrockConverse(model=MODEL, region_name="us-east-1", base_url=gateway)
    stamp_botocore(chat.client, gateway, headers=headers)
    return chat


def ask(chat: ChatBedrockConverse, model: str, question: str) -> object:
    return chat.model_copy(update={"model_id": model}).invoke(question).text


if __name__ == "__main__":
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "the stand-in needs no key")
    run(
        make_plain_client,
        ask,
        own_lines=make_client,
        forward="https://bedrock-runtime.us-east-1.amazonaws.com",
        model=MODEL,
        key="AWS_ACCESS_KEY_ID",
    )
