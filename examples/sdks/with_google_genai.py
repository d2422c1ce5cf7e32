"""How is google-genai's client, on httpx2, told whose call it makes?"""

from __future__ import annotations

from common import run
from google import genai

from cagent_session import new_session_id, session_id_hook, session_scope


def main(gateway: str, headers: dict[str, str], model: str) -> None:
    hooks = {"request": [session_id_hook(gateway)]}
    options = {"base_url": gateway, "headers": headers, "client_args": {"event_hooks": hooks}}
    client = genai.Client(http_options=options)

    for question in ("How are you?", "And you?"):
        with session_scope(new_session_id()) as session_id:
            answer = client.models.generate_content(model=model, contents=question)
            print(session_id, answer.text)


if __name__ == "__main__":
    run(
        main,
        forward="https://generativelanguage.googleapis.com",
        model="gemini-2.5-flash",
        key="GEMINI_API_KEY",
    )
