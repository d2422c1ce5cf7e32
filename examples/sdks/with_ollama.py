"""How is ollama's client, on httpx, told whose call it makes?"""

from __future__ import annotations

from common import run
from ollama import Client

from cagent_session import new_session_id, session_id_hook, session_scope


def main(gateway: str, headers: dict[str, str], model: str) -> None:
    hooks = {"request": [session_id_hook(gateway)]}
    client = Client(gateway, headers=headers, event_hooks=hooks)

    for question in ("How are you?", "And you?"):
        with session_scope(new_session_id()) as session_id:
            answer = client.chat(model, [{"role": "user", "content": question}])
            print(session_id, answer.message.content)


if __name__ == "__main__":
    run(main, forward="https://ollama.com", model="llama3.2")
