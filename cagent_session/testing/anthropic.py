"""The answers of Anthropic's API."""

from __future__ import annotations

from collections.abc import Iterator

from werkzeug import Request, Response

from cagent_session.testing.conversations import (
    Turn,
    allowed_tools,
    message_turns,
    requested_schema,
    text_of,
)
from cagent_session.testing.json_bodies import (
    Document,
    event_stream,
    json_object,
    json_response,
    required_list,
)
from cagent_session.testing.replies import Reply, reply_to


def message(request: Request) -> Response:
    """Answer as https://docs.anthropic.com/en/api/messages describes."""
    body = json_object(request)
    document, reply = message_to(body, body.get("model", ""))
    if body.get("stream"):
        return event_stream(message_events(document, reply))
    return json_response(document)


def message_to(body: Document, model: str) -> tuple[Document, Reply]:
    """Return the message that answers a request, and what it replies."""
    tools = [
        (tool["name"], tool["input_schema"])
        for tool in body.get("tools") or []
        if "input_schema" in tool  # Anthropic itself runs the tools that have none
    ]
    output_format = (body.get("output_config") or {}).get("format") or body.get("output_format")
    reply = reply_to(
        turns_in(body),
        allowed_tools(tools, body.get("tool_choice")),
        requested_schema(output_format),
    )
    if reply.tool:
        block = {
            "type": "tool_use",
            "id": f"toolu_{reply.id}",
            "name": reply.tool,
            "input": reply.arguments,
        }
    else:
        block = {"type": "text", "text": reply.text}
    document = {
        "id": f"msg_{reply.id}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [block],
        "stop_reason": "tool_use" if reply.tool else "end_turn",
        "stop_sequence": None,
        "usage": reply.usage("input_tokens", "output_tokens"),
    }
    return document, reply


def token_count(request: Request) -> Response:
    """Answer as https://docs.anthropic.com/en/api/messages-count-tokens describes."""
    reply = reply_to(turns_in(json_object(request)))
    return json_response({"input_tokens": reply.prompt_tokens})


def turns_in(body: Document) -> list[Turn]:
    """Return the turns of a request."""
    turns: list[Turn] = [("system", text_of(body.get("system")))]
    for each in required_list(body, "messages"):
        content = each["content"]
        blocks = [{"text": content}] if isinstance(content, str) else content
        results = [
            text_of(block.get("content")) for block in blocks if block.get("type") == "tool_result"
        ]
        turns += message_turns(each["role"], text_of(blocks), results)
    return turns


def message_events(document: Document, reply: Reply) -> Iterator[Document]:
    """Yield the events of a streamed message. *document* is the whole message."""
    usage = reply.usage("input_tokens", "output_tokens")
    begun: Document = {
        **document,
        "content": [],
        "stop_reason": None,
        "usage": {**usage, "output_tokens": 0},
    }
    yield {"type": "message_start", "message": begun}
    empty: Document = {"input": {}} if reply.tool else {"text": ""}
    block = {**document["content"][0], **empty}
    yield {"type": "content_block_start", "index": 0, "content_block": block}
    kind, name = ("input_json_delta", "partial_json") if reply.tool else ("text_delta", "text")
    for word in reply.words:
        delta = {"type": kind, name: word}
        yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}
    stop = {"stop_reason": document["stop_reason"], "stop_sequence": None}
    final_usage = {"output_tokens": usage["output_tokens"]}
    yield {"type": "message_delta", "delta": stop, "usage": final_usage}
    yield {"type": "message_stop"}
