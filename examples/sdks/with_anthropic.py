"""Ask a question in each of two sessions with anthropic, which is on httpx2."""

from anthropic import Anthropic, AsyncAnthropic, DefaultAsyncHttpxClient, DefaultHttpxClient
from example_program import run

from cagent_session import session_id_hook


def make_plain_client(gateway: str) -> Anthropic:
    return Anthropic(base_url=gateway)


def make_plain_async_client(gateway: str) -> AsyncAnthropic:
    return AsyncAnthropic(base_url=gateway)


def make_client(gateway: str, headers: dict[str, str]) -> Anthropic:
    hooks = {"request": [session_id_hook(gateway)]}
    http_client = DefaultHttpxClient(event_hooks=hooks)
    return Anthropic(base_url=gateway, default_headers=headers, http_client=http_client)


def make_async_client(gateway: str, headers: dict[str, str]) -> AsyncAnthropic:
    hooks = {"request": [session_id_hook(gateway)]}
    http_client = DefaultAsyncHttpxClient(event_hooks=hooks)
    return AsyncAnthropic(base_url=gateway, default_headers=headers, http_client=http_client)


def ask(client: Anthropic, model: str, question: str) -> object:
    messages = [{"role": "user", "content": question}]
    answer = client.messages.create(model=model, max_tokens=1000, messages=messages)
    return answer.content[0].text


if __name__ == "__main__":
    run(
        make_plain_client,
        ask,
        own_lines=make_client,
        forward="https://api.anthropic.com",
        model="claude-sonnet-5-5",
        key="ANTHROPIC_API_KEY",
    )
