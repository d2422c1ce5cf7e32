"""Ask a question in each of two sessions with voyageai, which is on requests."""

import voyageai
from example_program import run

from cagent_session import session_factory


def make_plain_client(gateway: str) -> voyageai.Client:
    return voyageai.Client(base_url=f"{gateway}/v1")


def make_plain_async_client(gateway: str) -> voyageai.AsyncClient:
    return voyageai.AsyncClient(base_url=f"{gateway}/v1")


def make_client(gateway: str, headers: dict[str, str]) -> voyageai.Client:
    voyageai.requestssession = session_factory(gateway=gateway, headers=headers, max_retries=2)
    return voyageai.Client(base_url=f"{gateway}/v1")


def ask(client: voyageai.Client, model: str, question: str) -> object:
    vector = client.embed([question], model=model).embeddings[0]
    return f"an embedding of {len(vector)} numbers"


if __name__ == "__main__":
    run(
        make_plain_client,
        ask,
        own_lines=make_client,
        forward="https://api.voyageai.com/v1",
        model="voyage-3.5",
        key="VOYAGE_API_KEY",
    )
