"""Ask a question in each of two sessions with openai 0.28, which is on requests."""

import os
from typing import Any

import openai
from example_program import run

from cagent_session import session_factory


def make_plain_client(gateway: str) -> Any:
    openai.api_base = f"{gateway}/v1"
    openai.api_key = os.environ["OPENAI_API_KEY"]
    return openai


def make_client(gateway: str, headers: dict[str, str]) -> Any:
    openai.requestssession = session_factory(gateway=gateway, headers=headers, max_retries=2)
    openai.api_base = f"{gateway}/v1"
    openai.api_key = os.environ["OPENAI_API_KEY"]
    return openai


def ask(client: Any, model: str, question: str) -> object:
    messages = [{"role": "user", "content": question}]
    answer = client.ChatCompletion.create(model=model, messages=messages)
    return answer.choices[0].message.content


if __name__ == "__main__":
    run(
        make_plain_client,
        ask,
        own_lines=make_client,
        forward="https://api.openai.com/v1",
        model="gpt-4o-mini",
        key="OPENAI_API_KEY",
    )
