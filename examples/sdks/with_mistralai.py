"""Ask a question in each of two sessions with mistralai, which is on httpx2."""

import httpx2
from example_program import run
from mistralai.client import Mistral

from cagent_session import session_id_hook


def make_plain_client(gateway: str) -> Mistral:
    return Mistral(server_url=gateway)


def make_client(gateway: str, headers: dict[str, str]) -> Mistral:
    hooks = {"request": [session_id_hook(gateway)]}
    http_client = httpx2.Client(event_hooks=hooks, headers=headers, follow_redirects=True)
    return Mistral(server_url=gateway, client=http_client)


def make_async_client(gateway: str, headers: dict[str, str]) -> Mistral:
    hooks = {"request": [session_id_hook(gateway)]}
    http_client = httpx2.AsyncClient(event_hooks=hooks, headers=headers, follow_redirects=True)
    return Mistral(server_url=gateway, async_client=http_client)


def ask(client: Mistral, model: str, question: str) -> object:
    answer = client.chat.complete(model=model, messages=[{"role": "user", "content": question}])
    return answer.choices[0].message.content


if __name__ == "__main__":
    run(
        make_plain_client,
        ask,
        own_lines=make_client,
        forward="https://api.mistral.ai",
        model="mistral-small-latest",
        key="MISTRAL_API_KEY",
    )
