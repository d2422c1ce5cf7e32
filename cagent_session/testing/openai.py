"""The answers of OpenAI's APIs, and of the APIs that have the same format."""

from __future__ import annotations

import base64
import struct
import time
import uuid
from collections.abc import Iterator
from typing import Any

from werkzeug import Request, Response

from cagent_session.testing.conversations import (
    Tools,
    Turn,
    allowed_tools,
    message_turns,
    requested_schema,
    text_of,
    texts_and_tokens,
)
from cagent_session.testing.json_bodies import (
    Document,
    event_stream,
    json_object,
    json_response,
    required_list,
)
from cagent_session.testing.replies import Reply, embedding, reply_to


def chat_completion(request: Request) -> Response:
    """Answer as https://platform.openai.com/docs/api-reference/chat describes.

    Two APIs of Mistral answer in the same format: https://docs.mistral.ai/api/#tag/agents, and
    https://docs.mistral.ai/api/#tag/fim, whose requests have a prompt instead of messages.
    """
    body = json_object(request)
    if "prompt" in body:
        messages = [{"role": "user", "content": body["prompt"]}]
    else:
        messages = required_list(body, "messages")
    reply = reply_to(
        chat_turns(messages),
        chat_tools(body),
        requested_schema(body.get("response_format")),
    )
    return completion_response(body, [reply], chat=True)


def text_completion(request: Request) -> Response:
    """Answer as https://platform.openai.com/docs/api-reference/completions describes."""
    body = json_object(request)
    prompts, _ = texts_and_tokens(body, "prompt")
    texts = [
        prompt if isinstance(prompt, str) else " ".join(map(str, prompt))  # token IDs
        for prompt in prompts
    ]
    replies = [reply_to([("user", text)]) for text in texts]
    return completion_response(body, replies, chat=False)


def embeddings(request: Request) -> Response:
    """Answer as https://platform.openai.com/docs/api-reference/embeddings describes.

    Requests may also have the parameters of Voyage and Mistral.
    """
    body = json_object(request)
    texts, tokens = texts_and_tokens(body, "input")
    dimensions = body.get("dimensions", body.get("output_dimension"))
    vectors: list[Any] = [embedding(text, dimensions) for text in texts]
    if body.get("encoding_format") == "base64":
        vectors = [in_base64(vector) for vector in vectors]
    data = [
        {"object": "embedding", "index": index, "embedding": vector}
        for index, vector in enumerate(vectors)
    ]
    return json_response(
        {
            "id": f"embd-{uuid.uuid4().hex}",
            "object": "list",
            "model": body.get("model", ""),
            "data": data,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )


def databricks_invocation(request: Request) -> Response:
    """Answer as https://docs.databricks.com/api/workspace/servingendpoints/query describes.

    The parameters in the body show which of OpenAI's APIs is meant.
    """
    body = json_object(request)
    if "input" in body:
        return embeddings(request)
    return text_completion(request) if "prompt" in body else chat_completion(request)


def model_response(request: Request) -> Response:
    """Answer as https://platform.openai.com/docs/api-reference/responses describes."""
    body = json_object(request)
    turns = response_turns(body)
    functions = [tool for tool in body.get("tools") or [] if tool["type"] == "function"]
    tools = [(function["name"], function.get("parameters")) for function in functions]
    schema = requested_schema((body.get("text") or {}).get("format"))
    reply = reply_to(turns, allowed_tools(tools, body.get("tool_choice")), schema)
    document = {
        "id": f"resp_{reply.id}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "completed",
        "model": body.get("model", ""),
        "output": [output_item(reply)],
        "parallel_tool_calls": True,
        "previous_response_id": body.get("previous_response_id"),
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "usage": {
            **reply.usage("input_tokens", "output_tokens", "total_tokens"),
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        },
    }
    if not body.get("stream"):
        return json_response(document)
    events = enumerate(response_events(document, reply))
    return event_stream({**event, "sequence_number": number} for number, event in events)


def chat_turns(messages: list[Any]) -> list[Turn]:
    """Return the turns of the messages of a chat completion."""
    return [(message.get("role"), text_of(message.get("content"))) for message in messages]


def chat_tools(options: Document) -> Tools:
    """Return the functions that may be called, by the *options* of a chat completion."""
    tools = options.get("tools") or []
    functions = [tool["function"] for tool in tools if tool.get("type", "function") == "function"]
    named = [(function["name"], function.get("parameters")) for function in functions]
    return allowed_tools(named, options.get("tool_choice"))


def chat_call(reply: Reply, arguments: str) -> Document:
    """Return the tool call of a chat completion's message."""
    function = {"name": reply.tool, "arguments": arguments}
    return {"id": f"call_{reply.id}", "type": "function", "function": function}


def chat_message(reply: Reply) -> Document:
    """Return the message of a chat completion."""
    if reply.tool:
        calls = [chat_call(reply, reply.text)]
        return {"role": "assistant", "content": None, "tool_calls": calls}
    return {"role": "assistant", "content": reply.text}


def chat_deltas(reply: Reply) -> list[Document]:
    """Return the pieces of a streamed message: the role, each word, and an empty piece."""
    deltas: list[Document] = [{"content": word} for word in reply.words]
    if reply.tool:
        calls = [
            chat_call(reply, ""),
            *({"function": {"arguments": word}} for word in reply.words),
        ]
        deltas = [{"tool_calls": [{"index": 0, **call}]} for call in calls]
    return [{"role": "assistant", "content": None if reply.tool else ""}, *deltas, {}]


def completion_response(body: Document, replies: list[Reply], *, chat: bool) -> Response:
    """Return a completion with the replies as its choices, streamed if *body* asks for that."""
    kind, prefix = ("chat.completion", "chatcmpl") if chat else ("text_completion", "cmpl")
    head = {
        "id": f"{prefix}-{replies[0].id}",
        "object": kind,
        "created": int(time.time()),
        "model": body.get("model", ""),
        "service_tier": "default",
        "system_fingerprint": "fp_0",
    }
    usages = [
        reply.usage("prompt_tokens", "completion_tokens", "total_tokens") for reply in replies
    ]
    usage = {"usage": {name: sum(each[name] for each in usages) for name in usages[0]}}
    ends = [
        {"index": index, "finish_reason": "tool_calls" if reply.tool else "stop"}
        for index, reply in enumerate(replies)
    ]
    include_usage = (body.get("stream_options") or {}).get("include_usage")
    if not body.get("stream"):
        contents = [
            {"message": chat_message(reply)} if chat else {"text": reply.text} for reply in replies
        ]
        choices = [
            {**content, "logprobs": None, **end}
            for content, end in zip(contents, ends, strict=True)
        ]
        return json_response({**head, "choices": choices, **usage})

    def chunks() -> Iterator[Document]:
        for reply, end in zip(replies, ends, strict=True):
            texts = [{"text": text} for text in [*reply.words, ""]]
            deltas = [{"delta": delta} for delta in chat_deltas(reply)]
            *pieces, last = deltas if chat else texts
            for piece in pieces:
                yield {"choices": [{**piece, **end, "finish_reason": None}]}
            # Clients add up all usages, so there is only one. Without include_usage OpenAI sends
            # none; Mistral, Groq and Together send it here. The gateway needs it for its bill.
            is_last = reply is replies[-1]
            usage_here = usage if is_last and not include_usage else {}
            yield {"choices": [{**last, **end}], **usage_here}
        if include_usage:
            yield {"choices": [], **usage}

    if chat:
        head["object"] = "chat.completion.chunk"
    if include_usage:
        head["usage"] = None
    return event_stream(({**head, **chunk} for chunk in chunks()), end="data: [DONE]\n\n")


def in_base64(vector: list[float]) -> str:
    """Return *vector* as 32-bit floats, little-endian, in base64."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def response_turns(body: Document) -> list[Turn]:
    """Return the turns of a request for a response."""
    turns: list[Turn] = [("system", text_of(body.get("instructions")))]
    if isinstance(body.get("input"), str):
        items = [{"role": "user", "content": body["input"]}]
    else:
        items = required_list(body, "input")
    for item in items:
        is_result = item.get("type") == "function_call_output"
        results = [text_of(item["output"])] if is_result else []
        turns += message_turns(item.get("role"), text_of(item.get("content")), results)
    return turns


def output_item(reply: Reply) -> Document:
    """Return the one item of a response's output."""
    if reply.tool:
        return {
            "id": f"fc_{reply.id}",
            "status": "completed",
            "type": "function_call",
            "call_id": f"call_{reply.id}",
            "name": reply.tool,
            "arguments": reply.text,
        }
    part = {"type": "output_text", "text": reply.text, "annotations": [], "logprobs": []}
    return {
        "id": f"msg_{reply.id}",
        "status": "completed",
        "type": "message",
        "role": "assistant",
        "content": [part],
    }


def response_events(document: Document, reply: Reply) -> Iterator[Document]:
    """Yield the events of a streamed response. *document* is the whole response."""
    (item,) = document["output"]
    begun = {**document, "status": "in_progress", "output": [], "usage": None}
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    empty: Document = {"arguments": ""} if reply.tool else {"content": []}
    added = {**item, "status": "in_progress", **empty}
    yield {"type": "response.output_item.added", "output_index": 0, "item": added}
    place = {"item_id": item["id"], "output_index": 0}
    if reply.tool:
        for word in reply.words:
            yield {"type": "response.function_call_arguments.delta", **place, "delta": word}
        call = {"name": reply.tool, "arguments": reply.text}
        yield {"type": "response.function_call_arguments.done", **place, **call}
    else:
        (part,) = item["content"]
        place["content_index"] = 0
        yield {"type": "response.content_part.added", **place, "part": {**part, "text": ""}}
        for word in reply.words:
            yield {"type": "response.output_text.delta", **place, "delta": word, "logprobs": []}
        yield {"type": "response.output_text.done", **place, "text": reply.text, "logprobs": []}
        yield {"type": "response.content_part.done", **place, "part": part}
    yield {"type": "response.output_item.done", "output_index": 0, "item": item}
    yield {"type": "response.completed", "response": document}
