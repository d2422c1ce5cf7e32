"""The answers of Cohere's API."""

from __future__ import annotations

from collections.abc import Iterator

from werkzeug import Request, Response

from cagent_session.testing.conversations import requested_schema
from cagent_session.testing.json_bodies import (
    Document,
    event_stream,
    json_object,
    json_response,
    required_list,
)
from cagent_session.testing.openai import chat_call, chat_tools, chat_turns
from cagent_session.testing.replies import Reply, reply_to


def chat(request: Request) -> Response:
    """Answer as https://docs.cohere.com/reference/chat describes."""
    body = json_object(request)
    turns = chat_turns(required_list(body, "messages"))
    reply = reply_to(turns, chat_tools(body), requested_schema(body.get("response_format")))
    tokens = reply.usage("input_tokens", "output_tokens")
    end = {
        "finish_reason": "TOOL_CALL" if reply.tool else "COMPLETE",
        "usage": {"billed_units": tokens, "tokens": tokens},
    }
    if body.get("stream"):
        return event_stream(chat_events(reply, end))
    message: Document = {"role": "assistant"}
    if reply.tool:
        message["tool_calls"] = [chat_call(reply, reply.text)]
    else:
        message["content"] = [{"type": "text", "text": reply.text}]
    return json_response({"id": reply.id, "message": message, **end})


def chat_events(reply: Reply, end: Document) -> Iterator[Document]:
    """Yield the events of a streamed message. *end* is the content of the last event."""

    def delta(call: Document, content: Document) -> Document:
        message = {"tool_calls": call} if reply.tool else {"content": content}
        return {"index": 0, "delta": {"message": message}}

    kind = "tool-call" if reply.tool else "content"
    begun = {"message": {"role": "assistant"}}
    yield {"type": "message-start", "id": reply.id, "delta": begun}
    first = delta(chat_call(reply, ""), {"type": "text", "text": ""})
    yield {"type": f"{kind}-start", **first}
    for word in reply.words:
        piece = delta({"function": {"arguments": word}}, {"text": word})
        yield {"type": f"{kind}-delta", **piece}
    yield {"type": f"{kind}-end", "index": 0}
    yield {"type": "message-end", "delta": end}
