"""The answers of DashScope's own API. It has another one in OpenAI's format."""

from __future__ import annotations

from itertools import accumulate

from werkzeug import Request, Response

from cagent_session.testing.conversations import Turn, requested_schema, text_of
from cagent_session.testing.json_bodies import (
    EVENT_STREAM,
    Document,
    event_stream,
    json_object,
    json_response,
    required_list,
)
from cagent_session.testing.openai import chat_message, chat_tools, chat_turns
from cagent_session.testing.replies import reply_to


def generation(request: Request) -> Response:
    """Answer as https://www.alibabacloud.com/help/en/model-studio/qwen-api-via-dashscope says."""
    body = json_object(request)
    question, options = body["input"], body.get("parameters") or {}
    reply = reply_to(
        turns_in(question),
        chat_tools(options),
        requested_schema(options.get("response_format")),
    )
    usage = reply.usage("input_tokens", "output_tokens", "total_tokens")
    as_message = reply.tool or options.get("result_format") == "message"

    def document(text: str, finish_reason: str) -> Document:
        message = {**chat_message(reply), "content": text}
        choice = {"finish_reason": finish_reason, "message": message}
        output: Document = {"text": text, "finish_reason": finish_reason}
        if as_message:
            output = {"choices": [choice]}
        return {"output": output, "usage": usage, "request_id": reply.id}

    streamed = asks_for_stream(request)
    texts = reply.texts(streamed=streamed)
    finish_reasons = ["null"] * (len(texts) - 1) + ["tool_calls" if reply.tool else "stop"]
    # Without incremental_output each event repeats the text of those before it.
    shown = texts if options.get("incremental_output") else accumulate(texts)
    documents = map(document, shown, finish_reasons)
    return event_stream(documents, "result") if streamed else json_response(next(documents))


def turns_in(question: Document) -> list[Turn]:
    """Return the turns of the input of a request."""
    if "messages" in question:
        return chat_turns(required_list(question, "messages"))
    return [("user", text_of(question["prompt"]))]


def asks_for_stream(request: Request) -> bool:
    """Return whether the headers of *request* ask for a streamed answer."""
    accepted = request.headers.get("Accept", "")
    return request.headers.get("X-DashScope-SSE") == "enable" or EVENT_STREAM in accepted
