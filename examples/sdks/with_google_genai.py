"""Ask a question in each of two sessions with google-genai, which is on httpx2."""

import httpx2
from example_program import run
from google import genai

from cagent_session import session_id_hook


def make_plain_client(gateway: str) -> genai.Client:
    return genai.Client(http_options={"base_url": gateway})


def make_plain_async_client(gateway: str) -> genai.client.AsyncClient:
    return make_plain_client(gateway).aio


def make_client(gateway: str, headers: dict[str, str]) -> genai.Client:
    hooks = {"request": [session_id_hook(gateway)]}
    options = {"base_url": gateway, "headers": headers, "client_args": {"event_hooks": hooks}}
    return genai.Client(http_options=options)


def make_async_client(gateway: str, headers: dict[str, str]) -> genai.client.AsyncClient:
    hooks = {"request": [session_id_hook(gateway)]}
    # Without a client of httpx2, the SDK would use aiohttp if that is installed.
    http_client = httpx2.AsyncClient(event_hooks=hooks, follow_redirects=True, timeout=None)
    options = {"base_url": gateway, "headers": headers, "httpx_async_client": http_client}
    return genai.Client(http_options=options).aio


def ask(client: genai.Client, model: str, question: str) -> object:
    return client.models.generate_content(model=model, contents=question).text


if __name__ == "__main__":
    run(
        make_plain_client,
        ask,
        own_lines=make_client,
        forward="https://generativelanguage.googleapis.com",
        model="gemini-2.5-flash",
        key="GEMINI_API_KEY",
    )
