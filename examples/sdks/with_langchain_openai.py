"""Ask a question in each of two sessions with langchain-openai, which is on openai and httpx2."""

from example_program import run
from langchain_openai import ChatOpenAI
from openai import DefaultAsyncHttpxClient, DefaultHttpxClient

from cagent_session import session_id_hook


def make_plain_client(gateway: str) -> ChatOpenAI:
    return ChatOpenAI(base_url=f"{gateway}/v1")


def make_client(gateway: str, headers: dict[str, str]) -> ChatOpenAI:
    hooks = {"request": [session_id_hook(gateway)]}
    http_client = DefaultHttpxClient(event_hooks=hooks)
    return ChatOpenAI(base_url=f"{gateway}/v1", default_headers=headers, http_client=http_client)


def make_async_client(gateway: str, headers: dict[str, str]) -> ChatOpenAI:
    hooks = {"request": [session_id_hook(gateway)]}
    http_client = DefaultAsyncHttpxClient(event_hooks=hooks)
    return ChatOpenAI(
        base_url=f"{gateway}/v1", default_headers=headers, http_async_client=http_client
    )


def ask(client: ChatOpenAI, model: str, question: str) -> object:
    return client.invoke(question, model=model).text


if __name__ == "__main__":
    run(
        make_plain_client,
        ask,
        own_lines=make_client,
        forward="https://api.openai.com/v1",
        model="gpt-4o",
        key="OPENAI_API_KEY",
    )
