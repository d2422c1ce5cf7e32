"""Ask a question in each of two sessions with google-generativeai, which is on requests."""

import google.generativeai as genai
from example_program import run
from google.generativeai.client import get_default_generative_client

from cagent_session import mount


def make_plain_client(gateway: str) -> None:
    genai.configure(transport="rest", client_options={"api_endpoint": gateway})


def make_client(gateway: str, headers: dict[str, str]) -> None:
    options = {"api_endpoint": gateway}
    metadata = list(headers.items())
    genai.configure(transport="rest", client_options=options, default_metadata=metadata)
    # The SDK has no public name for the session.
    mount(get_default_generative_client().transport._session, gateway)


def ask(_: None, model: str, question: str) -> object:
    return genai.GenerativeModel(model).generate_content(question).text


if __name__ == "__main__":
    run(
        make_plain_client,
        ask,
        own_lines=make_client,
        forward="https://generativelanguage.googleapis.com",
        model="gemini-2.5-flash",
        key="GOOGLE_API_KEY",
    )
