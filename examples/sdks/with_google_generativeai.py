"""How is google-generativeai, on requests by its REST transport, told whose call it makes?"""

from __future__ import annotations

import google.generativeai as genai
from common import run
from google.generativeai.client import get_default_generative_client

from cagent_session import mount, new_session_id, session_scope


def main(gateway: str, headers: dict[str, str], model: str) -> None:
    options = {"api_endpoint": gateway}
    genai.configure(
        transport="rest", client_options=options, default_metadata=list(headers.items())
    )
    mount(
        get_default_generative_client().transport._session, gateway
    )  # private: the SDK has no public way in
    client = genai.GenerativeModel(model)

    for question in ("How are you?", "And you?"):
        with session_scope(new_session_id()) as session_id:
            print(session_id, client.generate_content(question).text)


if __name__ == "__main__":
    run(
        main,
        forward="https://generativelanguage.googleapis.com",
        model="gemini-2.5-flash",
        key="GOOGLE_API_KEY",
    )
