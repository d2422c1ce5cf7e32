"""How is huggingface_hub 0, on requests, told whose call it makes?"""

from __future__ import annotations

from common import run
from huggingface_hub import InferenceClient, configure_http_backend

from cagent_session import new_session_id, session_factory, session_scope


def main(gateway: str, headers: dict[str, str], model: str) -> None:
    configure_http_backend(session_factory(gateway=gateway))
    client = InferenceClient(base_url=f"{gateway}/v1", headers=headers)

    for question in ("How are you?", "And you?"):
        with session_scope(new_session_id()) as session_id:
            answer = client.chat_completion([{"role": "user", "content": question}], model=model)
            print(session_id, answer.choices[0].message.content)


if __name__ == "__main__":
    run(
        main,
        forward="https://router.huggingface.co/v1",
        model="meta-llama/Llama-3.1-8B-Instruct",
        key="HF_TOKEN",
    )
