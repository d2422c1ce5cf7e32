"""The calls of google-generativeai, which is on requests if its transport is "rest"."""

from __future__ import annotations

import contextlib
from typing import Any

import google.generativeai as genai
import pytest
import with_google_generativeai
from contract import HEADERS, AsyncNeedsMore, Streams
from google.api_core.exceptions import GoogleAPIError

from cagent_session import session_scope
from cagent_session.testing import ModelsGateway

SDK = "google-generativeai==0.8.6"


class TestGoogleGenerativeAI(Streams, AsyncNeedsMore):
    example = with_google_generativeai
    paths = ("/v1beta/models/gemini:generateContent", "/v1beta/models/gemini:streamGenerateContent")
    retries = True
    streams_belong = "created"
    missing_raises = "MissingSessionId"
    missing_tries = (1,)
    async_calls_arrive = "in no session"

    def ask_like_the_example(self, client: None, prompt: str) -> Any:
        return self.example.ask(client, "gemini", prompt)

    def stream_content(self, client: None, prompt: str) -> Any:
        stream = genai.GenerativeModel("gemini").generate_content(prompt, stream=True)
        return (chunk.text for chunk in stream)

    async def call_async(self, client: None, gateway: str, headers: dict[str, str]) -> Any:
        return await genai.GenerativeModel("gemini").generate_content_async("Hello")

    @pytest.mark.parametrize("look_up", [genai.list_models, genai.list_files])
    def test_look_ups_may_be_in_no_session(
        self, line: str, look_up: Any, gateway: ModelsGateway
    ) -> None:
        """Own line: look-ups of models and files arrive marked, but in no session."""
        self.client(gateway.url, HEADERS)
        # The gateway answers them 404.
        with session_scope("sess-1"), contextlib.suppress(GoogleAPIError):
            list(look_up())
        (call,) = gateway.calls
        assert call.forward == HEADERS["X-Cagent-Forward"]
        assert call.session_id == ("sess-1" if line == "instrument" else None)
