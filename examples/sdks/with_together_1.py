"""Ask a question in each of two sessions with together 1, which is on requests."""

import together
from example_program import run
from together import AsyncTogether, Together

from cagent_session import session_factory


def make_plain_client(gateway: str) -> Together:
    return Together(base_url=f"{gateway}/v1")


def make_plain_async_client(gateway: str) -> AsyncTogether:
    return AsyncTogether(base_url=f"{gateway}/v1")


def make_client(gateway: str, headers: dict[str, str]) -> Together:
    together.requestssession = session_factory(gateway=gateway, headers=headers, max_retries=2)
    return Together(base_url=f"{gateway}/v1")


def ask(client: Together, model: str, question: str) -> object:
    messages = [{"role": "user", "content": question}]
    answer = client.chat.completions.create(model=model, messages=messages)
    return answer.choices[0].message.content


if __name__ == "__main__":
    run(
        make_plain_client,
        ask,
        own_lines=make_client,
        forward="https://api.together.xyz/v1",
        model="openai/gpt-oss-20b",
        key="TOGETHER_API_KEY",
    )
