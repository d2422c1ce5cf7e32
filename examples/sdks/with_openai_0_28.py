"""How is openai 0.28, on requests, told whose call it makes?"""

from __future__ import annotations

import os

import openai
from common import run

from cagent_session import new_session_id, session_factory, session_scope


def main(gateway: str, headers: dict[str, str], model: str) -> None:
    openai.requestssession = session_factory(gateway=gateway, headers=headers, max_retries=2)
    openai.api_base = f"{gateway}/v1"
    openai.api_key = os.environ["OPENAI_API_KEY"]

    for question in ("How are you?", "And you?"):
        with session_scope(new_session_id()) as session_id:
            messages = [{"role": "user", "content": question}]
            answer = openai.ChatCompletion.create(model=model, messages=messages)
            print(session_id, answer.choices[0].message.content)


if __name__ == "__main__":
    run(main, forward="https://api.openai.com/v1", model="gpt-4o-mini", key="OPENAI_API_KEY")
