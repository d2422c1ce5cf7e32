"""What would a provider answer? The wire formats that ModelsGateway speaks by default; no public module.

Each format is a function that reads a request, has ``reply_to`` reply to it, and writes the reply down; where it is
streamed in a shape of its own, a generator writes the events.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import struct
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import reduce
from itertools import accumulate, chain, islice, repeat
from operator import getitem, or_
from typing import Any, NamedTuple

from werkzeug import Request, Response
from werkzeug.exceptions import BadRequest

Document = dict[str, Any]
Answer = Callable[[Request], Response]
Turn = tuple[Any, str]  # a role, of which "user" and "tool" matter, and a text; a tool's is its result
Tool = tuple[str, Document | None]  # a name, and the JSON schema of the parameters

EVENT_STREAM = "text/event-stream"
NDJSON = "application/x-ndjson"

ANSWERS: dict[str, Answer] = {}
# Texts in JSON schema's formats.
TEXTS = {
    "date-time": "2000-01-01T00:00:00Z",
    "date": "2000-01-01",
    "time": "00:00:00Z",
    "email": "user@example.com",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
# What google-generativeai sends for JSON schema's types, and for the modes of a tool choice.
OLD_GOOGLE_TYPES = {1: "string", 2: "number", 3: "integer", 4: "boolean", 5: "array", 6: "object"}
OLD_GOOGLE_MODES = {2: "any", 3: "none"}


def default_answer(request: Request) -> Response | None:
    """Return what a provider would answer, which may be a refusal; ``None`` if none takes such a request."""
    ends = [end for end in ANSWERS if request.path.endswith(end)]
    if request.method != "POST" or not ends:
        return None
    try:
        return ANSWERS[max(ends, key=len)](request)  # /chat/completions ends in /completions, too
    except BadRequest as error:
        return refusal(request, 400, str(error.description))
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        return refusal(request, 400, f"the body is malformed: {error!r}")


def answers_post_to(*ends: str) -> Callable[[Answer], Answer]:
    """Make a function the default answer to a POST whose path has one of these *ends*.

    It need not check the body: what goes wrong for want of a key, a type or a value becomes a 400.
    """

    def register(answer: Answer) -> Answer:
        ANSWERS.update(dict.fromkeys(ends, answer))
        return answer

    return register


@dataclass(frozen=True)
class Reply:
    """What is answered: a text or, with the name of a *tool*, a call of it; then *text* is the arguments as JSON."""

    text: str
    prompt_tokens: int
    tool: str = ""
    arguments: Document = field(default_factory=dict)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def words(self) -> list[str]:
        """The text in the pieces in which it is streamed."""
        return words(self.text)

    def said(self, *, streamed: bool) -> list[str]:
        """Return the text, in pieces if *streamed*; an empty one with a call, for formats that send calls whole."""
        return [""] if self.tool else self.words if streamed else [self.text]

    def usage(self, prompt: str, completion: str, total: str = "") -> Document:
        """Return the tokens, by the names that a provider has for them."""
        tokens = {prompt: self.prompt_tokens, completion: len(self.words)}
        return {**tokens, total: sum(tokens.values())} if total else tokens


class Tools(NamedTuple):
    """The tools that may be called, and whether one must be."""

    offered: list[Tool]
    required: bool = False


NO_TOOLS = Tools([])


def chosen(tools: list[Tool], choice: Any) -> Tools:
    """Return what a tool *choice*, in the words of any provider, leaves of *tools*."""
    choice = choice if isinstance(choice, dict) else {"mode": choice}
    mode: Any = choice.get("mode") or choice.get("type") or "auto"
    mode = str(OLD_GOOGLE_MODES.get(mode, mode)).lower()
    named = choice.get("function", choice).get("name")
    names = [named] if named else either_case(choice, "allowedFunctionNames")
    offered = [tool for tool in tools if tool[0] in names] if names else tools
    return NO_TOOLS if mode == "none" else Tools(offered, mode in ("any", "function", "required", "tool"))


def reply_to(turns: list[Turn], tools: Tools = NO_TOOLS, schema: Document | None = None) -> Reply:
    """Reply with a call of a tool, with JSON that fits *schema* where there is one, or with an echo.

    A tool is called where one must be, or where one may be and none has answered yet.
    """
    prompt_tokens, asked = sum(len(words(text)) for _, text in turns), dict(turns).get("user", "")
    results = sum(role == "tool" for role, _ in turns)
    if tools.offered and (tools.required or not results):
        # One after the other: an agent that must call a tool may be waiting for the one that ends its run.
        name, parameters = tools.offered[results % len(tools.offered)]
        arguments = fitting(parameters or {}, asked)
        return Reply(json.dumps(arguments), prompt_tokens, name, arguments)
    if schema is not None:
        return Reply(json.dumps(fitting(schema, asked)), prompt_tokens)
    role, text = turns[-1]
    return Reply(f"{'The tool said' if role == 'tool' else 'You said'}: {text}", prompt_tokens)


def fitting(schema: Document, text: str) -> Any:
    """Return a value that fits a JSON *schema*: *text* where that fits, and of objects only what they require."""

    def fill(part: Any, refs: tuple[str, ...] = ()) -> Any:
        part = part if isinstance(part, dict) else {}  # true allows anything
        ref, options = part.get("$ref"), alternatives(part)
        for option in options:
            with suppress(RecursionError):
                return fill(option, refs)
        if options or ref in refs:
            raise RecursionError("the schema refers to itself without end")
        if ref:
            return fill(reduce(getitem, ref.split("/")[1:], schema), (*refs, ref))
        if not part.get("allOf"):
            return of_type(part, text, lambda each: fill(each, refs))
        values = [fill(each, refs) for each in [{**part, "allOf": None}, *part["allOf"]]]
        objects = [value for value in values if isinstance(value, dict)]
        return reduce(or_, objects) if objects else next((value for value in values if value is not None), None)

    return fill({"type": "object", **schema})


def alternatives(schema: Document) -> list[Document]:
    """Return the schemas of which one must fit, where *schema* has such."""
    kinds = schema.get("type")
    if isinstance(kinds, list):
        return [{**schema, "type": kind} for kind in kinds]
    if schema.get("nullable"):
        return [{**schema, "nullable": False}, {"type": "null"}]
    options = either_case(schema, "anyOf") or schema.get("oneOf") or []
    return [{**schema, "anyOf": None, "oneOf": None, **option} for option in options]


def of_type(schema: Document, text: str, fill: Callable[[Any], Any]) -> Any:
    """Return a value of the type of *schema*; *fill* fills what is in it."""
    kind = schema.get("type", "object" if "properties" in schema else "")
    kind = OLD_GOOGLE_TYPES.get(kind, str(kind).lower())
    fixed = [schema["const"]] if "const" in schema else schema.get("enum")
    if fixed:
        return fixed[0]
    if kind == "object":
        properties = schema.get("properties") or {}
        return {name: fill(properties.get(name)) for name in schema.get("required") or []}
    if kind == "array":
        items = chain(schema.get("prefixItems") or [], repeat(schema.get("items")))
        return [fill(item) for item in islice(items, int(either_case(schema, "minItems") or 0))]
    least = max(schema.get("minimum", 0), schema.get("exclusiveMinimum", -1) + 1)
    string = TEXTS.get(schema.get("format", ""), text)
    return {"string": string, "integer": least, "number": least, "boolean": False}.get(kind)


def schema_in(asked: Any) -> Document | None:
    """Return the JSON schema that an output format asks for, if it does, in the words of most providers."""
    if not asked or asked["type"] not in ("json_schema", "json_object"):
        return None
    named = asked.get("json_schema") or {}  # the schema itself at Cohere, what holds it at OpenAI
    return asked.get("schema") or asked.get("value") or named.get("schema") or named  # value is Hugging Face's


def words(text: str) -> list[str]:
    """Return the words of *text*, each with the white space that follows it."""
    return re.findall(r"\S+\s*", text)


def vector(text: str | list[int], dimensions: Any) -> list[float]:
    """Return an embedding of length 1, the same for the same *text*; it has 8 *dimensions* unless told otherwise."""
    count = 8 if dimensions is None else dimensions
    if type(count) is not int or not 1 <= count <= 4096:
        raise BadRequest(f"an embedding has 1 to 4096 dimensions, not {dimensions!r}")
    figures = struct.unpack(f"<{count}i", hashlib.shake_256(json.dumps(text).encode()).digest(4 * count))
    length = math.hypot(*figures)
    return [figure / length for figure in figures]


def parsed(document: bytes) -> Any:
    """Return what *document* says, or ``None`` where it is not JSON."""
    try:
        return json.loads(document)
    except (ValueError, RecursionError):
        return None


def json_object(request: Request) -> Document:
    """Return the body."""
    body = parsed(request.get_data())
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    return body


def listed(body: Document, name: str) -> list[Any]:
    """Return the list that *body* must have."""
    items = body.get(name)
    if not isinstance(items, list) or not items:
        raise BadRequest(f"{name} must be a list, and not an empty one")
    return items


def text_of(content: Any) -> str:
    """Return the text of *content*: a text, parts that may have one or, as Cohere's tools give it, a document."""
    if content is None or isinstance(content, str):
        return content or ""
    texts = (part.get("text") or as_text(part.get("document", {}).get("data", "")) for part in content)
    return " ".join(filter(None, texts))


def as_text(result: Any) -> str:
    """Return what a tool said, where that may be any JSON."""
    return result if isinstance(result, str) else json.dumps(result)


def turns_of(role: Any, text: str, results: list[str]) -> list[Turn]:
    """Return the turns of a message that may hold tools' results, with a text or instead of one."""
    return [("tool", result) for result in results] + ([(role, text)] if text or not results else [])


def chat_turns(messages: list[Any]) -> list[Turn]:
    """Return the turns of messages in OpenAI's shape."""
    return [(message.get("role"), text_of(message.get("content"))) for message in messages]


def chat_tools(options: Document) -> Tools:
    """Return the tools in OpenAI's shape that are functions and that *options* leave to call."""
    tools = options.get("tools") or []
    functions = [tool["function"] for tool in tools if tool.get("type", "function") == "function"]
    named = [(function["name"], function.get("parameters")) for function in functions]
    return chosen(named, options.get("tool_choice"))


def chat_call(reply: Reply, arguments: str) -> Document:
    """Return the call of a tool in OpenAI's shape."""
    return {"id": f"call_{reply.id}", "type": "function", "function": {"name": reply.tool, "arguments": arguments}}


def chat_message(reply: Reply) -> Document:
    """Return the message in OpenAI's shape."""
    if reply.tool:
        return {"role": "assistant", "content": None, "tool_calls": [chat_call(reply, reply.text)]}
    return {"role": "assistant", "content": reply.text}


def json_response(document: Document, status: int = 200) -> Response:
    """Return one document."""
    return Response(json.dumps(document), status, mimetype="application/json")


def json_array(documents: Iterable[Document]) -> Response:
    """Return a list, each item sent when it is there."""
    separators = chain("[", repeat(",\n"))
    items = (next(separators) + json.dumps(document) for document in documents)
    return Response(chain(items, "]"), mimetype="application/json")


def event_stream(documents: Iterable[Document], event: str = "", end: str = "") -> Response:
    """Return server-sent events, each sent when it is there; it is named for its document's type, or *event*."""

    def events() -> Iterator[str]:
        for document in documents:
            name = document.get("type", event)
            yield (f"event: {name}\n" if name else "") + f"data: {json.dumps(document)}\n\n"

    return Response(chain(events(), [end] if end else []), mimetype=EVENT_STREAM)


def refusal(request: Request, status: int, message: str) -> Response:
    """Return an error in the shape of OpenAI's; with its type and message it is Anthropic's and Cohere's, too."""
    error: Any = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    if re.search(r"/models/[^/]+:\w+$", request.path):  # Gemini's
        error.update(code=status, status="NOT_FOUND" if status == 404 else "INVALID_ARGUMENT")
    if re.search(r"/api/\w+$", request.path):  # Ollama's
        error = message
    return json_response({"type": "error", "error": error, "message": message}, status)


@answers_post_to("/chat/completions", "/agents/completions", "/fim/completions")
def chat_completion(request: Request) -> Response:
    """Speak https://platform.openai.com/docs/api-reference/chat, and what Mistral answers in its shape.

    Those are https://docs.mistral.ai/api/#tag/agents and, with a prompt, https://docs.mistral.ai/api/#tag/fim.
    """
    body = json_object(request)
    said = [{"role": "user", "content": body["prompt"]}] if "prompt" in body else listed(body, "messages")
    reply = reply_to(chat_turns(said), chat_tools(body), schema_in(body.get("response_format")))
    return completion_of(body, [reply], chat=True)


def chat_deltas(reply: Reply) -> list[Document]:
    """Return the pieces of a streamed message: the role, then word by word, then nothing more."""
    deltas: list[Document] = [{"content": word} for word in reply.words]
    if reply.tool:
        calls = [chat_call(reply, ""), *({"function": {"arguments": word}} for word in reply.words)]
        deltas = [{"tool_calls": [{"index": 0, **call}]} for call in calls]
    return [{"role": "assistant", "content": None if reply.tool else ""}, *deltas, {}]


@answers_post_to("/completions")
def text_completion(request: Request) -> Response:
    """Speak https://platform.openai.com/docs/api-reference/completions."""
    body = json_object(request)
    prompts, _ = texts_in(body, "prompt")
    texts = [prompt if isinstance(prompt, str) else " ".join(map(str, prompt)) for prompt in prompts]
    replies = [reply_to([("user", text)]) for text in texts]
    return completion_of(body, replies, chat=False)


def completion_of(body: Document, replies: list[Reply], *, chat: bool) -> Response:
    """Return the replies as the choices of one completion, plain or streamed."""
    kind, prefix = ("chat.completion", "chatcmpl") if chat else ("text_completion", "cmpl")
    head = {"id": f"{prefix}-{replies[0].id}", "object": kind, "created": int(time.time())}
    head.update(model=body.get("model", ""), service_tier="default", system_fingerprint="fp_0")
    bills = [reply.usage("prompt_tokens", "completion_tokens", "total_tokens") for reply in replies]
    usage = {"usage": {name: sum(bill[name] for bill in bills) for name in bills[0]}}
    ends = [{"index": index, "finish_reason": "tool_calls" if it.tool else "stop"} for index, it in enumerate(replies)]
    include_usage = (body.get("stream_options") or {}).get("include_usage")
    if not body.get("stream"):
        said = [{"message": chat_message(reply)} if chat else {"text": reply.text} for reply in replies]
        choices = [{**each, "logprobs": None, **end} for each, end in zip(said, ends, strict=True)]
        return json_response({**head, "choices": choices, **usage})

    def chunks() -> Iterator[Document]:
        for reply, end in zip(replies, ends, strict=True):
            texts = [{"text": text} for text in [*reply.words, ""]]
            *begun, last = [{"delta": delta} for delta in chat_deltas(reply)] if chat else texts
            for piece in begun:
                yield {"choices": [{**piece, **end, "finish_reason": None}]}
            # Clients add up what is told, so it is told once. Without include_usage OpenAI tells nothing; Mistral, Groq
            # and Together tell it here, and so do we: the gateway bills by it.
            told = usage if reply is replies[-1] and not include_usage else {}
            yield {"choices": [{**last, **end}], **told}
        if include_usage:
            yield {"choices": [], **usage}

    if chat:
        head["object"] = "chat.completion.chunk"
    if include_usage:
        head["usage"] = None
    return event_stream(({**head, **chunk} for chunk in chunks()), end="data: [DONE]\n\n")


@answers_post_to("/embeddings")
def embeddings(request: Request) -> Response:
    """Speak https://platform.openai.com/docs/api-reference/embeddings, with the words of Voyage and Mistral, too."""
    body = json_object(request)
    texts, tokens = texts_in(body, "input")
    vectors = [vector(text, body.get("dimensions", body.get("output_dimension"))) for text in texts]
    shown: list[Any] = [in_base64(each) for each in vectors] if body.get("encoding_format") == "base64" else vectors
    data = [{"object": "embedding", "index": index, "embedding": each} for index, each in enumerate(shown)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    head = {"id": f"embd-{uuid.uuid4().hex}", "object": "list", "model": body.get("model", "")}
    return json_response({**head, "data": data, "usage": usage})


def texts_in(body: Document, name: str) -> tuple[list[str | list[int]], int]:
    """Return the texts that *body* has by this *name*, one or more, and their tokens."""
    given: Any = body.get(name)
    several = isinstance(given, list) and not all(isinstance(item, int) for item in given)
    texts: list[Any] = given if several else [given]
    for text in texts:
        if not isinstance(text, str) and not (text and all(isinstance(token, int) for token in text)):
            raise BadRequest(f"{name} must be a text or a list of token IDs, or a list of these")
    return texts, sum(len(words(text) if isinstance(text, str) else text) for text in texts)


def in_base64(figures: list[float]) -> str:
    """Return *figures* as 32-bit floats, little-endian, in base64."""
    return base64.b64encode(struct.pack(f"<{len(figures)}f", *figures)).decode()


@answers_post_to("/invocations")
def databricks_invocation(request: Request) -> Response:
    """Speak https://docs.databricks.com/api/workspace/servingendpoints/query, where the body tells what is asked."""
    body = json_object(request)
    return (embeddings if "input" in body else text_completion if "prompt" in body else chat_completion)(request)


@answers_post_to("/responses")
def openai_response(request: Request) -> Response:
    """Speak https://platform.openai.com/docs/api-reference/responses."""
    body = json_object(request)
    turns = [("system", text_of(body.get("instructions")))]
    said = [{"role": "user", "content": body["input"]}] if isinstance(body.get("input"), str) else listed(body, "input")
    for item in said:
        results = [text_of(item["output"])] if item.get("type") == "function_call_output" else []
        turns += turns_of(item.get("role"), text_of(item.get("content")), results)
    functions = [tool for tool in body.get("tools") or [] if tool["type"] == "function"]
    tools = [(function["name"], function.get("parameters")) for function in functions]
    schema = schema_in((body.get("text") or {}).get("format"))
    reply = reply_to(turns, chosen(tools, body.get("tool_choice")), schema)
    document = {
        "id": f"resp_{reply.id}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "completed",
        "model": body.get("model", ""),
        "output": [openai_item(reply)],
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
    return event_stream({**event, "sequence_number": n} for n, event in enumerate(openai_events(document, reply)))


def openai_item(reply: Reply) -> Document:
    """Return the item of a response's output."""
    if reply.tool:
        call = {"type": "function_call", "call_id": f"call_{reply.id}", "name": reply.tool, "arguments": reply.text}
        return {"id": f"fc_{reply.id}", "status": "completed", **call}
    part = {"type": "output_text", "text": reply.text, "annotations": [], "logprobs": []}
    return {"id": f"msg_{reply.id}", "status": "completed", "type": "message", "role": "assistant", "content": [part]}


def openai_events(document: Document, reply: Reply) -> Iterator[Document]:
    """Yield the events of a streamed response."""
    (item,) = document["output"]
    begun = {**document, "status": "in_progress", "output": [], "usage": None}
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    empty: Document = {"arguments": ""} if reply.tool else {"content": []}
    yield {"type": "response.output_item.added", "output_index": 0, "item": {**item, "status": "in_progress", **empty}}
    place = {"item_id": item["id"], "output_index": 0}
    if reply.tool:
        for word in reply.words:
            yield {"type": "response.function_call_arguments.delta", **place, "delta": word}
        called = {"name": reply.tool, "arguments": reply.text}
        yield {"type": "response.function_call_arguments.done", **place, **called}
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


@answers_post_to("/v1/messages")
def anthropic_message(request: Request) -> Response:
    """Speak https://docs.anthropic.com/en/api/messages."""
    body = json_object(request)
    # The tools without a schema are those that Anthropic runs itself.
    tools = [(tool["name"], tool["input_schema"]) for tool in body.get("tools") or [] if "input_schema" in tool]
    asked = (body.get("output_config") or {}).get("format") or body.get("output_format")
    reply = reply_to(anthropic_turns(body), chosen(tools, body.get("tool_choice")), schema_in(asked))
    call = {"type": "tool_use", "id": f"toolu_{reply.id}", "name": reply.tool, "input": reply.arguments}
    document = {
        "id": f"msg_{reply.id}",
        "type": "message",
        "role": "assistant",
        "model": body.get("model", ""),
        "content": [call if reply.tool else {"type": "text", "text": reply.text}],
        "stop_reason": "tool_use" if reply.tool else "end_turn",
        "stop_sequence": None,
        "usage": reply.usage("input_tokens", "output_tokens"),
    }
    return event_stream(anthropic_events(document, reply)) if body.get("stream") else json_response(document)


@answers_post_to("/v1/messages/count_tokens")
def anthropic_tokens(request: Request) -> Response:
    """Speak https://docs.anthropic.com/en/api/messages-count-tokens."""
    return json_response({"input_tokens": reply_to(anthropic_turns(json_object(request))).prompt_tokens})


def anthropic_turns(body: Document) -> list[Turn]:
    """Return the turns of messages in Anthropic's shape."""
    turns = [("system", text_of(body.get("system")))]
    for each in listed(body, "messages"):
        blocks = [{"text": each["content"]}] if isinstance(each["content"], str) else each["content"]
        results = [text_of(block.get("content")) for block in blocks if block.get("type") == "tool_result"]
        turns += turns_of(each["role"], text_of(blocks), results)
    return turns


def anthropic_events(document: Document, reply: Reply) -> Iterator[Document]:
    """Yield the events of a streamed message in Anthropic's shape."""
    usage = reply.usage("input_tokens", "output_tokens")
    empty: Document = {"content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 0}}
    yield {"type": "message_start", "message": {**document, **empty}}
    block = {**document["content"][0], **({"input": {}} if reply.tool else {"text": ""})}
    yield {"type": "content_block_start", "index": 0, "content_block": block}
    kind, name = ("input_json_delta", "partial_json") if reply.tool else ("text_delta", "text")
    for word in reply.words:
        yield {"type": "content_block_delta", "index": 0, "delta": {"type": kind, name: word}}
    yield {"type": "content_block_stop", "index": 0}
    stop = {"stop_reason": document["stop_reason"], "stop_sequence": None}
    yield {"type": "message_delta", "delta": stop, "usage": {"output_tokens": usage["output_tokens"]}}
    yield {"type": "message_stop"}


@answers_post_to(":generateContent", ":streamGenerateContent")
def gemini_content(request: Request) -> Response:
    """Speak https://ai.google.dev/api/generate-content."""
    body = json_object(request)
    functions = [each for tool in body.get("tools") or [] for each in either_case(tool, "functionDeclarations") or []]
    tools = [(each["name"], either_case(each, "parametersJsonSchema") or each.get("parameters")) for each in functions]
    choice = either_case(either_case(body, "toolConfig") or {}, "functionCallingConfig")
    schema = gemini_schema(either_case(body, "generationConfig") or {})
    reply = reply_to(gemini_turns(body), chosen(tools, choice), schema)
    streamed = request.path.endswith(":streamGenerateContent")
    documents = gemini_pieces(reply, request.path.rpartition("/")[2].partition(":")[0], streamed=streamed)
    if not streamed:
        return json_response(next(documents))
    return event_stream(documents) if request.args.get("alt") == "sse" else json_array(documents)


@answers_post_to(":countTokens")
def gemini_tokens(request: Request) -> Response:
    """Speak https://ai.google.dev/api/tokens."""
    body = json_object(request)
    counted = either_case(body, "generateContentRequest") or body
    return json_response({"totalTokens": reply_to(gemini_turns(counted)).prompt_tokens})


def gemini_turns(body: Document) -> list[Turn]:
    """Return the turns of contents in Gemini's shape."""
    turns = [("system", text_of((either_case(body, "systemInstruction") or {}).get("parts")))]
    for each in listed(body, "contents"):
        answered = [result["response"] for part in each["parts"] if (result := either_case(part, "functionResponse"))]
        results = [" ".join(map(as_text, result.values())) for result in answered]
        turns += turns_of(each.get("role", "user"), text_of(each["parts"]), results)
    return turns


def gemini_schema(config: Document) -> Document | None:
    """Return the JSON schema that a configuration asks for, if it does."""
    schema = either_case(config, "responseJsonSchema") or either_case(config, "responseSchema")
    return schema or ({} if either_case(config, "responseMimeType") == "application/json" else None)


def gemini_pieces(reply: Reply, model: str, *, streamed: bool) -> Iterator[Document]:
    """Yield the pieces of Gemini's content, which is one piece unless it is *streamed*."""
    texts = reply.said(streamed=streamed)
    call = {"functionCall": {"name": reply.tool, "args": reply.arguments}}
    usage = reply.usage("promptTokenCount", "candidatesTokenCount", "totalTokenCount")
    for number, text in enumerate(texts, 1):
        candidate = {"content": {"parts": [call if reply.tool else {"text": text}], "role": "model"}, "index": 0}
        head = {"modelVersion": model, "responseId": reply.id}
        if number < len(texts):
            yield {**head, "candidates": [candidate]}
        else:
            yield {**head, "candidates": [{**candidate, "finishReason": "STOP"}], "usageMetadata": usage}


@answers_post_to(":embedContent", ":batchEmbedContents")
def gemini_embeddings(request: Request) -> Response:
    """Speak https://ai.google.dev/api/embeddings."""
    body = json_object(request)
    asked = listed(body, "requests") if "requests" in body else [body]
    texts = [text_of(each["content"]["parts"]) for each in asked]
    sizes = [either_case(each, "outputDimensionality") for each in asked]
    values = [{"values": vector(text, size)} for text, size in zip(texts, sizes, strict=True)]
    usage = {"promptTokenCount": sum(len(words(text)) for text in texts)}
    shown: Document = {"embeddings": values} if "requests" in body else {"embedding": values[0]}
    return json_response({**shown, "usageMetadata": usage})


def either_case(document: Document, name: str) -> Any:
    """Return what *document* has by a *name* in camelCase or, as Google takes it as well, in snake_case."""
    return document.get(name, document.get(re.sub("[A-Z]", lambda capital: f"_{capital[0].lower()}", name)))


@answers_post_to("/api/chat")
def ollama_chat(request: Request) -> Response:
    """Speak https://docs.ollama.com/api/chat."""
    body = json_object(request)
    reply = reply_to(chat_turns(listed(body, "messages")), chat_tools(body), ollama_schema(body))
    return ollama(body, reply, lambda text, calls: {"message": {"role": "assistant", "content": text, **calls}})


@answers_post_to("/api/generate")
def ollama_generate(request: Request) -> Response:
    """Speak https://docs.ollama.com/api/generate."""
    body = json_object(request)
    turns = [("system", text_of(body.get("system"))), ("user", text_of(body["prompt"]))]
    reply = reply_to(turns, schema=ollama_schema(body))
    return ollama(body, reply, lambda text, _calls: {"response": text})


def ollama_schema(body: Document) -> Document | None:
    """Return the JSON schema that *body* asks for, if it does."""
    return {} if body.get("format") == "json" else body.get("format") or None


def ollama(body: Document, reply: Reply, written: Callable[[str, Document], Document]) -> Response:
    """Return *reply* as it is *written*, streamed unless *body* says otherwise, with all that is around it."""
    head = {"model": body.get("model", ""), "created_at": datetime.now(timezone.utc).isoformat()}
    end = {"done": True, "done_reason": "stop", **reply.usage("prompt_eval_count", "eval_count")}
    call = {"function": {"name": reply.tool, "arguments": reply.arguments}}
    calls = {"tool_calls": [call]} if reply.tool else {}
    if not body.get("stream", True):
        return json_response({**head, **written("" if reply.tool else reply.text, calls), **end})
    pieces = ({**head, **written(text, calls), "done": False} for text in reply.said(streamed=True))
    documents = chain(pieces, [{**head, **written("", {}), **end}])
    return Response((f"{json.dumps(document)}\n" for document in documents), mimetype=NDJSON)


@answers_post_to("/api/embed")
def ollama_embed(request: Request) -> Response:
    """Speak https://docs.ollama.com/api/embed."""
    body = json_object(request)
    texts, tokens = texts_in(body, "input")
    vectors = [vector(text, body.get("dimensions")) for text in texts]
    return json_response({"model": body.get("model", ""), "embeddings": vectors, "prompt_eval_count": tokens})


@answers_post_to("/v2/chat")
def cohere_chat(request: Request) -> Response:
    """Speak https://docs.cohere.com/reference/chat."""
    body = json_object(request)
    reply = reply_to(chat_turns(listed(body, "messages")), chat_tools(body), schema_in(body.get("response_format")))
    calls, texts = {"tool_calls": [chat_call(reply, reply.text)]}, {"content": [{"type": "text", "text": reply.text}]}
    tokens = reply.usage("input_tokens", "output_tokens")
    usage = {"billed_units": tokens, "tokens": tokens}
    end = {"finish_reason": "TOOL_CALL" if reply.tool else "COMPLETE", "usage": usage}
    if body.get("stream"):
        return event_stream(cohere_events(reply, end))
    return json_response({"id": reply.id, "message": {"role": "assistant", **(calls if reply.tool else texts)}, **end})


def cohere_events(reply: Reply, end: Document) -> Iterator[Document]:
    """Yield the events of a streamed message in Cohere's shape."""

    def piece(call: Document, text: Document) -> Document:
        return {"index": 0, "delta": {"message": {"tool_calls": call} if reply.tool else {"content": text}}}

    kind = "tool-call" if reply.tool else "content"
    yield {"type": "message-start", "id": reply.id, "delta": {"message": {"role": "assistant"}}}
    yield {"type": f"{kind}-start", **piece(chat_call(reply, ""), {"type": "text", "text": ""})}
    for word in reply.words:
        yield {"type": f"{kind}-delta", **piece({"function": {"arguments": word}}, {"text": word})}
    yield {"type": f"{kind}-end", "index": 0}
    yield {"type": "message-end", "delta": end}


@answers_post_to("/text-generation/generation")
def dashscope_generation(request: Request) -> Response:
    """Speak https://www.alibabacloud.com/help/en/model-studio/qwen-api-via-dashscope."""
    body = json_object(request)
    asked, options = body["input"], body.get("parameters") or {}
    turns = chat_turns(listed(asked, "messages")) if "messages" in asked else [("user", text_of(asked["prompt"]))]
    reply = reply_to(turns, chat_tools(options), schema_in(options.get("response_format")))
    usage = reply.usage("input_tokens", "output_tokens", "total_tokens")
    as_message = reply.tool or options.get("result_format") == "message"

    def document(text: str, finish_reason: str) -> Document:
        choice = {"finish_reason": finish_reason, "message": {**chat_message(reply), "content": text}}
        output = {"choices": [choice]} if as_message else {"text": text, "finish_reason": finish_reason}
        return {"output": output, "usage": usage, "request_id": reply.id}

    streamed = request.headers.get("X-DashScope-SSE") == "enable" or EVENT_STREAM in request.headers.get("Accept", "")
    texts = reply.said(streamed=streamed)
    finish_reasons = ["null"] * (len(texts) - 1) + ["tool_calls" if reply.tool else "stop"]
    documents = map(document, texts if options.get("incremental_output") else accumulate(texts), finish_reasons)
    return event_stream(documents, event="result") if streamed else json_response(next(documents))
