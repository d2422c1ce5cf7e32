"""How is litellm, on httpx, told whose call it makes?"""

from __future__ import annotations

import httpx
import litellm
from common import run
from litellm.llms.custom_httpx.http_handler import HTTPHandler

from cagent_session import new_session_id, session_id_hook, session_scope


def main(gateway: str, headers: dict[str, str], model: str) -> None:
    hooks = {"request": [session_id_hook(gateway)]}
    # Calls to OpenAI and Azure take this client by themselves, calls to other providers take it from a handler.
    litellm.client_session = httpx.Client(event_hooks=hooks, headers=headers, follow_redirects=True)
    handler = HTTPHandler(client=litellm.client_session)

    for question in ("How are you?", "And you?"):
        with session_scope(new_session_id()) as session_id:
            messages = [{"role": "user", "content": question}]
            answer = litellm.completion(model, messages, api_base=gateway, client=handler)
            print(session_id, answer.choices[0].message.content)


if __name__ == "__main__":
    run(
        main,
        forward="https://api.anthropic.com",
        model="anthropic/claude-sonnet-5-5",
        key="ANTHROPIC_API_KEY",
    )
