"""Is every call of huggingface_hub 0, on requests, attributed to its session?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from contract import Attributed
from huggingface_hub import InferenceClient, configure_http_backend

from cagent_session import session_factory

SDK = "huggingface_hub==0.36.2"
NEWEST = "huggingface_hub<1"


@pytest.fixture(autouse=True)
def default_backend() -> Iterator[None]:
    """The backend is the process's: put the SDK's own back."""
    yield
    configure_http_backend()


class TestHuggingFaceHub(Attributed):
    retries = False
    paths = ("/v1/chat/completions",)

    def client(self, gateway: str, headers: dict[str, str]) -> Any:
        configure_http_backend(session_factory(gateway=gateway))
        return InferenceClient(base_url=f"{gateway}/v1", headers=headers)

    def ask_plain(self, client: InferenceClient, prompt: str) -> Any:
        answer = client.chat_completion([{"role": "user", "content": prompt}])
        return answer.choices[0].message.content

    def ask_streamed(self, client: InferenceClient, prompt: str) -> Any:
        stream = client.chat_completion([{"role": "user", "content": prompt}], stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream)
