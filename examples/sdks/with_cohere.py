"""Ask a question in each of two sessions with cohere, which is on httpx."""

import httpx
from cohere import AsyncClientV2, ClientV2
from example_program import run

from cagent_session import session_id_hook


def make_plain_client(gateway: str) -> ClientV2:
    return ClientV2(base_url=gateway)


def make_plain_async_client(gateway: str) -> AsyncClientV2:
    return AsyncClientV2(base_url=gateway)


def make_client(gateway: str, headers: dict[str, str]) -> ClientV2:
    hooks = {"request": [session_id_hook(gateway)]}
    http_client = httpx.Client(
        event_hooks=hooks, headers=headers, follow_redirects=True, timeout=300
    )
    return ClientV2(base_url=gateway, httpx_client=http_client)


def make_async_client(gateway: str, headers: dict[str, str]) -> AsyncClientV2:
    hooks = {"request": [session_id_hook(gateway)]}
    http_client = httpx.AsyncClient(
        event_hooks=hooks, headers=headers, follow_redirects=True, timeout=300
    )
    return AsyncClientV2(base_url=gateway, httpx_client=http_client)


def ask(client: ClientV2, model: str, question: str) -> object:
    answer = client.chat(model=model, messages=[{"role": "user", "content": question}])
    return answer.message.content[0].text


if __name__ == "__main__":
    run(
        make_plain_client,
        ask,
        own_lines=make_client,
        forward="https://api.cohere.com",
        model="command-a-03-2025",
        key="CO_API_KEY",
    )
