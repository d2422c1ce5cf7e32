"""The calls of ibm-watsonx-ai, which is on httpx."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
import with_ibm_watsonx_ai
from contract import HEADERS, KeepsTimeouts, Provider, StatesUsage, Streams, messages_of
from ibm_watsonx_ai import APIClient
from ibm_watsonx_ai.foundation_models import ModelInference
from ibm_watsonx_ai.wml_client_error import WMLClientError
from missing_answers import BringsAnswers
from werkzeug import Request, Response

from cagent_session.testing import ModelsGateway, openai
from cagent_session.testing.json_bodies import event_stream, json_object
from cagent_session.testing.replies import reply_to

SDK = "ibm-watsonx-ai==1.8.1"


def chat_stream(request: Request) -> Response:
    """Answer as https://cloud.ibm.com/apidocs/watsonx-ai#text-chat-stream describes."""
    reply = reply_to(openai.chat_turns(json_object(request)["messages"]))
    pieces = [{"choices": [{"delta": {"content": word}}]} for word in reply.words]
    end = {"choices": [], "usage": reply.usage("prompt_tokens", "completion_tokens")}
    return event_stream([*pieces, end])


ANSWERS = {"/ml/v1/text/chat": openai.chat_completion, "/ml/v1/text/chat_stream": chat_stream}


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """Return a context for a server that the SDK trusts."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    return context


@pytest.fixture
def gateway(certificate: ssl.SSLContext) -> Iterator[ModelsGateway]:
    with ModelsGateway(ssl_context=certificate) as server:
        yield server


@pytest.fixture
def provider(certificate: ssl.SSLContext) -> Iterator[Provider]:
    server = Provider()
    server.ssl_context = certificate
    with server:
        yield server


class TestWatsonx(BringsAnswers, StatesUsage, Streams, KeepsTimeouts):
    example = with_ibm_watsonx_ai
    answers = ANSWERS
    paths = tuple(ANSWERS)
    retries = True
    streams_belong = "first read"
    missing_raises = "MissingSessionId"
    missing_tries = (1,)

    def stream_chat(self, client: APIClient, prompt: str) -> Any:
        return map(text, inference(client).chat_stream(messages_of(prompt)))

    def usage_chat(self, client: APIClient, prompt: str) -> Any:
        usage = inference(client).chat(messages_of(prompt))["usage"]
        return usage["prompt_tokens"], usage["completion_tokens"]

    async def ask_async(self, client: APIClient, prompt: str) -> Any:
        answer = await inference(client).achat(messages_of(prompt))
        return answer["choices"][0]["message"]["content"]

    async def stream_async(self, client: APIClient, prompt: str) -> Any:
        stream = await inference(client).achat_stream(messages_of(prompt))
        return (text(chunk) async for chunk in stream)

    def test_a_gateway_without_https_is_refused(self) -> None:
        """The gateway's URL must begin with ``https``."""
        with pytest.raises(WMLClientError, match="https"):
            self.client("http://gateway.example", HEADERS)


def inference(client: APIClient) -> ModelInference:
    return ModelInference(model_id="model", api_client=client, validate=False)


def text(chunk: Any) -> str:
    return "".join(choice["delta"]["content"] for choice in chunk["choices"])
