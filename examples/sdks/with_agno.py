"""Ask a question in each of two sessions with agno, which is on openai and httpx2."""

from agno.agent import Agent
from agno.models.openai import OpenAIChat
from agno.run.base import RunStatus
from example_program import run
from openai import AsyncOpenAI, DefaultAsyncHttpxClient, DefaultHttpxClient, OpenAI

from cagent_session import session_id_hook


def make_plain_client(gateway: str) -> OpenAIChat:
    return OpenAIChat(base_url=f"{gateway}/v1")


def make_client(gateway: str, headers: dict[str, str]) -> OpenAIChat:
    hooks = {"request": [session_id_hook(gateway)]}
    options = {"base_url": f"{gateway}/v1", "default_headers": headers}
    client = OpenAI(**options, http_client=DefaultHttpxClient(event_hooks=hooks))
    return OpenAIChat(**options, client=client)


def make_async_client(gateway: str, headers: dict[str, str]) -> OpenAIChat:
    hooks = {"request": [session_id_hook(gateway)]}
    options = {"base_url": f"{gateway}/v1", "default_headers": headers}
    client = AsyncOpenAI(**options, http_client=DefaultAsyncHttpxClient(event_hooks=hooks))
    return OpenAIChat(**options, async_client=client)


def ask(client: OpenAIChat, model: str, question: str) -> object:
    client.id = model
    answer = Agent(model=client, telemetry=False).run(question)
    if answer.status is RunStatus.error:
        raise RuntimeError(answer.content)
    return answer.content


if __name__ == "__main__":
    run(
        make_plain_client,
        ask,
        own_lines=make_client,
        forward="https://api.openai.com/v1",
        model="gpt-4o",
        key="OPENAI_API_KEY",
    )
