"""Ask a question in each of two sessions with openai 3, which is on httpx2."""

from example_program import run
from openai import AsyncOpenAI, DefaultAsyncHttpxClient, DefaultHttpxClient, OpenAI

from cagent_session import session_id_hook


def make_plain_client(gateway: str) -> OpenAI:
    return OpenAI(base_url=f"{gateway}/v1")


def make_plain_async_client(gateway: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{gateway}/v1")


def make_client(gateway: str, headers: dict[str, str]) -> OpenAI:
    hooks = {"request": [session_id_hook(gateway)]}
    http_client = DefaultHttpxClient(event_hooks=hooks)
    return OpenAI(base_url=f"{gateway}/v1", default_headers=headers, http_client=http_client)


def make_async_client(gateway: str, headers: dict[str, str]) -> AsyncOpenAI:
    hooks = {"request": [session_id_hook(gateway)]}
    http_client = DefaultAsyncHttpxClient(event_hooks=hooks)
    return AsyncOpenAI(base_url=f"{gateway}/v1", default_headers=headers, http_client=http_client)


def ask(client: OpenAI, model: str, question: str) -> object:
    return client.responses.create(model=model, input=question).output_text


if __name__ == "__main__":
    run(
        make_plain_client,
        ask,
        own_lines=make_client,
        forward="https://api.openai.com/v1",
        model="gpt-4o",
        key="OPENAI_API_KEY",
    )
