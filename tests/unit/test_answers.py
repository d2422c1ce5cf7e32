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
CHAT_CALL = {
    "id": "call_ID",
    "type": "function",
    "function": {"name": "find", "arguments": json.dumps(ARGUMENTS)},
}
OLD_GOOGLE_SCHEMA = {"type": 6, "properties": {"what": {"type": 1}}, "required": ["what"]}
OLD_GOOGLE_TOOL = {"name": "find", "parameters": OLD_GOOGLE_SCHEMA}
AS_JSON = {
    "response_format": {"type": "json_schema", "json_schema": {"name": "Found", "schema": SCHEMA}}
}
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
    as_json: Document  # what asks for JSON that fits SCHEMA
    stream: Document = field(default_factory=lambda: {"stream": True})
    stream_path: str = ""
    stream_headers: dict[str, str] = field(default_factory=dict)


def messages(*more: Document) -> Document:
    return {"messages": [USER, *more]}


def contents(*more: Document) -> Document:
    return {
        "contents": [
            {"parts": [{"text": TEXT}]},
            *({"role": "user", "parts": [part]} for part in more),
        ]
    }


CHAT = Format(
    "/v1/chat/completions",
    messages(),
    messages({"role": "tool", "tool_call_id": "call_1", "content": "on the mat"}),
    {"tools": [{"type": "custom", "custom": {"name": "search"}}, CHAT_TOOL]},
    {"tool_choice": "none"},
    AS_JSON,
)
RESPONSES = Format(
    "/v1/responses",
    {"input": TEXT},
    {
        "input": [
            USER,
            {"type": "function_call_output", "call_id": "call_1", "output": "on the mat"},
        ]
    },
    {"tools": [{"type": "web_search"}, {"type": "function", **FUNCTION}]},
    {"tool_choice": "none"},
    {"text": {"format": {"type": "json_schema", "name": "Found", "schema": SCHEMA}}},
)
ANTHROPIC = Format(
    "/v1/messages",
    messages(),
    messages(
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "content": [{"type": "text", "text": "on the mat"}]}
            ],
        }
    ),
    {
        "tools": [
            {"type": "web_search_1", "name": "search"},
            {"name": "find", "input_schema": SCHEMA},
        ]
    },
    {"tool_choice": {"type": "none"}},
    {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
)
GOOGLE = Format(
    f"{GEMINI}:generateContent",
    contents(),
    contents({"functionResponse": {"name": "find", "response": {"result": "on the mat"}}}),
    {
        "tools": [
            {"googleSearch": {}},
            {"functionDeclarations": [{"name": "find", "parametersJsonSchema": SCHEMA}]},
        ]
    },
    {"toolConfig": {"functionCallingConfig": {"mode": "NONE"}}},
    {"generationConfig": {"responseMimeType": "application/json", "responseJsonSchema": SCHEMA}},
    stream={},
    stream_path=f"{GEMINI}:streamGenerateContent?alt=sse",
)
OLD_GOOGLE = Format(
    f"{GEMINI}:generateContent",
    contents(),
    contents({"function_response": {"name": "find", "response": {"result": "on the mat"}}}),
    {"tools": [{"function_declarations": [OLD_GOOGLE_TOOL]}]},
    {"tool_config": {"function_calling_config": {"mode": 3}}},
    {
        "generation_config": {
            "response_mime_type": "application/json",
            "response_schema": OLD_GOOGLE_SCHEMA,
        }
    },
    stream={},
    stream_path=f"{GEMINI}:streamGenerateContent",
)
OLLAMA = Format(
    "/api/chat",
    {**messages(), "stream": False},
    {**messages({"role": "tool", "tool_name": "find", "content": "on the mat"}), "stream": False},
    {"tools": [CHAT_TOOL]},
    {"tools": []},  # it knows no other way
    {"format": SCHEMA},
)
COHERE = Format(
    "/v2/chat",
    messages(),
    messages(
        {"role": "tool", "content": [{"type": "document", "document": {"data": "on the mat"}}]}
    ),
    {"tools": [CHAT_TOOL]},
    {"tool_choice": "NONE"},
    {"response_format": {"type": "json_object", "json_schema": SCHEMA}},
)
DASHSCOPE = Format(
    GENERATION,
    {"input": messages()},
    {"input": messages({"role": "tool", "content": "on the mat"})},
    {"parameters": {"result_format": "message", "tools": [CHAT_TOOL]}},
    {"parameters": {"tools": [CHAT_TOOL], "tool_choice": "none"}},
    {"parameters": AS_JSON},
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

    def post(
        self, path: str, body: Document, headers: dict[str, str] | None = None
    ) -> requests.Response:
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
def test_the_first_tool_is_called_and_billed(
    client: Client, asking: Format, streamed: bool
) -> None:
    answer = client.ask(asking, {**asking.asked, **asking.tools}, streamed=streamed)
    assert '"find"' in answer
    assert "You said" not in answer
    assert client.gateway.usage() == {None: Usage(1, 4, 4)}


@each_format
@plain_and_streamed
def test_a_tools_result_is_echoed_and_billed(
    client: Client, asking: Format, streamed: bool
) -> None:
    answer = client.ask(asking, {**asking.answered, **asking.tools}, streamed=streamed)
    assert all(word in answer for word in ("The ", "tool ", "said: ", "on ", "the ", "mat"))
    assert client.gateway.usage() == {None: Usage(1, 7, 6)}


@each_format
@plain_and_streamed
def test_a_forbidden_tool_is_not_called(client: Client, asking: Format, streamed: bool) -> None:
    answer = client.ask(
        asking, {**asking.asked, **asking.tools, **asking.no_tool}, streamed=streamed
    )
    assert "said: " in answer


@each_format
@plain_and_streamed
def test_json_that_fits_is_answered_where_it_is_asked_for_and_billed(
    client: Client, asking: Format, streamed: bool
) -> None:
    answer = client.ask(asking, {**asking.asked, **asking.as_json}, streamed=streamed)
    assert all(json.dumps(piece)[1:-1] in answer for piece in PIECES)
    assert '"find"' not in answer
    assert client.gateway.usage() == {None: Usage(1, 4, 4)}


@pytest.mark.parametrize(
    ("asking", "more"),
    [
        (CHAT, {"response_format": {"type": "json_schema", "schema": SCHEMA}}),  # Together
        (CHAT, {"response_format": {"type": "json_object", "value": SCHEMA}}),  # Hugging Face
        (COHERE, {"response_format": {"type": "json_object", "schema": SCHEMA}}),
        (ANTHROPIC, {"output_format": {"type": "json_schema", "schema": SCHEMA}}),
        (GOOGLE, {"generationConfig": {"responseSchema": {**SCHEMA, "type": "OBJECT"}}}),
        (GOOGLE, {"generationConfig": {"response_json_schema": SCHEMA}}),
        (
            Format("/api/generate", {"prompt": TEXT, "stream": False}, {}, {}, {}, {}),
            {"format": SCHEMA},
        ),
    ],
)
def test_a_schema_is_found_by_its_other_names(
    client: Client, asking: Format, more: Document
) -> None:
    assert json.dumps(json.dumps(ARGUMENTS)) in client.ask(asking, {**asking.asked, **more})


@pytest.mark.parametrize(
    ("asking", "more"),
    [
        (CHAT, {"response_format": {"type": "json_object"}}),
        (CHAT, {"response_format": {"type": "json_object", "json_schema": None}}),
        (RESPONSES, {"text": {"format": {"type": "json_object"}}}),
        (GOOGLE, {"generationConfig": {"responseMimeType": "application/json"}}),
        (OLLAMA, {"format": "json"}),
        (COHERE, {"response_format": {"type": "json_object"}}),
        (DASHSCOPE, {"parameters": {"response_format": {"type": "json_object"}}}),
    ],
)
def test_any_json_is_an_empty_object(client: Client, asking: Format, more: Document) -> None:
    assert '"{}"' in client.ask(asking, {**asking.asked, **more})
    assert client.gateway.usage() == {None: Usage(1, 4, 1)}


@pytest.mark.parametrize(
    ("asking", "more"),
    [
        (CHAT, {"response_format": {"type": "text"}}),
        (RESPONSES, {"text": {"format": {"type": "text"}, "verbosity": "low"}}),
        (RESPONSES, {"text": {"verbosity": "low"}}),
        (GOOGLE, {"generationConfig": {"responseMimeType": "text/plain"}}),
        (OLLAMA, {"format": ""}),
    ],
)
def test_text_is_answered_where_no_json_is_asked_for(
    client: Client, asking: Format, more: Document
) -> None:
    assert "You said: " in client.ask(asking, {**asking.asked, **more})


def test_json_is_answered_once_no_tool_is_to_be_called(client: Client) -> None:
    answers = [
        client.ask(CHAT, {**body, **CHAT.tools, **AS_JSON}) for body in (CHAT.asked, CHAT.answered)
    ]
    assert ["tool_calls" in answer for answer in answers] == [True, False]
    assert json.loads(json.loads(answers[1])["choices"][0]["message"]["content"]) == ARGUMENTS


LEAF = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "size": {"type": "number"}},
    "required": ["name"],
}
LEAF_VALUE = {"name": TEXT}
NODE = {"$ref": "#/$defs/Node"}


def required(**properties: Any) -> Document:
    """Return the schema of an object that must have these *properties*."""
    return {"type": "object", "properties": properties, "required": list(properties)}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({}, None),
        (True, None),
        ({"type": "null"}, None),
        ({"type": "string"}, TEXT),
        ({"type": "STRING"}, TEXT),
        ({"type": "string", "format": "date-time"}, "2000-01-01T00:00:00Z"),
        ({"type": "string", "format": "color"}, TEXT),
        ({"type": "integer"}, 0),
        ({"type": "integer", "minimum": 3}, 3),
        ({"type": "integer", "minimum": -3}, 0),
        ({"type": "integer", "exclusiveMinimum": 0}, 1),
        ({"type": "boolean"}, False),
        ({"const": 0}, 0),
        ({"const": None}, None),
        ({"enum": ["km", "mi"], "type": "string"}, "km"),
        ({"type": ["string", "null"]}, TEXT),
        ({"type": "string", "nullable": True}, TEXT),
        ({"type": "object"}, {}),
        ({"type": "object", "required": ["a"]}, {"a": None}),
        (LEAF, LEAF_VALUE),
        ({"properties": LEAF["properties"], "required": ["size"]}, {"size": 0}),
        (required(leaf=LEAF), {"leaf": LEAF_VALUE}),
        ({"type": "array", "items": LEAF}, []),
        ({"type": "array", "items": LEAF, "minItems": 2}, [LEAF_VALUE, LEAF_VALUE]),
        ({"type": "ARRAY", "items": LEAF, "minItems": "1"}, [LEAF_VALUE]),
        ({"type": 5, "items": {"type": 1}, "min_items": 1}, [TEXT]),
        (
            {
                "type": "array",
                "prefixItems": [{"type": "integer"}, {"type": "string"}],
                "minItems": 2,
            },
            [0, TEXT],
        ),
        ({"$ref": "#/$defs/Leaf"}, LEAF_VALUE),
        ({"$ref": "#/$defs/Leaf", "description": "a leaf"}, LEAF_VALUE),
        (
            required(first={"$ref": "#/$defs/Leaf"}, second={"$ref": "#/$defs/Leaf"}),
            {"first": LEAF_VALUE, "second": LEAF_VALUE},
        ),
        ({"anyOf": [LEAF, {"type": "null"}]}, LEAF_VALUE),
        ({"any_of": [{"type": 1}, {"type": 2}]}, TEXT),
        ({"oneOf": [{"type": "integer"}, LEAF]}, 0),
        (
            {"anyOf": [{"required": ["size"]}, {"required": ["name"]}], **LEAF, "required": []},
            {"size": 0},
        ),
        ({"allOf": [{"$ref": "#/$defs/Leaf"}]}, LEAF_VALUE),
        ({"allOf": [LEAF, required(a={"type": "integer"})]}, {**LEAF_VALUE, "a": 0}),
        ({**required(a={"type": "integer"}), "allOf": [LEAF]}, {"a": 0, **LEAF_VALUE}),
        ({"allOf": [{"minLength": 1}, {"type": "integer"}]}, 0),
        ({"allOf": [{"minLength": 1}]}, None),
        (NODE, {"next": None, "children": []}),
        ({"$ref": "#/$defs/Chain"}, {"next": None}),
        ({"$ref": "#/$defs/Nullable"}, {"next": None}),
        (
            required(a=NODE, b=NODE),
            {"a": {"next": None, "children": []}, "b": {"next": None, "children": []}},
        ),
    ],
)
def test_a_value_fits_its_schema(client: Client, schema: Any, value: Any) -> None:
    defs = {
        "Leaf": LEAF,
        "Node": required(
            next={"anyOf": [NODE, {"type": "null"}]}, children={"type": "array", "items": NODE}
        ),
        "Chain": required(next={"oneOf": [{"$ref": "#/$defs/Link"}, {"type": "null"}]}),
        "Link": required(back={"allOf": [{"$ref": "#/$defs/Chain"}]}),
        "Nullable": required(next={"$ref": "#/$defs/Nullable", "nullable": True}),
    }
    asked = {"name": "Any", "schema": {**required(it=schema), "$defs": defs}}
    (choice,) = client.plain(CHAT, response_format={"type": "json_schema", "json_schema": asked})[
        "choices"
    ]
    # As text, which tells False from 0, and a list of one from another.
    assert choice["message"]["content"] == json.dumps({"it": value})


def test_a_schema_may_be_other_than_an_object_or_refer_to_its_root(client: Client) -> None:
    def said(schema: Document) -> Any:
        (candidate,) = client.plain(GOOGLE, generationConfig={"responseSchema": schema})[
            "candidates"
        ]
        return json.loads(candidate["content"]["parts"][0]["text"])

    assert said({"type": "ARRAY", "items": LEAF, "minItems": "1"}) == [LEAF_VALUE]
    assert said({"anyOf": [{"type": "STRING"}]}) == TEXT
    assert said(required(next={"anyOf": [{"$ref": "#"}, {"type": "null"}]})) == {
        "next": {"next": None}
    }
    assert said({**NODE, "$defs": {"Node": LEAF}}) == LEAF_VALUE


@pytest.mark.parametrize(
    "schema",
    [
        {**NODE, "$defs": {"Node": required(next=NODE)}},
        {**NODE, "$defs": {"Node": required(next={"anyOf": [NODE, required(again=NODE)]})}},
        {**NODE, "$defs": {"Node": NODE}},
    ],
)
def test_a_schema_without_end_is_refused(client: Client, schema: Document) -> None:
    response = client.post(OLLAMA.path, {**OLLAMA.asked, "format": schema})
    assert response.status_code == 400
    assert "refers to itself without end" in response.json()["error"]


def test_a_schema_too_deep_is_refused(client: Client) -> None:
    schema: Document = {"type": "string"}
    for _ in range(400):
        schema = {"type": "array", "minItems": 1, "items": schema}
    response = client.post(OLLAMA.path, {**OLLAMA.asked, "format": schema})
    assert response.status_code == 400
    assert "malformed: RecursionError" in response.json()["error"]


def with_another(asking: Format) -> Document:
    """Return the tools of *asking*, and before them the same by the name of other."""
    other = json.loads(json.dumps(asking.tools).replace('"find"', '"other"'))
    return {"tools": [*other["tools"], *asking.tools["tools"]]}


def called(answer: str) -> list[str]:
    """Return the names of the tools that are called."""
    return re.findall(r'"name": "(\w+)", "(?:arguments|args|input)"', answer)


@pytest.mark.parametrize(
    ("asking", "choice"),
    [
        (CHAT, {"tool_choice": {"type": "function", "function": {"name": "find"}}}),
        (RESPONSES, {"tool_choice": {"type": "function", "name": "find"}}),
        (ANTHROPIC, {"tool_choice": {"type": "tool", "name": "find"}}),
        (
            GOOGLE,
            {
                "toolConfig": {
                    "functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["find"]}
                }
            },
        ),
        (
            OLD_GOOGLE,
            {
                "tool_config": {
                    "function_calling_config": {"mode": 2, "allowed_function_names": ["find"]}
                }
            },
        ),
    ],
)
def test_the_tool_that_is_named_is_called_whatever_was_said(
    client: Client, asking: Format, choice: Document
) -> None:
    for body in (asking.asked, asking.answered):
        assert called(client.ask(asking, {**body, **with_another(asking), **choice})) == ["find"]


@pytest.mark.parametrize(
    ("asking", "choice"),
    [
        (CHAT, {"tool_choice": "required"}),
        (CHAT, {"tool_choice": "any"}),  # Mistral
        (RESPONSES, {"tool_choice": "required"}),
        (ANTHROPIC, {"tool_choice": {"type": "any"}}),
        (GOOGLE, {"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}}),
        (OLD_GOOGLE, {"tool_config": {"function_calling_config": {"mode": 2}}}),
        (COHERE, {"tool_choice": "REQUIRED"}),
    ],
)
def test_where_a_call_is_required_the_tools_are_called_in_turn(
    client: Client, asking: Format, choice: Document
) -> None:
    """As an agent expects whose run ends with the call of a certain one."""
    for body, name in ((asking.asked, "other"), (asking.answered, "find")):
        assert called(client.ask(asking, {**body, **with_another(asking), **choice})) == [name]


def test_a_required_call_has_tools_to_choose_from(client: Client) -> None:
    result = {"role": "tool", "content": "on the mat"}
    body = {**messages(result, result), **with_another(CHAT)}
    assert called(client.ask(CHAT, {**body, "tool_choice": "required"})) == ["other"]
    assert called(client.ask(CHAT, {**body, "tool_choice": "auto"})) == []
    assert called(client.ask(CHAT, {**CHAT.asked, "tool_choice": "required"})) == []
    unknown = {"type": "function", "function": {"name": "unknown"}}
    assert called(client.ask(CHAT, {**CHAT.asked, **CHAT.tools, "tool_choice": unknown})) == []


@pytest.mark.parametrize(
    ("path", "asked"),
    [("/v1/fim/completions", {"prompt": TEXT}), ("/v1/agents/completions", messages())],
)
@plain_and_streamed
def test_mistrals_other_completions_are_chats(
    client: Client, path: str, asked: Document, streamed: bool
) -> None:
    answer = client.ask(Format(path, asked, {}, {}, {}, {}), asked, streamed=streamed)
    assert ('"delta"' if streamed else '"message"') in answer
    assert client.gateway.usage() == {None: Usage(1, 4, 6)}


@pytest.mark.parametrize(
    ("path", "body", "problem"),
    [
        *((asking.path, [], "must be a JSON object") for asking in FORMATS),
        *(
            (asking.path, {}, "list, and not an empty one|malformed: KeyError")
            for asking in FORMATS
        ),
        *(
            (path, {"messages": []}, "messages must be a list")
            for path in ("/v1/messages", "/api/chat", "/v2/chat")
        ),
        ("/v1/messages", {"messages": [{"role": "user"}]}, "malformed: KeyError..content"),
        ("/v1/messages", {**messages(), "output_config": "json"}, "malformed: AttributeError"),
        (
            "/v1/messages",
            {"messages": [{"role": "user", "content": [{"text": 5}]}]},
            "malformed: TypeError",
        ),
        ("/v1/messages/count_tokens", {}, "messages must be a list"),
        ("/v1/responses", {"input": []}, "input must be a list"),
        ("/v1/responses", {"input": [5]}, "malformed: AttributeError"),
        ("/v1/responses", {"input": TEXT, "tools": [{}]}, "malformed: KeyError..type"),
        ("/v1/completions", {}, "prompt must be a text"),
        ("/v1/completions", {"prompt": []}, "prompt must be a text"),
        ("/v1/completions", {"prompt": 5}, "malformed: TypeError"),
        ("/serving-endpoints/x/invocations", {"inputs": [1]}, "messages must be a list"),
        (GOOGLE.path, {"contents": TEXT}, "contents must be a list"),
        (GOOGLE.path, {"contents": [{"parts": ["text"]}]}, "malformed: AttributeError"),
        (
            GOOGLE.path,
            {**contents(), "tools": [{"functionDeclarations": [{}]}]},
            "malformed: KeyError..name",
        ),
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
    assert re.search(problem, refused["message"])
    error = error_for(path, 400, refused["message"])
    assert refused == {"type": "error", "error": error, "message": refused["message"]}
    assert client.gateway.usage() == {}


def error_for(path: str, status: int, message: str) -> Any:
    if path.startswith("/api/") and path != GENERATION:
        return message
    error: Document = {
        "message": message,
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }
    if path.startswith(GEMINI):
        error.update(code=status, status={400: "INVALID_ARGUMENT", 404: "NOT_FOUND"}[status])
    return error


@pytest.mark.parametrize("path", ["/v1/other", "/api/other", f"{GEMINI}:other"])
def test_what_is_unmarked_or_unknown_is_refused_in_the_providers_shape(
    client: Client, path: str
) -> None:
    for status, marker in ((404, {}), (400, {"X-Cagent-Forward": ""})):
        response = client.post(path, {}, marker)
        assert response.status_code == status
        assert response.json()["error"] == error_for(path, status, response.json()["message"])


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
    "path",
    [
        "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21",
        "/serving-endpoints/x/invocations",
    ],
)
@plain_and_streamed
def test_azure_and_databricks_answer_as_openai_does(
    client: Client, path: str, streamed: bool
) -> None:
    answer = client.post(path, {**CHAT.asked, "stream": streamed})
    assert ("chat.completion.chunk" if streamed else "chat.completion") in answer.text
    assert client.gateway.usage() == {None: Usage(1, 4, 6)}


def test_a_completion_has_openais_shape(client: Client) -> None:
    completing = Format("/v1/completions", {"prompt": TEXT, "model": "m"}, {}, {}, {}, {})
    head = {"id": "cmpl-ID", "object": "text_completion", "created": 0, "model": "m"}
    head.update(service_tier="default", system_fingerprint="fp_0")
    usage = {"prompt_tokens": 4, "completion_tokens": 6, "total_tokens": 10}
    choice = {"index": 0, "text": SAID, "logprobs": None, "finish_reason": "stop"}
    assert client.plain(completing) == {**head, "choices": [choice], "usage": usage}
    *chunks, done, end = client.ask(completing, completing.asked, streamed=True).split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    choices = [json.loads(chunk.removeprefix("data: "))["choices"][0] for chunk in chunks]
    assert [choice["text"] for choice in choices] == [*WORDS, ""]
    assert [choice["finish_reason"] for choice in choices] == [None] * 6 + ["stop"]
    assert client.gateway.usage() == {None: Usage(2, 8, 12)}
    client.post("/serving-endpoints/x/invocations", {"prompt": TEXT})
    assert client.gateway.usage() == {None: Usage(3, 12, 18)}


@pytest.mark.parametrize(
    ("prompt", "texts", "tokens"),
    [
        (["Where is", "the cat?"], ["You said: Where is", "You said: the cat?"], 4),
        ([1, 2, 3], ["You said: 1 2 3"], 3),
        ([[1, 2], [3]], ["You said: 1 2", "You said: 3"], 3),
    ],
)
def test_a_completion_has_a_choice_for_each_prompt(
    client: Client, prompt: list[Any], texts: list[str], tokens: int
) -> None:
    completing = Format("/v1/completions", {"prompt": prompt}, {}, {}, {}, {})
    answer = client.plain(completing)
    assert [choice["text"] for choice in answer["choices"]] == texts
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(texts)))
    completion_tokens = sum(len(text.split()) for text in texts)
    assert answer["usage"]["total_tokens"] == tokens + completion_tokens
    for options in ({}, {"include_usage": True}):
        answered = client.ask(
            completing, {"prompt": prompt, "stream_options": options}, streamed=True
        )
        chunks = [json.loads(data) for data in re.findall("data: ({.+)", answered)]
        assert [chunk["usage"] for chunk in chunks if chunk.get("usage")] == [answer["usage"]]
        assert chunks[-1]["usage"]
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        said = [
            "".join(choice["text"] for choice in choices if choice["index"] == n)
            for n in range(len(texts))
        ]
        assert said == texts
        assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == [
            "stop"
        ] * len(texts)
    assert client.gateway.usage() == {None: Usage(3, 3 * tokens, 3 * completion_tokens)}


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
    head = {
        "id": "resp_ID",
        "object": "response",
        "created_at": 0,
        "status": "completed",
        "model": "m",
    }
    settings: Document = {
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "tool_choice": "auto",
        "tools": [],
    }
    return {**head, "output": [item], **settings, "usage": usage, **more}


PART = {"type": "output_text", "text": SAID, "annotations": [], "logprobs": []}
MESSAGE_ITEM = {
    "id": "msg_ID",
    "status": "completed",
    "type": "message",
    "role": "assistant",
    "content": [PART],
}
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
    assert client.plain(RESPONSES, model="m", **RESPONSES.tools) == response_of(
        CALL_ITEM, **RESPONSES.tools
    )


def test_a_response_says_which_one_it_follows(client: Client) -> None:
    assert (
        client.plain(RESPONSES, previous_response_id="resp_1")["previous_response_id"] == "resp_1"
    )


def test_a_streamed_response_has_openais_events(client: Client) -> None:
    events = typed(client.events(RESPONSES, model="m"))
    assert [event.pop("sequence_number") for event in events] == list(range(len(events)))
    (
        created,
        in_progress,
        item_added,
        part_added,
        *deltas,
        text_done,
        part_done,
        item_done,
        completed,
    ) = events
    begun = response_of(MESSAGE_ITEM, status="in_progress", output=[], usage=None)
    assert created == {"type": "response.created", "response": begun}
    assert in_progress == {"type": "response.in_progress", "response": begun}
    empty = {**MESSAGE_ITEM, "status": "in_progress", "content": []}
    assert item_added == {"type": "response.output_item.added", "output_index": 0, "item": empty}
    place = {"item_id": "msg_ID", "output_index": 0, "content_index": 0}
    assert part_added == {
        "type": "response.content_part.added",
        **place,
        "part": {**PART, "text": ""},
    }
    assert deltas == [
        {"type": "response.output_text.delta", **place, "delta": word, "logprobs": []}
        for word in WORDS
    ]
    assert text_done == {"type": "response.output_text.done", **place, "text": SAID, "logprobs": []}
    assert part_done == {"type": "response.content_part.done", **place, "part": PART}
    assert item_done == {
        "type": "response.output_item.done",
        "output_index": 0,
        "item": MESSAGE_ITEM,
    }
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
    assert completed == {
        "type": "response.completed",
        "response": response_of(CALL_ITEM, **RESPONSES.tools),
    }


def test_a_response_takes_back_its_own_items(client: Client) -> None:
    """As clients send them that keep the conversation themselves."""
    items = [
        USER,
        MESSAGE_ITEM,
        {"role": "user", "content": [{"type": "input_text", "text": "And now?"}]},
    ]
    (item,) = client.plain(RESPONSES, input=items)["output"]
    assert item["content"][0]["text"] == "You said: And now?"
    assert client.gateway.calls[0].prompt_tokens == 4 + 6 + 2
    (item,) = client.plain(RESPONSES, input=[USER, CALL_ITEM], **RESPONSES.tools)["output"]
    assert json.loads(item["arguments"]) == ARGUMENTS


@pytest.mark.parametrize(
    ("given", "tokens"),
    [(TEXT, 4), ([TEXT, "a b", ""], 6), ([1, 2, 3], 3), ([[1, 2, 3], [4]], 4), ("\udc80", 1)],
)
def test_embeddings_have_openais_shape(client: Client, given: Any, tokens: int) -> None:
    answer = client.post("/v1/embeddings", {"input": given, "model": "m"}).json()
    assert answer.pop("id").startswith("embd-")
    data = answer.pop("data")
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    assert answer == {"object": "list", "model": "m", "usage": usage}
    count = len(given) if isinstance(given, list) and not isinstance(given[0], int) else 1
    assert [(each["object"], each["index"]) for each in data] == [
        ("embedding", index) for index in range(count)
    ]
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
    figures = struct.unpack(
        "<8f", base64.b64decode(embedding_of(client, encoding_format="base64"), validate=True)
    )
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
    called = {
        "content": [TOOL_USE],
        **stop,
        "stop_reason": "tool_use",
        "usage": {**usage, "output_tokens": 4},
    }
    assert client.plain(ANTHROPIC, model="m", **ANTHROPIC.tools) == {**ANTHROPIC_HEAD, **called}


@pytest.mark.parametrize(
    ("tools", "start", "deltas", "stop_reason"),
    [
        (
            {},
            {"type": "text", "text": ""},
            [{"type": "text_delta", "text": word} for word in WORDS],
            "end_turn",
        ),
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
        {
            "type": "message_start",
            "message": {**ANTHROPIC_HEAD, "content": [], **stop, "usage": usage},
        },
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
    answer = client.plain(
        ANTHROPIC, messages=[{"role": "user", "content": blocks}], **ANTHROPIC.tools
    )
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
    return {
        **GOOGLE_HEAD,
        "candidates": [{**candidate, "finishReason": "STOP"}],
        "usageMetadata": usage,
    }


GOOGLE_CALL = google_piece(
    {"functionCall": {"name": "find", "args": ARGUMENTS}},
    {"promptTokenCount": 4, "candidatesTokenCount": 4, "totalTokenCount": 8},
)


def test_content_has_geminis_shape(client: Client) -> None:
    assert client.plain(GOOGLE) == google_piece({"text": SAID}, GOOGLE_USAGE)
    assert (
        client.plain(GOOGLE, **GOOGLE.tools)
        == client.plain(OLD_GOOGLE, **OLD_GOOGLE.tools)
        == GOOGLE_CALL
    )


def test_parameters_are_filled_where_google_has_numbers_for_their_types(client: Client) -> None:
    values = {1: TEXT, 2: 0, 3: 0, 4: False, 5: [], 6: {}}
    properties = {f"of type {kind}": {"type": kind} for kind in values}
    function = {
        "name": "find",
        "parameters": {"type": 6, "properties": properties, "required": list(properties)},
    }
    (candidate,) = client.plain(OLD_GOOGLE, tools=[{"function_declarations": [function]}])[
        "candidates"
    ]
    arguments = {f"of type {kind}": value for kind, value in values.items()}
    assert json.dumps(candidate["content"]["parts"][0]["functionCall"]["args"]) == json.dumps(
        arguments
    )


def test_streamed_content_is_events_or_a_list(client: Client) -> None:
    pieces = [google_piece({"text": word}) for word in WORDS[:-1]] + [
        google_piece({"text": WORDS[-1]}, GOOGLE_USAGE)
    ]
    assert unnamed(client.events(GOOGLE)) == pieces
    assert json.loads(client.ask(OLD_GOOGLE, OLD_GOOGLE.asked, streamed=True)) == pieces
    assert unnamed(client.events(GOOGLE, **GOOGLE.tools)) == [GOOGLE_CALL]
    assert json.loads(
        client.ask(OLD_GOOGLE, {**OLD_GOOGLE.asked, **OLD_GOOGLE.tools}, streamed=True)
    ) == [GOOGLE_CALL]


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
    assert client.post(f"{GEMINI}:embedContent", asked).json() == {
        "embedding": same,
        "usageMetadata": usage,
    }
    other = {"values": embedding_of(client, dimensions=2)}
    both = {"requests": [asked, {**asked, "outputDimensionality": 2}]}
    usage = {"promptTokenCount": 2 * len(TEXT.split())}
    answer = client.post(f"{GEMINI}:batchEmbedContents", both).json()
    assert answer == {"embeddings": [same, other], "usageMetadata": usage}


def test_geminis_tokens_are_counted_and_not_billed(client: Client) -> None:
    system = {"systemInstruction": {"parts": [{"text": "Be brief."}]}}
    assert client.post(f"{GEMINI}:countTokens", contents()).json() == {"totalTokens": 4}
    asked = {"generateContentRequest": {**contents(), **system}}
    assert client.post(f"{GEMINI}:countTokens", asked).json() == {"totalTokens": 6}
    assert client.gateway.usage() == {None: Usage(2, 0, 0)}


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
    generating = Format("/api/generate", {"model": "m", "prompt": TEXT}, {}, {}, {}, {})
    assert client.plain(generating, stream=False) == {**OLLAMA_HEAD, "response": SAID, **OLLAMA_END}
    *pieces, last = map(json.loads, client.ask(generating, generating.asked).splitlines())
    assert pieces == [{**OLLAMA_HEAD, "response": word, "done": False} for word in WORDS]
    assert last == {**OLLAMA_HEAD, "response": "", **OLLAMA_END}
    assert client.gateway.usage() == {None: Usage(2, 8, 12)}
    assert client.plain(generating, stream=False, system="Be brief.")["prompt_eval_count"] == 6


def test_embeddings_have_ollamas_shape(client: Client) -> None:
    answer = client.post(
        "/api/embed", {"model": "m", "input": [TEXT, "other"], "dimensions": 2}
    ).json()
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
    assert client.plain(COHERE, **COHERE.tools) == {
        "id": "ID",
        "message": called,
        **cohere_end("TOOL_CALL", 4),
    }


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
    client: Client,
    tools: Document,
    kind: str,
    start: Document,
    deltas: list[Document],
    finish_reason: str,
) -> None:
    assert typed(client.events(COHERE, **tools)) == [
        {"type": "message-start", "id": "ID", "delta": {"message": {"role": "assistant"}}},
        {"type": f"{kind}-start", "index": 0, "delta": {"message": start}},
        *({"type": f"{kind}-delta", "index": 0, "delta": {"message": delta}} for delta in deltas),
        {"type": f"{kind}-end", "index": 0},
        {"type": "message-end", "delta": cohere_end(finish_reason, len(deltas))},
    ]


def generated(
    finish_reason: str, text: str, call: Document | None = None, *, as_message: bool = True
) -> Document:
    """Return what DashScope's own API answers."""
    tokens = 4 if call else 6
    usage = {"input_tokens": 4, "output_tokens": tokens, "total_tokens": 4 + tokens}
    message = {"role": "assistant", "content": text, **({"tool_calls": [call]} if call else {})}
    output: Document = {"choices": [{"finish_reason": finish_reason, "message": message}]}
    if not as_message:
        output = {"text": text, "finish_reason": finish_reason}
    return {"output": output, "usage": usage, "request_id": "ID"}


@pytest.mark.parametrize(
    "asked", [{"input": {"prompt": TEXT}}, {"input": messages()}], ids=["prompt", "messages"]
)
def test_a_generation_has_dashscopes_shape(client: Client, asked: Document) -> None:
    assert client.plain(DASHSCOPE, **asked) == generated("stop", SAID, as_message=False)
    assert client.plain(DASHSCOPE, **asked, parameters={"result_format": "message"}) == generated(
        "stop", SAID
    )
    called = generated("tool_calls", "", CHAT_CALL)
    assert client.plain(DASHSCOPE, **asked, **DASHSCOPE.tools) == called
    assert client.plain(DASHSCOPE, **asked, parameters={"tools": [CHAT_TOOL]}) == called


@pytest.mark.parametrize(
    "headers", [{"X-DashScope-SSE": "enable"}, {"Accept": "text/event-stream"}]
)
def test_a_streamed_generation_tells_all_so_far_or_what_is_new(
    client: Client, headers: dict[str, str]
) -> None:
    asking = Format(GENERATION, DASHSCOPE.asked, {}, {}, {}, {}, stream={}, stream_headers=headers)

    def events(**parameters: Any) -> list[Document]:
        named = client.events(asking, parameters=parameters)
        assert {name for name, _ in named} == {"result"}
        return [document for _, document in named]

    so_far = ["".join(WORDS[:count]) for count in range(1, 7)]
    reasons = ["null"] * 5 + ["stop"]
    assert events() == [
        generated(*each, as_message=False) for each in zip(reasons, so_far, strict=True)
    ]
    new = [generated(*each) for each in zip(reasons, WORDS, strict=True)]
    assert events(result_format="message", incremental_output=True) == new
    assert events(tools=[CHAT_TOOL]) == [generated("tool_calls", "", CHAT_CALL)]


@each_format
def test_a_client_that_hangs_up_does_no_harm(
    client: Client,
    asking: Format,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
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
