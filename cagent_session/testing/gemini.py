"""The answers of Gemini's API."""

from __future__ import annotations

from collections.abc import Iterator

from werkzeug import Request, Response

from cagent_session.testing.conversations import (
    Tool,
    Turn,
    allowed_tools,
    message_turns,
    text_of,
    text_of_result,
    words_in,
)
from cagent_session.testing.json_bodies import (
    Document,
    either_case,
    event_stream,
    json_array,
    json_object,
    json_response,
    required_list,
)
from cagent_session.testing.replies import Reply, embedding, reply_to


def content(request: Request) -> Response:
    """Answer as https://ai.google.dev/api/generate-content describes."""
    body = json_object(request)
    tools = tools_in(body)
    choice = either_case(either_case(body, "toolConfig") or {}, "functionCallingConfig")
    schema = schema_in(either_case(body, "generationConfig") or {})
    reply = reply_to(turns_in(body), allowed_tools(tools, choice), schema)
    model = request.path.rpartition("/")[2].partition(":")[0]
    streamed = request.path.endswith(":streamGenerateContent")
    documents = content_pieces(reply, model, streamed=streamed)
    if not streamed:
        return json_response(next(documents))
    return event_stream(documents) if request.args.get("alt") == "sse" else json_array(documents)


def token_count(request: Request) -> Response:
    """Answer as https://ai.google.dev/api/tokens describes."""
    body = json_object(request)
    counted = either_case(body, "generateContentRequest") or body
    return json_response({"totalTokens": reply_to(turns_in(counted)).prompt_tokens})


def embeddings(request: Request) -> Response:
    """Answer as https://ai.google.dev/api/embeddings describes."""
    body = json_object(request)
    requests = required_list(body, "requests") if "requests" in body else [body]
    texts = [text_of(each["content"]["parts"]) for each in requests]
    dimensions = [either_case(each, "outputDimensionality") for each in requests]
    vectors = [
        {"values": embedding(text, count)} for text, count in zip(texts, dimensions, strict=True)
    ]
    answer: Document
    answer = {"embeddings": vectors} if "requests" in body else {"embedding": vectors[0]}
    usage = {"promptTokenCount": sum(len(words_in(text)) for text in texts)}
    return json_response({**answer, "usageMetadata": usage})


def turns_in(body: Document) -> list[Turn]:
    """Return the turns of a request."""
    instruction = either_case(body, "systemInstruction") or {}
    turns: list[Turn] = [("system", text_of(instruction.get("parts")))]
    for each in required_list(body, "contents"):
        responses = [
            result["response"]
            for part in each["parts"]
            if (result := either_case(part, "functionResponse"))
        ]
        results = [" ".join(map(text_of_result, response.values())) for response in responses]
        turns += message_turns(each.get("role", "user"), text_of(each["parts"]), results)
    return turns


def tools_in(body: Document) -> list[Tool]:
    """Return the functions that a request offers."""
    functions = [
        function
        for tool in body.get("tools") or []
        for function in either_case(tool, "functionDeclarations") or []
    ]
    return [
        (
            function["name"],
            either_case(function, "parametersJsonSchema") or function.get("parameters"),
        )
        for function in functions
    ]


def schema_in(config: Document) -> Document | None:
    """Return the JSON schema that a generation config asks for, or ``None``."""
    schema = either_case(config, "responseJsonSchema") or either_case(config, "responseSchema")
    return schema or ({} if either_case(config, "responseMimeType") == "application/json" else None)


def content_pieces(reply: Reply, model: str, *, streamed: bool) -> Iterator[Document]:
    """Yield the pieces of a streamed answer, or the one piece of an answer that is not."""
    texts = reply.texts(streamed=streamed)
    call = {"functionCall": {"name": reply.tool, "args": reply.arguments}}
    usage = reply.usage("promptTokenCount", "candidatesTokenCount", "totalTokenCount")
    head = {"modelVersion": model, "responseId": reply.id}
    for number, text in enumerate(texts, 1):
        part = call if reply.tool else {"text": text}
        candidate = {"content": {"parts": [part], "role": "model"}, "index": 0}
        if number < len(texts):
            yield {**head, "candidates": [candidate]}
        else:
            last = {**candidate, "finishReason": "STOP"}
            yield {**head, "candidates": [last], "usageMetadata": usage}
