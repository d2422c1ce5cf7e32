"""Ask a question in each of two sessions with openai-agents, which is on openai and httpx2."""

from agents import Agent, Runner, set_default_openai_client, set_tracing_disabled
from example_program import run
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from cagent_session import session_id_hook


def make_plain_client(gateway: str) -> None:
    set_default_openai_client(AsyncOpenAI(base_url=f"{gateway}/v1"))
    set_tracing_disabled(disabled=True)


def make_client(gateway: str, headers: dict[str, str]) -> None:
    hooks = {"request": [session_id_hook(gateway)]}
    http_client = DefaultAsyncHttpxClient(event_hooks=hooks, headers=headers)
    set_default_openai_client(AsyncOpenAI(base_url=f"{gateway}/v1", http_client=http_client))
    set_tracing_disabled(disabled=True)


def ask(_: None, model: str, question: str) -> object:
    return Runner.run_sync(Agent("assistant", model=model), question).final_output


if __name__ == "__main__":
    run(
        make_plain_client,
        ask,
        own_lines=make_client,
        forward="https://api.openai.com/v1",
        model="gpt-4o",
        key="OPENAI_API_KEY",
    )
