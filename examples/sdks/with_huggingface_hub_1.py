"""Ask a question in each of two sessions with huggingface_hub 1, which is on httpx."""

import httpx
from example_program import run
from huggingface_hub import (
    AsyncInferenceClient,
    InferenceClient,
    set_async_client_factory,
    set_client_factory,
)

from cagent_session import session_id_hook


def make_plain_client(gateway: str) -> InferenceClient:
    return InferenceClient(base_url=f"{gateway}/v1")


def make_plain_async_client(gateway: str) -> AsyncInferenceClient:
    return AsyncInferenceClient(base_url=f"{gateway}/v1")


def make_client(gateway: str, headers: dict[str, str]) -> InferenceClient:
    hooks = {"request": [session_id_hook(gateway)]}
    set_client_factory(
        lambda: httpx.Client(event_hooks=hooks, follow_redirects=True, timeout=None)  # noqa: S113
    )
    return InferenceClient(base_url=f"{gateway}/v1", headers=headers)


def make_async_client(gateway: str, headers: dict[str, str]) -> AsyncInferenceClient:
    hooks = {"request": [session_id_hook(gateway)]}
    set_async_client_factory(
        lambda: httpx.AsyncClient(event_hooks=hooks, follow_redirects=True, timeout=None)  # noqa: S113
    )
    return AsyncInferenceClient(base_url=f"{gateway}/v1", headers=headers)


def ask(client: InferenceClient, model: str, question: str) -> object:
    messages = [{"role": "user", "content": question}]
    answer = client.chat.completions.create(model=model, messages=messages)
    return answer.choices[0].message.content


if __name__ == "__main__":
    run(
        make_plain_client,
        ask,
        own_lines=make_client,
        forward="https://router.huggingface.co/v1",
        model="meta-llama/Llama-3.3-70B-Instruct",
        key="HF_TOKEN",
    )
