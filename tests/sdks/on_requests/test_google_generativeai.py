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
    paths = ("/v1beta/models/gemini:generateContent", "/v1beta/models/gemini:streamGenerateContent")

    def client(self, gateway: str, headers: dict[str, str]) -> Any:
        options = {"api_endpoint": gateway}
        genai.configure(
            transport="rest", client_options=options, default_metadata=list(headers.items())
        )
        mount(
            get_default_generative_client().transport._session, gateway
        )  # private: the SDK has no public way in
        return genai

    def ask_plain(self, client: Any, prompt: str) -> Any:
        return genai.GenerativeModel("gemini").generate_content(prompt).text

    def ask_streamed(self, client: Any, prompt: str) -> Any:
        return "".join(
            chunk.text
            for chunk in genai.GenerativeModel("gemini").generate_content(prompt, stream=True)
        )
