"""How is dashscope, on requests, told whose call it makes?"""

from __future__ import annotations

import os

import dashscope
from common import run
from dashscope import Generation

from cagent_session import new_session_id, session_factory, session_scope


def main(gateway: str, headers: dict[str, str], model: str) -> None:
    dashscope.base_http_api_url = f"{gateway}/api/v1"
    dashscope.api_key = os.environ["DASHSCOPE_API_KEY"]
    session = session_factory(gateway=gateway, headers=headers)()

    for question in ("How are you?", "And you?"):
        with session_scope(new_session_id()) as session_id:
            messages = [{"role": "user", "content": question}]
            answer = Generation.call(
                model, messages=messages, result_format="message", session=session
            )
            print(session_id, answer.output.choices[0].message.content)


if __name__ == "__main__":
    run(
        main,
        forward="https://dashscope.aliyuncs.com/api/v1",
        model="qwen-plus",
        key="DASHSCOPE_API_KEY",
    )
