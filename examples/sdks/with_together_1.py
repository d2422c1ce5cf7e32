"""How is together 1, on requests, told whose call it makes?"""

from __future__ import annotations

import together
from common import run
from together import Together

from cagent_session import new_session_id, session_factory, session_scope


def main(gateway: str, headers: dict[str, str], model: str) -> None:
    together.requestssession = session_factory(gateway=gateway, headers=headers, max_retries=2)
    client = Together(base_url=f"{gateway}/v1")

    for question in ("How are you?", "And you?"):
        with session_scope(new_session_id()) as session_id:
            messages = [{"role": "user", "content": question}]
            answer = client.chat.completions.create(model=model, messages=messages)
            print(session_id, answer.choices[0].message.content)


if __name__ == "__main__":
    run(
        main,
        forward="https://api.together.xyz/v1",
        model="openai/gpt-oss-20b",
        key="TOGETHER_API_KEY",
    )
