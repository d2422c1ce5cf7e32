"""How is pydantic-ai, on openai's SDK and httpx2, told whose call it makes?"""

from __future__ import annotations

from common import run
from openai import DefaultAsyncHttpxClient
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from cagent_session import new_session_id, session_id_hook, session_scope


def main(gateway: str, headers: dict[str, str], model: str) -> None:
    hooks = {"request": [session_id_hook(gateway)]}
    http_client = DefaultAsyncHttpxClient(event_hooks=hooks, headers=headers)
    provider = OpenAIProvider(base_url=f"{gateway}/v1", http_client=http_client)
    agent = Agent(OpenAIChatModel(model, provider=provider))

    for question in ("How are you?", "And you?"):
        with session_scope(new_session_id()) as session_id:
            print(session_id, agent.run_sync(question).output)


if __name__ == "__main__":
    run(main, forward="https://api.openai.com/v1", model="gpt-4o", key="OPENAI_API_KEY")
