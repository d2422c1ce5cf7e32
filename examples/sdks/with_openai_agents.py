"""How is openai-agents, on openai's SDK and httpx2, told whose call it makes?"""

from __future__ import annotations

from agents import Agent, Runner, set_default_openai_client, set_tracing_disabled
from common import run
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from cagent_session import new_session_id, session_id_hook, session_scope


def main(gateway: str, headers: dict[str, str], model: str) -> None:
    hooks = {"request": [session_id_hook(gateway)]}
    http_client = DefaultAsyncHttpxClient(event_hooks=hooks, headers=headers)
    set_default_openai_client(AsyncOpenAI(base_url=f"{gateway}/v1", http_client=http_client))
    set_tracing_disabled(disabled=True)  # traces would go to OpenAI, past the gateway
    agent = Agent("assistant", model=model)

    for question in ("How are you?", "And you?"):
        with session_scope(new_session_id()) as session_id:
            print(session_id, Runner.run_sync(agent, question).final_output)


if __name__ == "__main__":
    run(main, forward="https://api.openai.com/v1", model="gpt-4o", key="OPENAI_API_KEY")
