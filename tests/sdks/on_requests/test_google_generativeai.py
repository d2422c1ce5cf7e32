"""Is every call of google-generativeai, on requests by its REST transport, attributed to its session?"""

from __future__ import annotations

from typing import Any

import google.generativeai as genai
from contract import Attributed
from google.generativeai.client import get_default_generative_client

from cagent_session import mount

SDK = "google-generativeai==0.8.6"


class TestGoogleGenerativeAI(Attributed):
    retries = True

    def client(self, gateway: str, headers: dict[str, str]) -> Any:
        options = {"api_endpoint": gateway}
        genai.configure(transport="rest", client_options=options, default_metadata=list(headers.items()))
        mount(get_default_generative_client().transport._session, gateway)  # private: the SDK has no public way in
        return genai.GenerativeModel("gemini-2.0-flash")

    def ask_plain(self, model: Any, prompt: str) -> Any:
        return model.generate_content(prompt).text

    def ask_streamed(self, model: Any, prompt: str) -> Any:
        return "".join(chunk.text for chunk in model.generate_content(prompt, stream=True))
