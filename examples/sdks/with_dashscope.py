"""Ask a question in each of two sessions with dashscope, which is on requests."""

import os

import dashscope
import requests
from dashscope import Generation
from example_program import run

from cagent_session import session_factory


def make_plain_client(gateway: str) -> None:
    dashscope.base_http_api_url = f"{gateway}/api/v1"
    dashscope.api_key = os.environ["DASHSCOPE_API_KEY"]


def make_client(gateway: str, headers: dict[str, str]) -> requests.Session:
    session = session_factory(gateway=gateway, headers=headers)()
    dashscope.base_http_api_url = f"{gateway}/api/v1"
    dashscope.api_key = os.environ["DASHSCOPE_API_KEY"]
    return session


def ask(session: requests.Session | None, model: str, question: str) -> object:
    messages = [{"role": "user", "content": question}]
    answer = Generation.call(model, messages=messages, result_format="message", session=session)
    return answer.output.choices[0].message.content


if __name__ == "__main__":
    run(
        make_plain_client,
        ask,
        own_lines=make_client,
        forward="https://dashscope.aliyuncs.com/api/v1",
        model="qwen-plus",
        key="DASHSCOPE_API_KEY",
    )
