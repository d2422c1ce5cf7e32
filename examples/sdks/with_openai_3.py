"""How is openai's client, on httpx2, told whose call it makes? Here it speaks the Responses API."""

from __future__ import annotations

from common import run
from openai import DefaultHttpxClient, OpenAI

from cagent_session import new_session_id, session_id_hook, session_scope


def main(gateway: str, headers: dict[str, str], model: str) -> None:
    hooks = {"request": [session_id_hook(gateway)]}
    http_client = DefaultHttpxClient(event_hooks=hooks)
    client = OpenAI(base_url=f"{gateway}/v1", default_headers=headers, http_client=http_client)

    for question in ("How are you?", "And you?"):
        with session_scope(new_session_id()) as session_id:
            answer = client.responses.create(model=model, input=question)
            print(session_id, answer.output_text)


if __name__ == "__main__":
    run(main, forward="https://api.openai.com/v1", model="gpt-4o", key="OPENAI_API_KEY")
