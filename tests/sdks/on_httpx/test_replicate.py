"""The calls of replicate, which is on httpx."""

from __future__ import annotations

from typing import Any

import pytest
import with_replicate
from contract import KeepsTimeouts, Provider, StatesUsage, Streams
from missing_answers import BringsAnswers
from replicate import Client
from werkzeug import Request, Response

from cagent_session.testing import ModelsGateway
from cagent_session.testing.json_bodies import EVENT_STREAM, json_object, json_response
from cagent_session.testing.replies import reply_to

SDK = "replicate==1.0.7"

MODEL = "meta/llama"


def prediction(request: Request) -> Response:
    """Answer as https://replicate.com/docs/reference/http#predictions.create describes.

    The prompt is in the URL of the stream.
    """
    body = json_object(request)
    reply = reply_to([("user", body["input"]["prompt"])])
    tokens = reply.usage("input_token_count", "output_token_count")
    return json_response(
        {
            "id": reply.id,
            "model": MODEL,
            "version": "hidden",
            "status": "succeeded",
            "input": body["input"],
            "output": reply.words,
            "metrics": tokens,
            "usage": reply.usage("input_tokens", "output_tokens"),
            "urls": {"stream": f"{request.host_url}streams?text={reply.text}"},
        }
    )


def stream(request: Request) -> Response:
    output = f"event: output\nid: 1\ndata: {request.args['text']}\n\n"
    return Response([output, "event: done\nid: 2\ndata: {}\n\n"], mimetype=EVENT_STREAM)


ANSWERS = {"/predictions": prediction}


class TestReplicate(BringsAnswers, StatesUsage, Streams, KeepsTimeouts):
    example = with_replicate
    answers = ANSWERS
    paths = (f"/v1/models/{MODEL}/predictions",)
    retries = False
    streams_belong = "first read"
    missing_raises = "MissingSessionId"
    missing_tries = (1,)

    @pytest.fixture(autouse=True)
    def streaming(self, gateway: ModelsGateway, provider: Provider) -> None:
        for server in (gateway, provider):
            server.expect_request("/streams", method="GET").respond_with_handler(stream)

    def ask_like_the_example(self, client: Client, prompt: str) -> Any:
        return self.example.ask(client, MODEL, prompt)

    def stream_events(self, client: Client, prompt: str) -> Any:
        return map(str, client.stream(MODEL, input={"prompt": prompt}))

    def usage_run(self, client: Client, prompt: str) -> Any:
        made = client.models.predictions.create(MODEL, input={"prompt": prompt}, wait=True)
        return made.metrics["input_token_count"], made.metrics["output_token_count"]

    async def ask_async(self, client: Client, prompt: str) -> Any:
        return "".join(await client.async_run(MODEL, input={"prompt": prompt}))

    async def stream_async(self, client: Client, prompt: str) -> Any:
        events = await client.async_stream(MODEL, input={"prompt": prompt})
        return (str(event) async for event in events)
