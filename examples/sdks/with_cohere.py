"""How is cohere's client, on httpx, told whose call it makes?"""

from __future__ import annotations

import httpx
from cohere import ClientV2
from common import run

from cagent_session import new_session_id, session_id_hook, session_scope


def main(gateway: str, headers: dict[str, str], model: str) -> None:
    hooks = {"request": [session_id_hook(gateway)]}
    http_client = httpx.Client(
        event_hooks=hooks, headers=headers, follow_redirects=True, timeout=300
    )
    client = ClientV2(base_url=gateway, httpx_client=http_client)

    for question in ("How are you?", "And you?"):
        with session_scope(new_session_id()) as session_id:
            answer = client.chat(model=model, messages=[{"role": "user", "content": question}])
            print(session_id, answer.message.content[0].text)


if __name__ == "__main__":
    run(main, forward="https://api.cohere.com", model="command-a-03-2025", key="CO_API_KEY")
