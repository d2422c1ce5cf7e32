"""Ask a question in each of two sessions with together 3, which is on httpx."""

from example_program import run
from together import AsyncTogether, DefaultAsyncHttpxClient, DefaultHttpxClient, Together

from cagent_session import session_id_hook


def make_plain_client(gateway: str) -> Together:
    return Together(base_url=gateway)


def make_plain_async_client(gateway: str) -> AsyncTogether:
    return AsyncTogether(base_url=gateway)


def make_client(gateway: str, headers: dict[str, str]) -> Together:
    hooks = {"request": [session_id_hook(gateway)]}
    http_client = DefaultHttpxClient(event_hooks=hooks)
    return Together(base_url=gateway, default_headers=headers, http_client=http_client)


def make_async_client(gateway: str, headers: dict[str, str]) -> AsyncTogether:
    hooks = {"request": [session_id_hook(gateway)]}
    http_client = DefaultAsyncHttpxClient(event_hooks=hooks)
    return AsyncTogether(base_url=gateway, default_headers=headers, http_client=http_client)


def ask(client: Together, model: str, question: str) -> object:
    messages = [{"role": "user", "content": question}]
    answer = client.chat.completions.create(model=model, messages=messages)
    return answer.choices[0].message.content


if __name__ == "__main__":
    run(
        make_plain_client,
        ask,
        own_lines=make_client,
        forward="https://api.together.ai",
        model="meta-llama/Llama-3.3-70B-Instruct-Turbo",
        key="TOGETHER_API_KEY",
    )
