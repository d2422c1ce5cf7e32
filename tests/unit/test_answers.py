"""Does the models gateway answer in each provider's wire format, plain and streamed, and bill both alike?"""

from __future__ import annotations

import base64
import json
import math
import re
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests

from cagent_session import gateway_headers, mount
from cagent_session.testing import ModelsGateway, Usage

Document = dict[str, Any]

TEXT = "Where is  the\ncat?"
SAID = f"You said: {TEXT}"
WORDS = ["You ", "said: ", "Where ", "is  ", "the\n", "cat?"]
ARGUMENTS = {"what": TEXT}
PIECES = ['{"what": ', '"Where ', "is  ", 'the\\ncat?"}']
USER = {"role": "user", "content": TEXT}
SCHEMA = {"type": "object", "properties": {"what": {"type": "string"}}, "required": ["what"]}
FUNCTION = {"name": "find", "parameters": SCHEMA}
CHAT_TOOL = {"type": "function", "function": FUNCTION}
CHAT_CALL = {"id": "call_ID", "type": "function", "function": {"name": "find", "arguments": json.dumps(ARGUMENTS)}}
OLD_GOOGLE_TOOL = {"name": "find", "parameters": {"properties": {"what": {"type": 1}}, "required": ["what"]}}
GEMINI = "/v1beta/models/gemini-2.0-flash"
GENERATION = "/api/v1/services/aigc/text-generation/generation"


@dataclass(frozen=True)
class Format:
    """How one provider is asked: where, the body, what more is in it, and how to ask for the streamed answer."""

    path: str
    asked: Document
    answered: Document  # the same with a tool's result
    tools: Document
    no_tool: Document  # what forbids to call one
    stream: Document = field(default_factory=lambda: {"stream": True})
    stream_path: str = ""
    stream_headers: dict[str, str] = field(default_factory=dict)


def messages(*more: Document) -> Document:
    return {"messages": [USER, *more]}


def contents(*more: Document) -> Document:
    return {"contents": [{"parts": [{"text": TEXT}]}, *({"role": "user", "parts": [part]} for part in more)]}


CHAT = Format(
    "/v1/chat/completions",
    messages(),
    messages({"role": "tool", "tool_call_id": "call_1", "content": "on the mat"}),
    {"tools": [CHAT_TOOL]},
    {"tool_choice": "none"},
)
RESPONSES = Format(
    "/v1/responses",
    {"input": TEXT},
    {"input": [USER, {"type": "function_call_output", "call_id": "call_1", "output": "on the mat"}]},
    {"tools": [{"type": "web_search"}, {"type": "function", **FUNCTION}]},
    {"tool_choice": "none"},
)
ANTHROPIC = Format(
    "/v1/messages",
    messages(),
    messages(
        {"role": "user", "content": [{"type": "tool_result", "content": [{"type": "text", "text": "on the mat"}]}]}
    ),
    {"tools": [{"type": "web_search_1", "name": "search"}, {"name": "find", "input_schema": SCHEMA}]},
    {"tool_choice": {"type": "none"}},
)
GOOGLE = Format(
    f"{GEMINI}:generateContent",
    contents(),
    contents({"functionResponse": {"name": "find", "response": {"result": "on the mat"}}}),
    {"tools": [{"googleSearch": {}}, {"functionDeclarations": [{"name": "find", "parametersJsonSchema": SCHEMA}]}]},
    {"toolConfig": {"functionCallingConfig": {"mode": "NONE"}}},
    stream={},
    stream_path=f"{GEMINI}:streamGenerateContent?alt=sse",
)
OLD_GOOGLE = Format(
    f"{GEMINI}:generateContent",
    contents(),
    contents({"function_response": {"name": "find", "response": {"result": "on the mat"}}}),
    {"tools": [{"function_declarations": [OLD_GOOGLE_TOOL]}]},
    {"tool_config": {"function_calling_config": {"mode": 3}}},
    stream={},
    stream_path=f"{GEMINI}:streamGenerateContent",
)
OLLAMA = Format(
    "/api/chat",
    {**messages(), "stream": False},
    {**messages({"role": "tool", "tool_name": "find", "content": "on the mat"}), "stream": False},
    {"tools": [CHAT_TOOL]},
    {"tools": []},  # it knows no other way
)
COHERE = Format(
    "/v2/chat",
    messages(),
    messages({"role": "tool", "content": [{"type": "document", "document": {"data": "on the mat"}}]}),
    {"tools": [CHAT_TOOL]},
    {"tool_choice": "NONE"},
)
DASHSCOPE = Format(
    GENERATION,
    {"input": messages()},
    {"input": messages({"role": "tool", "content": "on the mat"})},
    {"parameters": {"result_format": "message", "tools": [CHAT_TOOL]}},
    {"parameters": {"tools": [CHAT_TOOL], "tool_choice": "none"}},
    stream={},
    stream_headers={"X-DashScope-SSE": "enable"},
)
FORMATS = [CHAT, RESPONSES, ANTHROPIC, GOOGLE, OLD_GOOGLE, OLLAMA, COHERE, DASHSCOPE]
NAMES = ["chat", "responses", "anthropic", "google", "old google", "ollama", "cohere", "dashscope"]
NOT_TO_EMBED: list[Any] = [None, [], {"a": 1}, ["text", []], ["text", {}], ["text", ["text"]]]
each_format = pytest.mark.parametrize("asking", FORMATS, ids=NAMES)
plain_and_streamed = pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])


@pytest.fixture
def gateway() -> Iterator[ModelsGateway]:
    with ModelsGateway() as gateway:
        yield gateway


class Client:
    """Asks the gateway; each answer has ID for what is made up for it, and 0 for the time."""

    def __init__(self, gateway: ModelsGateway, http: requests.Session) -> None:
        self.gateway, self.http = gateway, http

    def post(self, path: str, body: Document, headers: dict[str, str] | None = None) -> requests.Response:
        return self.http.post(self.gateway.url + path, json=body, headers=headers, timeout=10)

    def ask(self, asking: Format, body: Document, *, streamed: bool = False) -> str:
        """Return the text of the answer."""
        if streamed:
            path = asking.stream_path or asking.path
            response = self.post(path, {**body, **asking.stream}, asking.stream_headers)
        else:
            response = self.post(asking.path, body)
        assert response.status_code == 200, response.text
        masked = re.sub(r"[0-9a-f]{32}", "ID", response.text)
        return re.sub(r'"(created|created_at)": ("[^"]+"|\d+)', r'"\1": 0', masked)

    def plain(self, asking: Format, **more: Any) -> Document:
        document = json.loads(self.ask(asking, {**asking.asked, **more}))
        assert isinstance(document, dict)
        return document

    def events(self, asking: Format, **more: Any) -> list[tuple[str, Document]]:
        """Return the events of a streamed answer: the name of each, and its document."""
        *events, end = self.ask(asking, {**asking.asked, **more}, streamed=True).split("\n\n")
        assert end == ""
        split = [re.fullmatch("(?:event: (.+)\n)?data: (.+)", event) for event in events]
        return [(match[1] or "", json.loads(match[2])) for match in split if match]


@pytest.fixture
def client(gateway: ModelsGateway) -> Iterator[Client]:
    with mount(requests.Session(), gateway.url) as http:
        http.trust_env = False
        http.headers.update(gateway_headers("https://provider.example/v1"))
        yield Client(gateway, http)


def typed(events: list[tuple[str, Document]]) -> list[Document]:
    """Return the documents of events that are each named for its document's type."""
    assert all(name == document["type"] for name, document in events)
    return [document for _, document in events]


def unnamed(events: list[tuple[str, Document]]) -> list[Document]:
    assert not any(name for name, _ in events)
    return [document for _, document in events]


@each_format
@plain_and_streamed
def test_a_question_is_echoed_and_billed(client: Client, asking: Format, streamed: bool) -> None:
    answer = client.ask(asking, asking.asked, streamed=streamed)
    assert all(json.dumps(word)[1:-1] in answer for word in WORDS)
    assert client.gateway.usage() == {None: Usage(1, 4, 6)}


@each_format
@plain_and_streamed
def test_the_first_tool_is_called_and_billed(client: Client, asking: Format, streamed: bool) -> None:
    answer = client.ask(asking, {**asking.asked, **asking.tools}, streamed=streamed)
    assert '"find"' in answer
    assert "You said" not in answer
    assert client.gateway.usage() == {None: Usage(1, 4, 4)}


@each_format
@plain_and_streamed
def test_a_tools_result_is_echoed_and_billed(client: Client, asking: Format, streamed: bool) -> None:
    answer = client.ask(asking, {**asking.answered, **asking.tools}, streamed=streamed)
    assert all(word in answer for word in ("The ", "tool ", "said: ", "on ", "the ", "mat"))
    assert client.gateway.usage() == {None: Usage(1, 7, 6)}


@each_format
@plain_and_streamed
def test_a_forbidden_tool_is_not_called(client: Client, asking: Format, streamed: bool) -> None:
    answer = client.ask(asking, {**asking.asked, **asking.tools, **asking.no_tool}, streamed=streamed)
    assert "said: " in answer


@pytest.mark.parametrize(
    ("path", "body", "problem"),
    [
        *((asking.path, [], "must be a JSON object") for asking in FORMATS),
        *((asking.path, {}, "list, and not an empty one|malformed: KeyError") for asking in FORMATS),
        *((path, {"messages": []}, "messages must be a list") for path in ("/v1/messages", "/api/chat", "/v2/chat")),
        ("/v1/messages", {"messages": [{"role": "user"}]}, "malformed: KeyError..content"),
        ("/v1/messages", {**messages(), "tool_choice": "none"}, "malformed: AttributeError"),
        ("/v1/messages", {"messages": [{"role": "user", "content": [{"text": 5}]}]}, "malformed: TypeError"),
        ("/v1/messages/count_tokens", {}, "messages must be a list"),
        ("/v1/responses", {"input": []}, "input must be a list"),
        ("/v1/responses", {"input": [5]}, "malformed: AttributeError"),
        ("/v1/responses", {"input": TEXT, "tools": [{}]}, "malformed: KeyError..type"),
        ("/v1/completions", {}, "malformed: KeyError..prompt"),
        ("/v1/completions", {"prompt": 5}, "malformed: TypeError"),
        ("/serving-endpoints/x/invocations", {"inputs": [1]}, "messages must be a list"),
        (GOOGLE.path, {"contents": TEXT}, "contents must be a list"),
        (GOOGLE.path, {"contents": [{"parts": ["text"]}]}, "malformed: AttributeError"),
        (GOOGLE.path, {**contents(), "tools": [{"functionDeclarations": [{}]}]}, "malformed: KeyError..name"),
        (f"{GEMINI}:embedContent", {}, "malformed: KeyError..content"),
        (f"{GEMINI}:batchEmbedContents", {"requests": []}, "requests must be a list"),
        ("/api/generate", {}, "malformed: KeyError..prompt"),
        ("/api/embed", {"input": ["text"], "dimensions": 0}, "1 to 4096 dimensions, not 0"),
        ("/v2/chat", {"messages": [{"content": [{"document": 5}]}]}, "malformed: AttributeError"),
        (GENERATION, {"input": {}}, "malformed: KeyError..prompt"),
        (GENERATION, {"input": {"messages": []}}, "messages must be a list"),
        *(("/v1/embeddings", {"input": given}, "input must be a text") for given in NOT_TO_EMBED),
        ("/v1/embeddings", {"input": 5}, "malformed: TypeError"),
        ("/v1/embeddings", {"input": ["text", 5]}, "malformed: TypeError"),
        *(
            ("/v1/embeddings", {"input": "text", "dimensions": dimensions}, "1 to 4096 dimensions")
            for dimensions in (0, -1, 4097, 1.5, True, "8")
        ),
    ],
)
def test_what_is_malformed_is_refused(client: Client, path: str, body: Any, problem: str) -> None:
    response = client.post(path, body)
    assert response.status_code == 400
    refused = response.json()
    assert re.search(problem, refused["error"]["message"])
    assert (refused["type"], refused["message"]) == ("error", refused["error"]["message"])
    assert client.gateway.usage() == {}


@each_format
def test_what_the_system_says_is_billed_too(client: Client, asking: Format) -> None:
    more: dict[str, Document] = {
        "/v1/responses": {"instructions": "Be brief."},
        "/v1/messages": {"system": [{"type": "text", "text": "Be brief."}]},
        GOOGLE.path: {"systemInstruction": {"parts": [{"text": "Be brief."}]}},
    }
    system = {"role": "system", "content": "Be brief."}
    if asking is DASHSCOPE:
        body: Document = {"input": {"messages": [system, USER]}}
    else:
        body = {**asking.asked, **more.get(asking.path, {"messages": [system, USER]})}
    client.ask(asking, body)
    assert client.gateway.usage() == {None: Usage(1, 6, 6)}


@pytest.mark.parametrize(
    "path", ["/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21", "/serving-endpoints/x/invocations"]
)
@plain_and_streamed
def test_azure_and_databricks_answer_as_openai_does(client: Client, path: str, streamed: bool) -> None:
    answer = client.post(path, {**CHAT.asked, "stream": streamed})
    assert ("chat.completion.chunk" if streamed else "chat.completion") in answer.text
    assert client.gateway.usage() == {None: Usage(1, 4, 6)}


def test_a_completion_has_openais_shape(client: Client) -> None:
    completing = Format("/v1/completions", {"prompt": TEXT, "model": "m"}, {}, {}, {})
    head = {"id": "chatcmpl-ID", "object": "text_completion", "created": 0, "model": "m"}
    usage = {"prompt_tokens": 4, "completion_tokens": 6, "total_tokens": 10}
    choice = {"index": 0, "text": SAID, "logprobs": None, "finish_reason": "stop"}
    assert client.plain(completing) == {**head, "choices": [choice], "usage": usage}
    assert (
        client.plain(completing, prompt=["Where is", "the cat?"])["choices"][0]["text"] == "You said: Where is the cat?"
    )
    *chunks, done, end = client.ask(completing, completing.asked, streamed=True).split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    choices = [json.loads(chunk.removeprefix("data: "))["choices"][0] for chunk in chunks]
    assert [choice["text"] for choice in choices] == [*WORDS, ""]
    assert [choice["finish_reason"] for choice in choices] == [None] * 6 + ["stop"]
    assert client.gateway.usage() == {None: Usage(3, 12, 18)}
    client.post("/serving-endpoints/x/invocations", {"prompt": TEXT})
    assert client.gateway.usage() == {None: Usage(4, 16, 24)}


def response_of(item: Document, **more: Any) -> Document:
    """Return a response in OpenAI's shape."""
    tokens = 4 if item["type"] == "function_call" else 6
    usage = {
        "input_tokens": 4,
        "output_tokens": tokens,
        "total_tokens": 4 + tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
    head = {"id": "resp_ID", "object": "response", "created_at": 0, "status": "completed", "model": "m"}
    settings = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
    return {**head, "output": [item], **settings, "usage": usage, **more}


PART = {"type": "output_text", "text": SAID, "annotations": [], "logprobs": []}
MESSAGE_ITEM = {"id": "msg_ID", "status": "completed", "type": "message", "role": "assistant", "content": [PART]}
CALL_ITEM = {
    "id": "fc_ID",
    "status": "completed",
    "type": "function_call",
    "call_id": "call_ID",
    "name": "find",
    "arguments": json.dumps(ARGUMENTS),
}


def test_a_response_has_openais_shape(client: Client) -> None:
    assert client.plain(RESPONSES, model="m") == response_of(MESSAGE_ITEM)
    assert client.plain(RESPONSES, model="m", **RESPONSES.tools) == response_of(CALL_ITEM, **RESPONSES.tools)


def test_a_streamed_response_has_openais_events(client: Client) -> None:
    events = typed(client.events(RESPONSES, model="m"))
    assert [event.pop("sequence_number") for event in events] == list(range(len(events)))
    created, in_progress, item_added, part_added, *deltas, text_done, part_done, item_done, completed = events
    begun = response_of(MESSAGE_ITEM, status="in_progress", output=[], usage=None)
    assert created == {"type": "response.created", "response": begun}
    assert in_progress == {"type": "response.in_progress", "response": begun}
    empty = {**MESSAGE_ITEM, "status": "in_progress", "content": []}
    assert item_added == {"type": "response.output_item.added", "output_index": 0, "item": empty}
    place = {"item_id": "msg_ID", "output_index": 0, "content_index": 0}
    assert part_added == {"type": "response.content_part.added", **place, "part": {**PART, "text": ""}}
    assert deltas == [{"type": "response.output_text.delta", **place, "delta": word, "logprobs": []} for word in WORDS]
    assert text_done == {"type": "response.output_text.done", **place, "text": SAID, "logprobs": []}
    assert part_done == {"type": "response.content_part.done", **place, "part": PART}
    assert item_done == {"type": "response.output_item.done", "output_index": 0, "item": MESSAGE_ITEM}
    assert completed == {"type": "response.completed", "response": response_of(MESSAGE_ITEM)}


def test_a_streamed_response_that_calls_a_tool_has_openais_events(client: Client) -> None:
    events = typed(client.events(RESPONSES, model="m", **RESPONSES.tools))
    assert [event.pop("sequence_number") for event in events] == list(range(len(events)))
    _, _, item_added, *deltas, arguments_done, item_done, completed = events
    empty = {**CALL_ITEM, "status": "in_progress", "arguments": ""}
    assert item_added == {"type": "response.output_item.added", "output_index": 0, "item": empty}
    place = {"item_id": "fc_ID", "output_index": 0}
    kind = "response.function_call_arguments"
    assert deltas == [{"type": f"{kind}.delta", **place, "delta": piece} for piece in PIECES]
    whole = {"name": "find", "arguments": json.dumps(ARGUMENTS)}
    assert arguments_done == {"type": f"{kind}.done", **place, **whole}
    assert item_done == {"type": "response.output_item.done", "output_index": 0, "item": CALL_ITEM}
    assert completed == {"type": "response.completed", "response": response_of(CALL_ITEM, **RESPONSES.tools)}


def test_a_response_takes_back_its_own_items(client: Client) -> None:
    """As clients send them that keep the conversation themselves."""
    items = [USER, MESSAGE_ITEM, {"role": "user", "content": [{"type": "input_text", "text": "And now?"}]}]
    (item,) = client.plain(RESPONSES, input=items)["output"]
    assert item["content"][0]["text"] == "You said: And now?"
    assert client.gateway.calls[0].prompt_tokens == 4 + 6 + 2
    (item,) = client.plain(RESPONSES, input=[USER, CALL_ITEM], **RESPONSES.tools)["output"]
    assert json.loads(item["arguments"]) == ARGUMENTS


@pytest.mark.parametrize(
    ("given", "tokens"), [(TEXT, 4), ([TEXT, "a b", ""], 6), ([1, 2, 3], 3), ([[1, 2, 3], [4]], 4), ("\udc80", 1)]
)
def test_embeddings_have_openais_shape(client: Client, given: Any, tokens: int) -> None:
    answer = client.post("/v1/embeddings", {"input": given, "model": "m"}).json()
    assert answer.pop("id").startswith("embd-")
    data = answer.pop("data")
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    assert answer == {"object": "list", "model": "m", "usage": usage}
    count = len(given) if isinstance(given, list) and not isinstance(given[0], int) else 1
    assert [(each["object"], each["index"]) for each in data] == [("embedding", index) for index in range(count)]
    vectors = {tuple(each["embedding"]) for each in data}
    assert len(vectors) == count
    assert all(len(vector) == 8 and math.isclose(math.hypot(*vector), 1) for vector in vectors)
    assert client.gateway.usage() == {None: Usage(1, tokens, 0)}


def embedding_of(client: Client, **body: Any) -> Any:
    return client.post("/v1/embeddings", {"input": TEXT, **body}).json()["data"][0]["embedding"]


def test_an_embedding_depends_on_the_text_alone(client: Client) -> None:
    assert embedding_of(client) == embedding_of(client, input=["other", TEXT][1:], model="m")
    assert embedding_of(client) != embedding_of(client, input="other")
    assert embedding_of(client) != embedding_of(client, input=[1])


@pytest.mark.parametrize("name", ["dimensions", "output_dimension"])
def test_an_embedding_has_the_dimensions_that_are_asked_for(client: Client, name: str) -> None:
    for count in (1, 3, 4096):
        vector = embedding_of(client, **{name: count})
        assert len(vector) == count
        assert math.isclose(math.hypot(*vector), 1)
    assert len(embedding_of(client, **{name: None})) == 8


def test_an_embedding_in_base64_has_the_same_figures(client: Client) -> None:
    figures = struct.unpack("<8f", base64.b64decode(embedding_of(client, encoding_format="base64"), validate=True))
    assert figures == pytest.approx(embedding_of(client, encoding_format="float"), abs=1e-6)


def test_databricks_embeds_what_has_an_input(client: Client) -> None:
    answer = client.post("/serving-endpoints/x/invocations", {"input": [TEXT]}).json()
    assert (answer["data"][0]["embedding"], answer["model"]) == (embedding_of(client), "")


ANTHROPIC_HEAD = {"id": "msg_ID", "type": "message", "role": "assistant", "model": "m"}
TOOL_USE = {"type": "tool_use", "id": "toolu_ID", "name": "find", "input": ARGUMENTS}


def test_a_message_has_anthropics_shape(client: Client) -> None:
    stop: Document = {"stop_reason": "end_turn", "stop_sequence": None}
    usage = {"input_tokens": 4, "output_tokens": 6}
    said = {"content": [{"type": "text", "text": SAID}], **stop, "usage": usage}
    assert client.plain(ANTHROPIC, model="m") == {**ANTHROPIC_HEAD, **said}
    called = {"content": [TOOL_USE], **stop, "stop_reason": "tool_use", "usage": {**usage, "output_tokens": 4}}
    assert client.plain(ANTHROPIC, model="m", **ANTHROPIC.tools) == {**ANTHROPIC_HEAD, **called}


@pytest.mark.parametrize(
    ("tools", "start", "deltas", "stop_reason"),
    [
        ({}, {"type": "text", "text": ""}, [{"type": "text_delta", "text": word} for word in WORDS], "end_turn"),
        (
            ANTHROPIC.tools,
            {**TOOL_USE, "input": {}},
            [{"type": "input_json_delta", "partial_json": piece} for piece in PIECES],
            "tool_use",
        ),
    ],
)
def test_a_streamed_message_has_anthropics_events(
    client: Client, tools: Document, start: Document, deltas: list[Document], stop_reason: str
) -> None:
    """The prompt's tokens are told at the start, the others at the end."""
    stop: Document = {"stop_reason": None, "stop_sequence": None}
    usage = {"input_tokens": 4, "output_tokens": 0}
    assert typed(client.events(ANTHROPIC, model="m", **tools)) == [
        {"type": "message_start", "message": {**ANTHROPIC_HEAD, "content": [], **stop, "usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": start},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {**stop, "stop_reason": stop_reason},
            "usage": {"output_tokens": len(deltas)},
        },
        {"type": "message_stop"},
    ]


def test_text_beside_a_tools_result_is_what_was_said_last(client: Client) -> None:
    result = {"type": "tool_result", "content": "on the mat"}
    blocks = [result, {"type": "text", "text": "And now?"}]
    answer = client.plain(ANTHROPIC, messages=[{"role": "user", "content": blocks}], **ANTHROPIC.tools)
    assert answer["content"] == [{"type": "text", "text": "You said: And now?"}]


def test_anthropics_tokens_are_counted_and_not_billed(client: Client) -> None:
    answer = client.post("/v1/messages/count_tokens", {"system": "Be brief.", **messages()})
    assert answer.json() == {"input_tokens": 6}
    assert client.gateway.usage() == {None: Usage(1, 0, 0)}


GOOGLE_HEAD = {"modelVersion": "gemini-2.0-flash", "responseId": "ID"}
GOOGLE_USAGE = {"promptTokenCount": 4, "candidatesTokenCount": 6, "totalTokenCount": 10}


def google_piece(part: Document, usage: Document | None = None) -> Document:
    candidate: Document = {"content": {"parts": [part], "role": "model"}, "index": 0}
    if usage is None:
        return {**GOOGLE_HEAD, "candidates": [candidate]}
    return {**GOOGLE_HEAD, "candidates": [{**candidate, "finishReason": "STOP"}], "usageMetadata": usage}


GOOGLE_CALL = google_piece(
    {"functionCall": {"name": "find", "args": ARGUMENTS}},
    {"promptTokenCount": 4, "candidatesTokenCount": 4, "totalTokenCount": 8},
)


def test_content_has_geminis_shape(client: Client) -> None:
    assert client.plain(GOOGLE) == google_piece({"text": SAID}, GOOGLE_USAGE)
    assert client.plain(GOOGLE, **GOOGLE.tools) == client.plain(OLD_GOOGLE, **OLD_GOOGLE.tools) == GOOGLE_CALL


def test_parameters_are_filled_where_google_has_numbers_for_their_types(client: Client) -> None:
    values = {1: TEXT, 2: 0, 3: 0, 4: False, 5: [], 6: {}}
    properties = {f"of type {kind}": {"type": kind} for kind in values}
    function = {"name": "find", "parameters": {"type": 6, "properties": properties, "required": list(properties)}}
    (candidate,) = client.plain(OLD_GOOGLE, tools=[{"function_declarations": [function]}])["candidates"]
    arguments = {f"of type {kind}": value for kind, value in values.items()}
    assert json.dumps(candidate["content"]["parts"][0]["functionCall"]["args"]) == json.dumps(arguments)


def test_streamed_content_is_events_or_a_list(client: Client) -> None:
    pieces = [google_piece({"text": word}) for word in WORDS[:-1]] + [google_piece({"text": WORDS[-1]}, GOOGLE_USAGE)]
    assert unnamed(client.events(GOOGLE)) == pieces
    assert json.loads(client.ask(OLD_GOOGLE, OLD_GOOGLE.asked, streamed=True)) == pieces
    assert unnamed(client.events(GOOGLE, **GOOGLE.tools)) == [GOOGLE_CALL]
    assert json.loads(client.ask(OLD_GOOGLE, {**OLD_GOOGLE.asked, **OLD_GOOGLE.tools}, streamed=True)) == [GOOGLE_CALL]


def test_a_result_of_a_tool_can_be_any_json(client: Client) -> None:
    result = {"functionResponse": {"name": "find", "response": {"where": "on the mat", "legs": 4}}}
    (candidate,) = client.plain(GOOGLE, **contents(result))["candidates"]
    assert candidate["content"]["parts"] == [{"text": "The tool said: on the mat 4"}]
    document = {"type": "document", "document": {"data": {"where": "on the mat"}}}
    answer = client.plain(COHERE, **messages({"role": "tool", "content": [document]}))
    assert answer["message"]["content"][0]["text"] == 'The tool said: {"where": "on the mat"}'


def test_content_embeddings_have_geminis_shape(client: Client) -> None:
    asked = {"content": {"parts": [{"text": TEXT}]}}
    same = {"values": embedding_of(client)}
    usage = {"promptTokenCount": len(TEXT.split())}
    assert client.post(f"{GEMINI}:embedContent", asked).json() == {"embedding": same, "usageMetadata": usage}
    other = {"values": embedding_of(client, dimensions=2)}
    both = {"requests": [asked, {**asked, "outputDimensionality": 2}]}
    usage = {"promptTokenCount": 2 * len(TEXT.split())}
    answer = client.post(f"{GEMINI}:batchEmbedContents", both).json()
    assert answer == {"embeddings": [same, other], "usageMetadata": usage}


OLLAMA_HEAD = {"model": "m", "created_at": 0}
OLLAMA_END = {"done": True, "done_reason": "stop", "prompt_eval_count": 4, "eval_count": 6}
OLLAMA_CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"function": {"name": "find", "arguments": ARGUMENTS}}],
}


def test_a_chat_has_ollamas_shape(client: Client) -> None:
    said = {"role": "assistant", "content": SAID}
    assert client.plain(OLLAMA, model="m") == {**OLLAMA_HEAD, "message": said, **OLLAMA_END}
    assert client.plain(OLLAMA)["model"] == ""
    called = {**OLLAMA_HEAD, "message": OLLAMA_CALL, **OLLAMA_END, "eval_count": 4}
    assert client.plain(OLLAMA, model="m", **OLLAMA.tools) == called


def test_a_chat_with_ollama_is_streamed_unless_told_otherwise(client: Client) -> None:
    empty = {"role": "assistant", "content": ""}

    def lines(**more: Any) -> list[Document]:
        response = client.post("/api/chat", {**messages(), "model": "m", **more})
        assert response.headers["Content-Type"] == "application/x-ndjson"
        return [{**json.loads(line), "created_at": 0} for line in response.text.splitlines()]

    assert lines() == [
        *({**OLLAMA_HEAD, "message": {**empty, "content": word}, "done": False} for word in WORDS),
        {**OLLAMA_HEAD, "message": empty, **OLLAMA_END},
    ]
    assert lines(**OLLAMA.tools) == [
        {**OLLAMA_HEAD, "message": OLLAMA_CALL, "done": False},
        {**OLLAMA_HEAD, "message": empty, **OLLAMA_END, "eval_count": 4},
    ]
    assert client.gateway.usage() == {None: Usage(2, 8, 10)}


def test_a_text_generated_has_ollamas_shape(client: Client) -> None:
    generating = Format("/api/generate", {"model": "m", "prompt": TEXT}, {}, {}, {})
    assert client.plain(generating, stream=False) == {**OLLAMA_HEAD, "response": SAID, **OLLAMA_END}
    *pieces, last = map(json.loads, client.ask(generating, generating.asked).splitlines())
    assert pieces == [{**OLLAMA_HEAD, "response": word, "done": False} for word in WORDS]
    assert last == {**OLLAMA_HEAD, "response": "", **OLLAMA_END}
    assert client.gateway.usage() == {None: Usage(2, 8, 12)}
    assert client.plain(generating, stream=False, system="Be brief.")["prompt_eval_count"] == 6


def test_embeddings_have_ollamas_shape(client: Client) -> None:
    answer = client.post("/api/embed", {"model": "m", "input": [TEXT, "other"], "dimensions": 2}).json()
    vectors = [embedding_of(client, input=text, dimensions=2) for text in (TEXT, "other")]
    assert answer == {"model": "m", "embeddings": vectors, "prompt_eval_count": 5}
    assert client.gateway.calls[0].prompt_tokens == 5


def cohere_end(finish_reason: str, output_tokens: int) -> Document:
    tokens = {"input_tokens": 4, "output_tokens": output_tokens}
    return {"finish_reason": finish_reason, "usage": {"billed_units": tokens, "tokens": tokens}}


def test_a_chat_has_coheres_shape(client: Client) -> None:
    said = {"role": "assistant", "content": [{"type": "text", "text": SAID}]}
    assert client.plain(COHERE) == {"id": "ID", "message": said, **cohere_end("COMPLETE", 6)}
    called = {"role": "assistant", "tool_calls": [CHAT_CALL]}
    assert client.plain(COHERE, **COHERE.tools) == {"id": "ID", "message": called, **cohere_end("TOOL_CALL", 4)}


@pytest.mark.parametrize(
    ("tools", "kind", "start", "deltas", "finish_reason"),
    [
        (
            {},
            "content",
            {"content": {"type": "text", "text": ""}},
            [{"content": {"text": word}} for word in WORDS],
            "COMPLETE",
        ),
        (
            COHERE.tools,
            "tool-call",
            {"tool_calls": {**CHAT_CALL, "function": {"name": "find", "arguments": ""}}},
            [{"tool_calls": {"function": {"arguments": piece}}} for piece in PIECES],
            "TOOL_CALL",
        ),
    ],
)
def test_a_streamed_chat_has_coheres_events(
    client: Client, tools: Document, kind: str, start: Document, deltas: list[Document], finish_reason: str
) -> None:
    assert typed(client.events(COHERE, **tools)) == [
        {"type": "message-start", "id": "ID", "delta": {"message": {"role": "assistant"}}},
        {"type": f"{kind}-start", "index": 0, "delta": {"message": start}},
        *({"type": f"{kind}-delta", "index": 0, "delta": {"message": delta}} for delta in deltas),
        {"type": f"{kind}-end", "index": 0},
        {"type": "message-end", "delta": cohere_end(finish_reason, len(deltas))},
    ]


def generated(finish_reason: str, text: str, call: Document | None = None, *, as_message: bool = True) -> Document:
    """Return what DashScope's own API answers."""
    tokens = 4 if call else 6
    usage = {"input_tokens": 4, "output_tokens": tokens, "total_tokens": 4 + tokens}
    message = {"role": "assistant", "content": text, **({"tool_calls": [call]} if call else {})}
    output: Document = {"choices": [{"finish_reason": finish_reason, "message": message}]}
    if not as_message:
        output = {"text": text, "finish_reason": finish_reason}
    return {"output": output, "usage": usage, "request_id": "ID"}


@pytest.mark.parametrize("asked", [{"input": {"prompt": TEXT}}, {"input": messages()}], ids=["prompt", "messages"])
def test_a_generation_has_dashscopes_shape(client: Client, asked: Document) -> None:
    assert client.plain(DASHSCOPE, **asked) == generated("stop", SAID, as_message=False)
    assert client.plain(DASHSCOPE, **asked, parameters={"result_format": "message"}) == generated("stop", SAID)
    called = generated("tool_calls", "", CHAT_CALL)
    assert client.plain(DASHSCOPE, **asked, **DASHSCOPE.tools) == called
    assert client.plain(DASHSCOPE, **asked, parameters={"tools": [CHAT_TOOL]}) == called


@pytest.mark.parametrize("headers", [{"X-DashScope-SSE": "enable"}, {"Accept": "text/event-stream"}])
def test_a_streamed_generation_tells_all_so_far_or_what_is_new(client: Client, headers: dict[str, str]) -> None:
    asking = Format(GENERATION, DASHSCOPE.asked, {}, {}, {}, stream={}, stream_headers=headers)

    def events(**parameters: Any) -> list[Document]:
        named = client.events(asking, parameters=parameters)
        assert {name for name, _ in named} == {"result"}
        return [document for _, document in named]

    so_far = ["".join(WORDS[:count]) for count in range(1, 7)]
    reasons = ["null"] * 5 + ["stop"]
    assert events() == [generated(*each, as_message=False) for each in zip(reasons, so_far, strict=True)]
    new = [generated(*each) for each in zip(reasons, WORDS, strict=True)]
    assert events(result_format="message", incremental_output=True) == new
    assert events(tools=[CHAT_TOOL]) == [generated("tool_calls", "", CHAT_CALL)]


@each_format
def test_a_client_that_hangs_up_does_no_harm(
    client: Client, asking: Format, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    long = json.loads(json.dumps(asking.asked).replace("Where", ("x" * 1_000 + " ") * 1_000))
    before = set(threading.enumerate())
    with client.http.post(
        client.gateway.url + (asking.stream_path or asking.path),
        json={**long, "stream": True},
        headers=asking.stream_headers,
        stream=True,
        timeout=10,
    ) as response:
        assert response.raw.read(10)
        answering = set(threading.enumerate()) - before
    for thread in answering:
        thread.join(10)
        assert not thread.is_alive()
    assert "You said" in client.ask(asking, asking.asked)
    assert "Traceback" not in capfd.readouterr().err + caplog.text
