"""Ask a question in each of two sessions with ollama, which is on httpx."""

from example_program import run
from ollama import AsyncClient, Client

from cagent_session import session_id_hook


def make_plain_client(gateway: str) -> Client:
    return Client(gateway)


def make_plain_async_client(gateway: str) -> AsyncClient:
    return AsyncClient(gateway)


def make_client(gateway: str, headers: dict[str, str]) -> Client:
    hooks = {"request": [session_id_hook(gateway)]}
    return Client(gateway, headers=headers, event_hooks=hooks)


def make_async_client(gateway: str, headers: dict[str, str]) -> AsyncClient:
    hooks = {"request": [session_id_hook(gateway)]}
    return AsyncClient(gateway, headers=headers, event_hooks=hooks)


def ask(client: Client, model: str, question: str) -> object:
    return client.chat(model, [{"role": "user", "content": question}]).message.content


if __name__ == "__main__":
    run(
        make_plain_client,
        ask,
        own_lines=make_client,
        forward="https://ollama.com",
        model="llama3.2",
    )
