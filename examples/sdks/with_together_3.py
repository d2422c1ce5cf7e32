"""How is together's client, on httpx, told whose call it makes?"""

from __future__ import annotations

from common import run
from together import DefaultHttpxClient, Together

from cagent_session import new_session_id, session_id_hook, session_scope


def main(gateway: str, headers: dict[str, str], model: str) -> None:
    hooks = {"request": [session_id_hook(gateway)]}
    http_client = DefaultHttpxClient(event_hooks=hooks)
    client = Together(base_url=gateway, default_headers=headers, http_client=http_client)

    for question in ("How are you?", "And you?"):
        with session_scope(new_session_id()) as session_id:
            messages = [{"role": "user", "content": question}]
            answer = client.chat.completions.create(model=model, messages=messages)
            print(session_id, answer.choices[0].message.content)


if __name__ == "__main__":
    model = "meta-llama/Llama-3.3-70B-Instruct-Turbo"
    run(main, forward="https://api.together.ai", model=model, key="TOGETHER_API_KEY")
