"""The answers of Ollama's API."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from itertools import chain

from werkzeug import Request, Response

from cagent_session.testing.conversations import text_of, texts_and_tokens
from cagent_session.testing.json_bodies import (
    Document,
    json_lines,
    json_object,
    json_response,
    required_list,
)
from cagent_session.testing.openai import chat_tools, chat_turns
from cagent_session.testing.replies import Reply, embedding, reply_to


def chat(request: Request) -> Response:
    """Answer as https://docs.ollama.com/api/chat describes."""
    body = json_object(request)
    turns = chat_turns(required_list(body, "messages"))
    reply = reply_to(turns, chat_tools(body), schema_in(body))

    def content(text: str, calls: Document) -> Document:
        return {"message": {"role": "assistant", "content": text, **calls}}

    return reply_response(body, reply, content)


def generate(request: Request) -> Response:
    """Answer as https://docs.ollama.com/api/generate describes."""
    body = json_object(request)
    turns = [("system", text_of(body.get("system"))), ("user", text_of(body["prompt"]))]
    reply = reply_to(turns, schema=schema_in(body))
    return reply_response(body, reply, lambda text, _calls: {"response": text})


def embed(request: Request) -> Response:
    """Answer as https://docs.ollama.com/api/embed describes."""
    body = json_object(request)
    texts, tokens = texts_and_tokens(body, "input")
    vectors = [embedding(text, body.get("dimensions")) for text in texts]
    return json_response(
        {
            "model": body.get("model", ""),
            "embeddings": vectors,
            "prompt_eval_count": tokens,
        }
    )


def schema_in(body: Document) -> Document | None:
    """Return the JSON schema that a request asks for, or ``None``."""
    return {} if body.get("format") == "json" else body.get("format") or None


def reply_response(
    body: Document, reply: Reply, content: Callable[[str, Document], Document]
) -> Response:
    """Return *reply*, streamed unless *body* asks for one document.

    :param content: returns the fields that hold a text and the tool calls.
    """
    head = {
        "model": body.get("model", ""),
        "created_at": datetime.now(timezone.utc).isoformat(),
    }
    end = {"done": True, "done_reason": "stop", **reply.usage("prompt_eval_count", "eval_count")}
    call = {"function": {"name": reply.tool, "arguments": reply.arguments}}
    calls = {"tool_calls": [call]} if reply.tool else {}
    if not body.get("stream", True):
        (text,) = reply.texts(streamed=False)
        return json_response({**head, **content(text, calls), **end})
    pieces = (
        {**head, **content(text, calls), "done": False} for text in reply.texts(streamed=True)
    )
    return json_lines(chain(pieces, [{**head, **content("", {}), **end}]))
