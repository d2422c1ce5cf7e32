"""How is huggingface_hub's client, on httpx, told whose call it makes?"""

from __future__ import annotations

import httpx
from common import run
from huggingface_hub import InferenceClient, set_client_factory

from cagent_session import new_session_id, session_id_hook, session_scope


def main(gateway: str, headers: dict[str, str], model: str) -> None:
    hooks = {"request": [session_id_hook(gateway)]}
    set_client_factory(lambda: httpx.Client(event_hooks=hooks, follow_redirects=True, timeout=None))  # noqa: S113 - as its own
    client = InferenceClient(base_url=f"{gateway}/v1", headers=headers)

    for question in ("How are you?", "And you?"):
        with session_scope(new_session_id()) as session_id:
            messages = [{"role": "user", "content": question}]
            answer = client.chat.completions.create(model=model, messages=messages)
            print(session_id, answer.choices[0].message.content)


if __name__ == "__main__":
    run(
        main,
        forward="https://router.huggingface.co/v1",
        model="meta-llama/Llama-3.3-70B-Instruct",
        key="HF_TOKEN",
    )
