"""Ask a question in each of two sessions with pydantic-ai, which is on openai and httpx2."""

from example_program import run
from openai import DefaultAsyncHttpxClient
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from cagent_session import session_id_hook


def make_plain_client(gateway: str) -> OpenAIProvider:
    return OpenAIProvider(base_url=f"{gateway}/v1")


def make_client(gateway: str, headers: dict[str, str]) -> OpenAIProvider:
    hooks = {"request": [session_id_hook(gateway)]}
    http_client = DefaultAsyncHttpxClient(event_hooks=hooks, headers=headers)
    return OpenAIProvider(base_url=f"{gateway}/v1", http_client=http_client)


def ask(provider: OpenAIProvider, model: str, question: str) -> object:
    agent = Agent(OpenAIChatModel(model, provider=provider))
    return agent.run_sync(question).output


if __name__ == "__main__":
    run(
        make_plain_client,
        ask,
        own_lines=make_client,
        forward="https://api.openai.com/v1",
        model="gpt-4o",
        key="OPENAI_API_KEY",
    )
