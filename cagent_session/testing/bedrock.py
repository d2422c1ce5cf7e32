"""The answers of Amazon Bedrock's runtime API, and the binary format of its streams."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Iterable, Iterator

from werkzeug import Request, Response

from cagent_session.testing.anthropic import message_events, message_to
from cagent_session.testing.conversations import (
    Tools,
    Turn,
    allowed_tools,
    message_turns,
    text_of,
    text_of_result,
    words_in,
)
from cagent_session.testing.json_bodies import (
    Document,
    json_object,
    json_response,
    parsed,
    required_list,
)
from cagent_session.testing.replies import Reply, embedding, reply_to

AWS_EVENT_STREAM = "application/vnd.amazon.eventstream"

_STRING = 7  # the type of a header's value


def converse(request: Request) -> Response:
    """Answer as https://docs.aws.amazon.com/bedrock/latest/APIReference describes Converse."""
    reply = reply_of(request)
    block: Document = {"text": reply.text}
    if reply.tool:
        block = {"toolUse": {**tool_use(reply), "input": reply.arguments}}
    document = {
        "output": {"message": {"role": "assistant", "content": [block]}},
        "stopReason": stop_reason(reply),
        **end_of(reply),
    }
    return json_response(document)


def converse_stream(request: Request) -> Response:
    """Answer as https://docs.aws.amazon.com/bedrock/latest/APIReference says of ConverseStream."""
    return event_frames(converse_events(reply_of(request)))


def invoke(request: Request) -> Response:
    """Answer a body in the format of Anthropic's messages or of Titan's embeddings."""
    body = json_object(request)
    if "inputText" in body:
        tokens = len(words_in(body["inputText"]))
        vector = embedding(body["inputText"], body.get("dimensions"))
        return json_response({"embedding": vector, "inputTextTokenCount": tokens})
    document, _ = message_to(body, model_of(request))
    return json_response(document)


def invoke_stream(request: Request) -> Response:
    """Answer a body in the format of Anthropic's messages. Each piece holds one of its events."""
    events = message_events(*message_to(json_object(request), model_of(request)))
    pieces = (base64.b64encode(json.dumps(event).encode()).decode() for event in events)
    response = event_frames(("chunk", {"bytes": piece}) for piece in pieces)
    response.headers["X-Amzn-Bedrock-Content-Type"] = "application/json"
    return response


def model_of(request: Request) -> str:
    """Return the model's ID or ARN in the path."""
    return request.path.rpartition("/model/")[2].rpartition("/")[0]


def reply_of(request: Request) -> Reply:
    """Return the reply to a request for Converse or ConverseStream."""
    body = json_object(request)
    return reply_to(turns_in(body), tools_in(body), schema_in(body))


def turns_in(body: Document) -> list[Turn]:
    """Return the turns of a request."""
    turns: list[Turn] = [("system", text_of(body.get("system")))]
    for each in required_list(body, "messages"):
        blocks = required_list(each, "content")
        results = [block["toolResult"]["content"] for block in blocks if "toolResult" in block]
        turns += message_turns(each["role"], text_of(blocks), list(map(text_of_blocks, results)))
    return turns


def text_of_blocks(blocks: list[Document]) -> str:
    """Return the text of a tool's result."""
    values = [block.get("text", block.get("json", "")) for block in blocks]
    return " ".join(filter(None, map(text_of_result, values)))


def tools_in(body: Document) -> Tools:
    """Return the tools that a request offers, and whether it requires a call."""
    config = body.get("toolConfig") or {}
    specs = [tool["toolSpec"] for tool in config.get("tools") or [] if "toolSpec" in tool]
    tools = [(spec["name"], spec["inputSchema"]["json"]) for spec in specs]
    ((mode, choice),) = (config.get("toolChoice") or {"auto": {}}).items()
    return allowed_tools(tools, {"mode": mode, **choice})


def schema_in(body: Document) -> Document | None:
    """Return the JSON schema that a request asks for, or ``None``."""
    text_format = (body.get("outputConfig") or {}).get("textFormat")
    return json.loads(text_format["structure"]["jsonSchema"]["schema"]) if text_format else None


def tool_use(reply: Reply) -> Document:
    """Return the fields of a tool call that come before its input."""
    return {"toolUseId": f"tooluse_{reply.id}", "name": reply.tool}


def stop_reason(reply: Reply) -> str:
    """Return why the answer ends."""
    return "tool_use" if reply.tool else "end_turn"


def end_of(reply: Reply) -> Document:
    """Return the last fields of an answer."""
    usage = reply.usage("inputTokens", "outputTokens", "totalTokens")
    return {"usage": usage, "metrics": {"latencyMs": 1}}


def converse_events(reply: Reply) -> Iterator[tuple[str, Document]]:
    """Yield the names and documents of the events of a streamed message."""
    block = {"contentBlockIndex": 0}
    yield "messageStart", {"role": "assistant"}
    if reply.tool:  # a text has no such event
        yield "contentBlockStart", {"start": {"toolUse": tool_use(reply)}, **block}
    for word in reply.words:
        delta: Document = {"toolUse": {"input": word}} if reply.tool else {"text": word}
        yield "contentBlockDelta", {"delta": delta, **block}
    yield "contentBlockStop", block
    yield "messageStop", {"stopReason": stop_reason(reply)}
    yield "metadata", end_of(reply)


def event_frames(events: Iterable[tuple[str, Document]]) -> Response:
    """Return a response with AWS's event stream. Each event is sent as soon as it is made."""
    frames = (event_frame(name, document) for name, document in events)
    return Response(frames, mimetype=AWS_EVENT_STREAM)


def event_frame(name: str, document: Document) -> bytes:
    """Return an event as https://smithy.io/2.0/aws/amazon-eventstream.html describes."""
    fields = {
        b":event-type": name.encode(),
        b":content-type": b"application/json",
        b":message-type": b"event",
    }
    headers = b"".join(
        struct.pack(f">B{len(key)}sBH{len(value)}s", len(key), key, _STRING, len(value), value)
        for key, value in fields.items()
    )
    payload = json.dumps(document).encode()
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    message = prelude + checksum(prelude) + headers + payload
    return message + checksum(message)


def checksum(data: bytes) -> bytes:
    """Return the checksum that follows *data* in an event."""
    return struct.pack(">I", zlib.crc32(data))


def documents_in(data: bytearray) -> list[bytes]:
    """Remove the events from *data*, and return their documents. An incomplete event stays.

    Of an event of :func:`invoke_stream`, the document is the one that its ``bytes`` hold.
    """
    documents: list[bytes] = []
    begin = 0
    while len(data) - begin >= 16:
        length, headers_length = struct.unpack_from(">II", data, begin)
        end = begin + length
        if length < 16 or end > len(data):
            break
        payload = bytes(data[begin + 12 + headers_length : end - 4])
        event = parsed(payload)
        is_chunk = isinstance(event, dict) and "bytes" in event
        documents.append(base64.b64decode(event["bytes"]) if is_chunk else payload)
        begin = end
    del data[:begin]
    return documents
