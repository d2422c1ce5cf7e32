"""Ask a question in each of two sessions with langchain-ollama, which is on ollama and httpx."""

from example_program import run
from langchain_ollama import ChatOllama

from cagent_session import session_id_hook


def make_plain_client(gateway: str) -> ChatOllama:
    return ChatOllama(model="llama3.2", base_url=gateway)


def make_client(gateway: str, headers: dict[str, str]) -> ChatOllama:
    hooks = {"request": [session_id_hook(gateway)]}
    options = {"headers": headers, "event_hooks": hooks}
    return ChatOllama(model="llama3.2", base_url=gateway, client_kwargs=options)


def ask(client: ChatOllama, model: str, question: str) -> object:
    return client.invoke(question, model=model).text


if __name__ == "__main__":
    run(
        make_plain_client,
        ask,
        own_lines=make_client,
        forward="https://ollama.com",
        model="llama3.2",
    )
