"""Ask a question in each of two sessions with groq, which is on httpx."""

from example_program import run
from groq import AsyncGroq, DefaultAsyncHttpxClient, DefaultHttpxClient, Groq

from cagent_session import session_id_hook


def make_plain_client(gateway: str) -> Groq:
    return Groq(base_url=gateway)


def make_plain_async_client(gateway: str) -> AsyncGroq:
    return AsyncGroq(base_url=gateway)


def make_client(gateway: str, headers: dict[str, str]) -> Groq:
    hooks = {"request": [session_id_hook(gateway)]}
    http_client = DefaultHttpxClient(event_hooks=hooks)
    return Groq(base_url=gateway, default_headers=headers, http_client=http_client)


def make_async_client(gateway: str, headers: dict[str, str]) -> AsyncGroq:
    hooks = {"request": [session_id_hook(gateway)]}
    http_client = DefaultAsyncHttpxClient(event_hooks=hooks)
    return AsyncGroq(base_url=gateway, default_headers=headers, http_client=http_client)


def ask(client: Groq, model: str, question: str) -> object:
    messages = [{"role": "user", "content": question}]
    answer = client.chat.completions.create(model=model, messages=messages)
    return answer.choices[0].message.content


if __name__ == "__main__":
    run(
        make_plain_client,
        ask,
        own_lines=make_client,
        forward="https://api.groq.com",
        model="llama-3.1-8b-instant",
        key="GROQ_API_KEY",
    )
