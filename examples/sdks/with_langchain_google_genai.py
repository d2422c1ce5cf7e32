"""Ask a question in each of two sessions with langchain-google-genai, which is on google-genai."""

from example_program import run
from langchain_google_genai import ChatGoogleGenerativeAI

from cagent_session import session_id_hook


def make_plain_client(gateway: str) -> ChatGoogleGenerativeAI:
    return ChatGoogleGenerativeAI(model="gemini-2.5-flash", base_url=gateway)


def make_client(gateway: str, headers: dict[str, str]) -> ChatGoogleGenerativeAI:
    hooks = {"request": [session_id_hook(gateway)]}
    return ChatGoogleGenerativeAI(
        model="gemini-2.5-flash",
        base_url=gateway,
        additional_headers=headers,
        client_args={"event_hooks": hooks},
    )


def ask(client: ChatGoogleGenerativeAI, model: str, question: str) -> object:
    client.model = model
    return client.invoke(question).text


if __name__ == "__main__":
    run(
        make_plain_client,
        ask,
        own_lines=make_client,
        forward="https://generativelanguage.googleapis.com",
        model="gemini-2.5-flash",
        key="GEMINI_API_KEY",
    )
