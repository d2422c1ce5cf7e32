"""How is mistralai's client, on httpx2, told whose call it makes?"""

from __future__ import annotations

import httpx2
from common import run
from mistralai.client import Mistral

from cagent_session import new_session_id, session_id_hook, session_scope


def main(gateway: str, headers: dict[str, str], model: str) -> None:
    hooks = {"request": [session_id_hook(gateway)]}
    http_client = httpx2.Client(event_hooks=hooks, headers=headers, follow_redirects=True)
    client = Mistral(server_url=gateway, client=http_client)

    for question in ("How are you?", "And you?"):
        with session_scope(new_session_id()) as session_id:
            answer = client.chat.complete(
                model=model, messages=[{"role": "user", "content": question}]
            )
            print(session_id, answer.choices[0].message.content)


if __name__ == "__main__":
    run(main, forward="https://api.mistral.ai", model="mistral-small-latest", key="MISTRAL_API_KEY")
