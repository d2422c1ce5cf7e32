"""How is langchain-openai, on openai's SDK and httpx2, told whose call it makes?"""

from __future__ import annotations

from common import run
from langchain_openai import ChatOpenAI
from openai import DefaultHttpxClient

from cagent_session import new_session_id, session_id_hook, session_scope


def main(gateway: str, headers: dict[str, str], model: str) -> None:
    hooks = {"request": [session_id_hook(gateway)]}
    http_client = DefaultHttpxClient(event_hooks=hooks)
    chat = ChatOpenAI(
        model=model, base_url=f"{gateway}/v1", default_headers=headers, http_client=http_client
    )

    for question in ("How are you?", "And you?"):
        with session_scope(new_session_id()) as session_id:
            print(session_id, chat.invoke(question).text)


if __name__ == "__main__":
    run(main, forward="https://api.openai.com/v1", model="gpt-4o", key="OPENAI_API_KEY")
