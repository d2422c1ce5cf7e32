"""How is groq's client, on httpx, told whose call it makes?"""

from __future__ import annotations

from common import run
from groq import DefaultHttpxClient, Groq

from cagent_session import new_session_id, session_id_hook, session_scope


def main(gateway: str, headers: dict[str, str], model: str) -> None:
    hooks = {"request": [session_id_hook(gateway)]}
    client = Groq(
        base_url=gateway, default_headers=headers, http_client=DefaultHttpxClient(event_hooks=hooks)
    )

    for question in ("How are you?", "And you?"):
        with session_scope(new_session_id()) as session_id:
            messages = [{"role": "user", "content": question}]
            answer = client.chat.completions.create(model=model, messages=messages)
            print(session_id, answer.choices[0].message.content)


if __name__ == "__main__":
    run(main, forward="https://api.groq.com", model="llama-3.1-8b-instant", key="GROQ_API_KEY")
