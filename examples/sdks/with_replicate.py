"""Ask a question in each of two sessions with replicate, which is on httpx."""

from example_program import run
from replicate import Client

from cagent_session import session_id_hook


def make_plain_client(gateway: str) -> Client:
    return Client(base_url=gateway)


def make_client(gateway: str, headers: dict[str, str]) -> Client:
    hooks = {"request": [session_id_hook(gateway)]}
    return Client(base_url=gateway, headers=headers, event_hooks=hooks)


def ask(client: Client, model: str, question: str) -> object:
    return "".join(client.run(model, input={"prompt": question}))


if __name__ == "__main__":
    run(
        make_plain_client,
        ask,
        own_lines=make_client,
        forward="https://api.replicate.com",
        model="meta/meta-llama-3-70b-instruct",
        key="REPLICATE_API_TOKEN",
        has_stand_in=False,
    )
