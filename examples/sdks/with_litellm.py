"""Ask a question in each of two sessions with litellm, which is on httpx."""

import httpx
import litellm
from example_program import run
from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler, HTTPHandler

from cagent_session import session_id_hook


def make_plain_client(gateway: str) -> tuple[str, None]:
    return gateway, None


def make_client(gateway: str, headers: dict[str, str]) -> tuple[str, HTTPHandler]:
    hooks = {"request": [session_id_hook(gateway)]}
    litellm.client_session = httpx.Client(event_hooks=hooks, headers=headers, follow_redirects=True)
    handler = HTTPHandler(client=litellm.client_session)
    return gateway, handler


def make_async_client(gateway: str, headers: dict[str, str]) -> tuple[str, AsyncHTTPHandler]:
    hooks = {"request": [session_id_hook(gateway)]}
    litellm.aclient_session = httpx.AsyncClient(
        event_hooks=hooks, headers=headers, follow_redirects=True
    )
    handler = AsyncHTTPHandler()
    handler.client = litellm.aclient_session
    return gateway, handler


def ask(client: tuple[str, HTTPHandler | None], model: str, question: str) -> object:
    gateway, handler = client
    messages = [{"role": "user", "content": question}]
    if handler is None:
        answer = litellm.completion(model, messages, api_base=gateway)
    else:
        answer = litellm.completion(model, messages, api_base=gateway, client=handler)
    return answer.choices[0].message.content


if __name__ == "__main__":
    run(
        make_plain_client,
        ask,
        own_lines=make_client,
        forward="https://api.anthropic.com",
        model="anthropic/claude-sonnet-5-5",
        key="ANTHROPIC_API_KEY",
    )
