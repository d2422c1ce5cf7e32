"""How is anthropic's client, on httpx2, told whose call it makes?"""

from __future__ import annotations

from anthropic import Anthropic, DefaultHttpxClient
from common import run

from cagent_session import new_session_id, session_id_hook, session_scope


def main(gateway: str, headers: dict[str, str], model: str) -> None:
    hooks = {"request": [session_id_hook(gateway)]}
    client = Anthropic(
        base_url=gateway, default_headers=headers, http_client=DefaultHttpxClient(event_hooks=hooks)
    )

    for question in ("How are you?", "And you?"):
        with session_scope(new_session_id()) as session_id:
            messages = [{"role": "user", "content": question}]
            answer = client.messages.create(model=model, max_tokens=1000, messages=messages)
            print(session_id, answer.content[0].text)


if __name__ == "__main__":
    run(
        main,
        forward="https://api.anthropic.com",
        model="claude-sonnet-5-5",
        key="ANTHROPIC_API_KEY",
    )
