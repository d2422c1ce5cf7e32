"""Ask a question in each of two sessions with strands-agents, which is on boto3 and botocore."""

import os

from example_program import run
from strands import Agent
from strands.models import BedrockModel

from cagent_session import stamp_botocore


def make_plain_client(gateway: str) -> BedrockModel:
    return BedrockModel(region_name="us-east-1", endpoint_url=gateway)


def make_client(gateway: str, headers: dict[str, str]) -> BedrockModel:
    bedrock = BedrockModel(region_name="us-east-1", endpoint_url=gateway)
    stamp_botocore(bedrock.client, gateway, headers=headers)
    return bedrock


def ask(bedrock: BedrockModel, model: str, question: str) -> object:
    bedrock.update_config(model_id=model)
    agent = Agent(model=bedrock, callback_handler=None)
    return str(agent(question)).strip()


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
