"""Tests of the models gateway's default answers: their formats, and the tokens billed."""

from __future__ import annotations

import base64
import json
import math
import re
import struct
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import requests
from botocore.eventstream import EventStreamBuffer

from cagent_session import gateway_headers, mount
from cagent_session.testing import ModelsGateway, Usage

Document = dict[str, Any]

ANSWERS = Path(__file__).with_name("answers.txt")  # the raw answers of the gateway

TEXT = "Where is  the\ncat?"
ECHO = f"You said: {TEXT}"
ECHO_WORDS = ["You ", "said: ", "Where ", "is  ", "the\n", "cat?"]
ARGUMENTS = {"what": TEXT}
ARGUMENTS_JSON = json.dumps(ARGUMENTS)
ARGUMENTS_WORDS = ['{"what": ', '"Where ', "is  ", 'the\\ncat?"}']
RESULT_WORDS = ["The ", "tool ", "said: ", "on ", "the ", "mat"]
SCHEMA = {"type": "object", "properties": {"what": {"type": "string"}}, "required": ["what"]}
OLD_GOOGLE_SCHEMA = {"type": 6, "properties": {"what": {"type": 1}}, "required": ["what"]}
FUNCTION = {"name": "find", "parameters": SCHEMA}
CHAT_TOOL = {"type": "function", "function": FUNCTION}
AS_JSON = {
    "response_format": {"type": "json_schema", "json_schema": {"name": "Found", "schema": SCHEMA}}
}
USER = {"role": "user", "content": TEXT}
WITH_SYSTEM = {"messages": [{"role": "system", "content": "Be brief."}, USER]}
GEMINI = "/v1beta/models/gemini-2.0-flash"
EVENT_FRAMES = "application/vnd.amazon.eventstream"
MODEL = "/model/arn%3Aaws%3Abedrock%3Aeu-west-1%3A123%3Ainference-profile%2Feu.model-v1%3A0"
GENERATION = "/api/v1/services/aigc/text-generation/generation"


@dataclass(frozen=True)
class Api:
    """An API: its path, and the parts of a request's body."""

    path: str
    question: Document
    with_result: Document = field(default_factory=dict)  # the question and a tool's result
    with_system: Document = field(default_factory=dict)  # the question and a system's message
    tools: Document = field(default_factory=dict)
    no_tool: Document = field(default_factory=dict)  # forbids to call a tool
    as_json: Document = field(default_factory=dict)  # asks for JSON that fits SCHEMA
    stream: Document = field(default_factory=lambda: {"stream": True})
    stream_path: str = ""
    stream_headers: dict[str, str] = field(default_factory=dict)


def messages(*more: Document) -> Document:
    return {"messages": [USER, *more]}


def contents(*more: Document) -> Document:
    """Return the messages in Gemini's format."""
    parts = [[{"text": TEXT}], *([part] for part in more)]
    return {"contents": [{"role": "user", "parts": each} for each in parts]}


CHAT = Api(
    "/v1/chat/completions",
    messages(),
    messages({"role": "tool", "tool_call_id": "call_1", "content": "on the mat"}),
    WITH_SYSTEM,
    {"tools": [{"type": "custom", "custom": {"name": "search"}}, CHAT_TOOL]},
    {"tool_choice": "none"},
    AS_JSON,
)
RESPONSES = Api(
    "/v1/responses",
    {"input": TEXT},
    {"input": [USER, {"type": "function_call_output", "call_id": "1", "output": "on the mat"}]},
    {"input": TEXT, "instructions": "Be brief."},
    {"tools": [{"type": "web_search"}, {"type": "function", **FUNCTION}]},
    {"tool_choice": "none"},
    {"text": {"format": {"type": "json_schema", "name": "Found", "schema": SCHEMA}}},
)
ANTHROPIC_RESULT = {"type": "tool_result", "content": [{"type": "text", "text": "on the mat"}]}
ANTHROPIC = Api(
    "/v1/messages",
    messages(),
    messages({"role": "user", "content": [ANTHROPIC_RESULT]}),
    {**messages(), "system": [{"type": "text", "text": "Be brief."}]},
    {
        "tools": [
            {"type": "web_search_1", "name": "search"},
            {"name": "find", "input_schema": SCHEMA},
        ]
    },
    {"tool_choice": {"type": "none"}},
    {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
)
INVOKE = replace(
    ANTHROPIC,
    path=f"{MODEL}/invoke",
    stream={},
    stream_path=f"{MODEL}/invoke-with-response-stream",
)


def converse_messages(*more: Document) -> Document:
    """Return the messages in the format of Bedrock's Converse."""
    contents = [[{"text": TEXT}], *([block] for block in more)]
    return {"messages": [{"role": "user", "content": content} for content in contents]}


def converse_result(**block: Any) -> Document:
    return {"toolResult": {"toolUseId": "1", "content": [block, {"image": {"format": "png"}}]}}


CONVERSE_TOOL = {"toolSpec": {"name": "find", "inputSchema": {"json": SCHEMA}}}
JSON_SCHEMA = {"jsonSchema": {"schema": json.dumps(SCHEMA)}}
CONVERSE = Api(
    f"{MODEL}/converse",
    converse_messages(),
    converse_messages(converse_result(text="on the mat")),
    {**converse_messages(), "system": [{"text": "Be brief."}, {"cachePoint": {"type": "default"}}]},
    {"toolConfig": {"tools": [{"systemTool": {"name": "search"}}, CONVERSE_TOOL]}},
    {"toolConfig": {}},  # Bedrock has no other way to forbid tools
    {"outputConfig": {"textFormat": {"type": "json_schema", "structure": JSON_SCHEMA}}},
    stream={},
    stream_path=f"{MODEL}/converse-stream",
)
GOOGLE = Api(
    f"{GEMINI}:generateContent",
    contents(),
    contents({"functionResponse": {"name": "find", "response": {"result": "on the mat"}}}),
    {**contents(), "systemInstruction": {"parts": [{"text": "Be brief."}]}},
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
# google-generativeai writes names in snake_case. Types and modes are numbers.
OLD_GOOGLE = replace(
    GOOGLE,
    with_result=contents(
        {"function_response": {"name": "find", "response": {"result": "on the mat"}}}
    ),
    tools={
        "tools": [{"function_declarations": [{"name": "find", "parameters": OLD_GOOGLE_SCHEMA}]}]
    },
    no_tool={"tool_config": {"function_calling_config": {"mode": 3}}},
    as_json={
        "generation_config": {
            "response_mime_type": "application/json",
            "response_schema": OLD_GOOGLE_SCHEMA,
        }
    },
    stream_path=f"{GEMINI}:streamGenerateContent",
)
OLLAMA = Api(
    "/api/chat",
    {**messages(), "stream": False},
    {**messages({"role": "tool", "tool_name": "find", "content": "on the mat"}), "stream": False},
    {**WITH_SYSTEM, "stream": False},
    {"tools": [CHAT_TOOL]},
    {"tools": []},  # Ollama has no other way to forbid tools
    {"format": SCHEMA},
)
COHERE = Api(
    "/v2/chat",
    messages(),
    messages(
        {"role": "tool", "content": [{"type": "document", "document": {"data": "on the mat"}}]}
    ),
    WITH_SYSTEM,
    {"tools": [CHAT_TOOL]},
    {"tool_choice": "NONE"},
    {"response_format": {"type": "json_object", "json_schema": SCHEMA}},
)
DASHSCOPE = Api(
    GENERATION,
    {"input": messages()},
    {"input": messages({"role": "tool", "content": "on the mat"})},
    {"input": WITH_SYSTEM},
    {"parameters": {"result_format": "message", "tools": [CHAT_TOOL]}},
    {"parameters": {"tools": [CHAT_TOOL], "tool_choice": "none"}},
    {"parameters": AS_JSON},
    stream={},
    stream_headers={"X-DashScope-SSE": "enable"},
)
COMPLETIONS = Api("/v1/completions", {"prompt": TEXT})
GENERATE = Api("/api/generate", {"prompt": TEXT, "stream": False})
APIS = {
    "chat": CHAT,
    "responses": RESPONSES,
    "anthropic": ANTHROPIC,
    "invoke": INVOKE,
    "converse": CONVERSE,
    "google": GOOGLE,
    "old google": OLD_GOOGLE,
    "ollama": OLLAMA,
    "cohere": COHERE,
    "dashscope": DASHSCOPE,
}
each_api = pytest.mark.parametrize("api", APIS.values(), ids=APIS)
plain_and_streamed = pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])


class Client:
    """Calls the gateway. In the answers, it replaces generated IDs by ID and times by 0."""

    def __init__(self, gateway: ModelsGateway, http: requests.Session) -> None:
        self.gateway, self.http = gateway, http

    def post(
        self, path: str, body: Any, headers: dict[str, str] | None = None
    ) -> requests.Response:
        return self.http.post(self.gateway.url + path, json=body, headers=headers, timeout=10)

    def ask(self, api: Api, body: Document, *, streamed: bool = False) -> str:
        """Return the text of the answer."""
        if streamed:
            path = api.stream_path or api.path
            response = self.post(path, {**body, **api.stream}, api.stream_headers)
        else:
            response = self.post(api.path, body)
        assert response.status_code == 200, response.text
        has_frames = response.headers["Content-Type"] == EVENT_FRAMES
        text = text_of_frames(response.content) if has_frames else response.text
        masked = re.sub(r"[0-9a-f]{32}", "ID", text)
        return re.sub(r'"(created|created_at)": ("[^"]+"|\d+)', r'"\1": 0', masked)

    def plain(self, api: Api, **more: Any) -> Document:
        document = json.loads(self.ask(api, {**api.question, **more}))
        assert isinstance(document, dict)
        return document

    def chunks(self, api: Api, **more: Any) -> list[Document]:
        """Return the documents of a streamed completion, without its end, ``[DONE]``."""
        text = self.ask(api, {**api.question, **more}, streamed=True)
        *events, done, end = text.split("\n\n")
        assert (done, end) == ("data: [DONE]", "")
        return [json.loads(event.removeprefix("data: ")) for event in events]


def text_of_frames(frames: bytes) -> str:
    """Return the events of Bedrock's streams as text. A wrong checksum raises an error."""
    buffer = EventStreamBuffer()
    buffer.add_data(frames)
    lines = []
    for event in buffer:
        fields = {name.removeprefix(":"): value for name, value in event.headers.items()}
        document = json.loads(event.payload)
        if fields["event-type"] == "chunk":
            fields["chunk"] = json.loads(base64.b64decode(document.pop("bytes")))
        lines.append(json.dumps({**fields, **document}))
    return "\n".join(lines)


@pytest.fixture
def client(models_gateway: ModelsGateway, gateway_session: requests.Session) -> Client:
    return Client(models_gateway, gateway_session)


def answer_cases() -> dict[str, tuple[Api, Document]]:
    """Return an API and the additional parts of a request, for each kind of answer."""
    incremental = {"parameters": {"result_format": "message", "incremental_output": True}}
    return {
        **{f"{name}, echo": (api, {}) for name, api in APIS.items()},
        **{f"{name}, tool call": (api, api.tools) for name, api in APIS.items()},
        "chat, include_usage": (CHAT, {"stream_options": {"include_usage": True}}),
        "completions, echo": (COMPLETIONS, {}),
        "dashscope, incremental": (DASHSCOPE, incremental),
        "generate, echo": (GENERATE, {}),
    }


def all_answers(client: Client) -> str:
    """Return the answers to all cases, plain and streamed, each after a line with its name."""
    answers = []
    for name, (api, more) in answer_cases().items():
        for streamed in (False, True):
            kind = "streamed" if streamed else "plain"
            text = client.ask(api, {**api.question, "model": "m", **more}, streamed=streamed)
            answers.append(f"== {name}, {kind}\n{text}\n")
    return "\n".join(answers)


def test_the_answers_have_the_formats_of_the_providers(client: Client) -> None:
    """To renew the file, run ``python tests/unit/test_answers.py`` and check its changes."""
    assert all_answers(client).split("== ") == ANSWERS.read_text("utf-8").split("== ")


def called_tools(answer: str) -> list[str]:
    """Return the names of the tools that *answer* calls."""
    following = r', "(?:arguments|args|input)"|}}, "contentBlockIndex"'
    return re.findall(rf'"name": "(\w+)"(?:{following})', answer)


@each_api
@plain_and_streamed
@pytest.mark.parametrize(
    ("parts", "pieces", "calls", "tokens"),
    [
        pytest.param(["question"], ECHO_WORDS, set(), (4, 6), id="echo"),
        pytest.param(["with_system"], ECHO_WORDS, set(), (6, 6), id="system message"),
        pytest.param(["question", "tools"], [], {"find"}, (4, 4), id="tool call"),
        pytest.param(["with_result", "tools"], RESULT_WORDS, set(), (7, 6), id="tool result"),
        pytest.param(["question", "tools", "no_tool"], ECHO_WORDS, set(), (4, 6), id="no tool"),
        pytest.param(["question", "as_json"], ARGUMENTS_WORDS, set(), (4, 4), id="JSON"),
    ],
)
def test_each_api_answers_as_the_request_asks_and_bills_the_tokens(
    client: Client,
    api: Api,
    streamed: bool,
    parts: list[str],
    pieces: list[str],
    calls: set[str],
    tokens: tuple[int, int],
) -> None:
    body = {name: value for part in parts for name, value in getattr(api, part).items()}
    answer = client.ask(api, body, streamed=streamed)
    assert all(json.dumps(piece)[1:-1] in answer for piece in pieces)
    assert set(called_tools(answer)) == calls
    assert ("said: " in answer) == (pieces in (ECHO_WORDS, RESULT_WORDS))
    assert client.gateway.usage() == {None: Usage(1, *tokens)}


ANY_JSON = {"type": "json_object"}


@pytest.mark.parametrize(
    ("api", "more", "text"),
    [
        # A schema under its other names
        (CHAT, {"response_format": {"type": "json_schema", "schema": SCHEMA}}, ARGUMENTS_JSON),
        (CHAT, {"response_format": {**ANY_JSON, "value": SCHEMA}}, ARGUMENTS_JSON),
        (COHERE, {"response_format": {**ANY_JSON, "schema": SCHEMA}}, ARGUMENTS_JSON),
        (ANTHROPIC, {"output_format": {"type": "json_schema", "schema": SCHEMA}}, ARGUMENTS_JSON),
        (
            GOOGLE,
            {"generationConfig": {"responseSchema": {**SCHEMA, "type": "OBJECT"}}},
            ARGUMENTS_JSON,
        ),
        (GOOGLE, {"generationConfig": {"response_json_schema": SCHEMA}}, ARGUMENTS_JSON),
        (GENERATE, {"format": SCHEMA}, ARGUMENTS_JSON),
        # Any JSON
        (CHAT, {"response_format": ANY_JSON}, "{}"),
        (CHAT, {"response_format": {**ANY_JSON, "json_schema": None}}, "{}"),
        (RESPONSES, {"text": {"format": ANY_JSON}}, "{}"),
        (GOOGLE, {"generationConfig": {"responseMimeType": "application/json"}}, "{}"),
        (OLLAMA, {"format": "json"}, "{}"),
        (COHERE, {"response_format": ANY_JSON}, "{}"),
        (DASHSCOPE, {"parameters": {"response_format": ANY_JSON}}, "{}"),
        # No JSON
        (CHAT, {"response_format": {"type": "text"}}, ECHO),
        (RESPONSES, {"text": {"format": {"type": "text"}, "verbosity": "low"}}, ECHO),
        (RESPONSES, {"text": {"verbosity": "low"}}, ECHO),
        (GOOGLE, {"generationConfig": {"responseMimeType": "text/plain"}}, ECHO),
        (OLLAMA, {"format": ""}, ECHO),
    ],
)
def test_the_output_format_decides_between_json_and_text(
    client: Client, api: Api, more: Document, text: str
) -> None:
    assert json.dumps(text) in client.ask(api, {**api.question, **more})
    assert client.gateway.calls[0].completion_tokens == len(text.split())


def test_the_answer_is_json_after_the_tools_result(client: Client) -> None:
    called = client.plain(CHAT, **CHAT.tools, **AS_JSON)
    answered = client.plain(CHAT, **CHAT.with_result, **CHAT.tools, **AS_JSON)
    assert called["choices"][0]["finish_reason"] == "tool_calls"
    assert answered["choices"][0]["message"] == {"role": "assistant", "content": ARGUMENTS_JSON}


LEAF = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "size": {"type": "number"}},
    "required": ["name"],
}
LEAF_VALUE = {"name": TEXT}
NODE = {"$ref": "#/$defs/Node"}
NODE_VALUE: Document = {"next": None, "children": []}


def required(**properties: Any) -> Document:
    """Return the schema of an object that must have these *properties*."""
    return {"type": "object", "properties": properties, "required": list(properties)}


DEFS = {
    "Leaf": LEAF,
    "Node": required(
        next={"anyOf": [NODE, {"type": "null"}]}, children={"type": "array", "items": NODE}
    ),
    "Chain": required(next={"oneOf": [{"$ref": "#/$defs/Link"}, {"type": "null"}]}),
    "Link": required(back={"allOf": [{"$ref": "#/$defs/Chain"}]}),
    "Nullable": required(next={"$ref": "#/$defs/Nullable", "nullable": True}),
}


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
        ({"type": "number"}, 0),
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
        ({"type": "array"}, []),
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
        (NODE, NODE_VALUE),
        ({"$ref": "#/$defs/Chain"}, {"next": None}),
        ({"$ref": "#/$defs/Nullable"}, {"next": None}),
        (required(a=NODE, b=NODE), {"a": NODE_VALUE, "b": NODE_VALUE}),
    ],
)
def test_a_value_fits_its_schema(client: Client, schema: Any, value: Any) -> None:
    asked = {"name": "Any", "schema": {**required(it=schema), "$defs": DEFS}}
    answer = client.plain(CHAT, response_format={"type": "json_schema", "json_schema": asked})
    # Compared as text, because False == 0.
    assert answer["choices"][0]["message"]["content"] == json.dumps({"it": value})


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "ARRAY", "items": LEAF, "minItems": "1"}, [LEAF_VALUE]),
        ({"anyOf": [{"type": "STRING"}]}, TEXT),
        (required(next={"anyOf": [{"$ref": "#"}, {"type": "null"}]}), {"next": {"next": None}}),
        ({**NODE, "$defs": {"Node": LEAF}}, LEAF_VALUE),
    ],
)
def test_a_schema_need_not_be_an_object_and_may_refer_to_its_root(
    client: Client, schema: Document, value: Any
) -> None:
    answer = client.plain(GOOGLE, generationConfig={"responseSchema": schema})
    assert json.loads(answer["candidates"][0]["content"]["parts"][0]["text"]) == value


def nested_arrays(depth: int) -> Document:
    schema: Document = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "minItems": 1, "items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({**NODE, "$defs": {"Node": NODE}}, "refers to itself without end"),
        ({**NODE, "$defs": {"Node": required(next=NODE)}}, "refers to itself without end"),
        (
            {**NODE, "$defs": {"Node": required(next={"anyOf": [NODE, required(again=NODE)]})}},
            "refers to itself without end",
        ),
        (nested_arrays(400), "malformed: RecursionError"),
    ],
)
def test_an_endless_or_too_deep_schema_is_refused(
    client: Client, schema: Document, problem: str
) -> None:
    response = client.post(OLLAMA.path, {**OLLAMA.question, "format": schema})
    assert response.status_code == 400
    assert problem in response.json()["error"]


def doubling(keyword: str) -> Document:
    """Return a schema of 40 levels. Each has the one below twice, so there are 2**40 values."""

    def level(ref: Document) -> Document:
        if keyword == "properties":
            return {"required": ["a", "b"], "properties": {"a": ref, "b": ref}}
        return {keyword: [ref, ref]}

    refs = [{"$ref": f"#/$defs/{number}"} for number in range(41)]
    defs = {str(number): level(refs[number + 1]) for number in range(40)}
    last = {"$ref": "#/$defs/0"} if keyword == "anyOf" else {"type": "object"}
    return {"$defs": {**defs, "40": last}, "allOf": refs[:1]}


def array(items: Any, number: Any) -> Document:
    return required(x={"type": "array", "minItems": number, "items": items})


TOO_LARGE = "asks for a value that is too large"


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        *((doubling(keyword), TOO_LARGE) for keyword in ("properties", "anyOf", "allOf")),
        (array({"type": "string"}, 10_000_000), TOO_LARGE),
        (array(array({}, 1000), 1000), TOO_LARGE),
        (array({"const": "x" * 10_000}, 10_000), TOO_LARGE),
        (array({"enum": [{"a": "x" * 10_000}]}, 10_000), TOO_LARGE),
        (array({"anyOf": [{}] * 50_000}, 1_000_000), TOO_LARGE),
        (array({"type": ["string"] * 50_000}, 1_000_000), TOO_LARGE),
        ({"type": "object", "required": ["x"] * 1_000_000}, TOO_LARGE),
        (array({}, math.inf), "OverflowError"),
        (array({}, math.nan), "ValueError"),
        (array({}, -1), "ValueError"),
        (required(x={"type": "number", "minimum": math.inf}), "ValueError"),
        (required(x={"const": math.nan}), "ValueError"),
    ],
)
def test_a_schema_that_asks_for_too_much_is_refused_at_once(
    client: Client, schema: Document, problem: str
) -> None:
    for api in (CHAT, OLLAMA):
        form = {"type": "json_schema", "json_schema": {"schema": schema}}
        more = {"format": schema} if api is OLLAMA else {"response_format": form}
        body = json.dumps({**api.question, **more})
        response = client.http.post(client.gateway.url + api.path, data=body, timeout=30)
        assert response.status_code == 400  # without a limit, the answer takes minutes
        assert problem in response.json()["message"]


def test_a_large_schema_is_answered(client: Client) -> None:
    schema = {"allOf": [{"type": "object", "required": [f"k{number}"]} for number in range(5000)]}
    answer = client.plain(OLLAMA, format=schema)
    assert len(json.loads(answer["message"]["content"])) == 5000


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/completions", "/api/embed"])
def test_too_many_texts_are_refused(client: Client, path: str) -> None:
    response = client.post(path, {"input": ["a"] * 2049, "prompt": ["a"] * 2049})
    assert response.status_code == 400
    assert "may have at most 2048 texts, not 2049" in response.json()["message"]


def other_tool_first(api: Api) -> Document:
    """Return the tools of *api* twice: first under the name "other", then under "find"."""
    other = json.loads(json.dumps(api.tools).replace('"find"', '"other"'))
    return {"tools": [*other["tools"], *api.tools["tools"]]}


NAMED_BY_GOOGLE = {"mode": "ANY", "allowedFunctionNames": ["find"]}
NAMED_BY_OLD_GOOGLE = {"mode": 2, "allowed_function_names": ["find"]}
NAMED, EACH_IN_TURN = ["find", "find"], ["other", "find"]


@pytest.mark.parametrize(
    ("api", "choice", "tools"),
    [
        (CHAT, {"tool_choice": {"type": "function", "function": {"name": "find"}}}, NAMED),
        (RESPONSES, {"tool_choice": {"type": "function", "name": "find"}}, NAMED),
        (ANTHROPIC, {"tool_choice": {"type": "tool", "name": "find"}}, NAMED),
        (GOOGLE, {"toolConfig": {"functionCallingConfig": NAMED_BY_GOOGLE}}, NAMED),
        (OLD_GOOGLE, {"tool_config": {"function_calling_config": NAMED_BY_OLD_GOOGLE}}, NAMED),
        (CHAT, {"tool_choice": "required"}, EACH_IN_TURN),
        (CHAT, {"tool_choice": "any"}, EACH_IN_TURN),  # Mistral
        (RESPONSES, {"tool_choice": "required"}, EACH_IN_TURN),
        (ANTHROPIC, {"tool_choice": {"type": "any"}}, EACH_IN_TURN),
        (GOOGLE, {"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}}, EACH_IN_TURN),
        (OLD_GOOGLE, {"tool_config": {"function_calling_config": {"mode": 2}}}, EACH_IN_TURN),
        (COHERE, {"tool_choice": "REQUIRED"}, EACH_IN_TURN),
    ],
)
def test_a_required_call_is_made_even_after_a_tools_result(
    client: Client, api: Api, choice: Document, tools: list[str]
) -> None:
    """If the request names no tool, the tools take turns. One of them may end an agent's run."""
    bodies = [
        {**body, **other_tool_first(api), **choice} for body in (api.question, api.with_result)
    ]
    assert [called_tools(client.ask(api, body)) for body in bodies] == [[tool] for tool in tools]


@pytest.mark.parametrize(
    ("choice", "tools"), [({"tool": {"name": "find"}}, NAMED), ({"any": {}}, EACH_IN_TURN)]
)
def test_converse_requires_a_call_in_a_format_of_its_own(
    client: Client, choice: Document, tools: list[str]
) -> None:
    other = {"toolSpec": {**CONVERSE_TOOL["toolSpec"], "name": "other"}}
    config = {"toolConfig": {"tools": [other, CONVERSE_TOOL], "toolChoice": choice}}
    bodies = [{**body, **config} for body in (CONVERSE.question, CONVERSE.with_result)]
    assert [called_tools(client.ask(CONVERSE, body)) for body in bodies] == [[t] for t in tools]


@pytest.mark.parametrize(
    ("more", "choice", "tools"),
    [
        (other_tool_first(CHAT), "required", ["other"]),
        (other_tool_first(CHAT), "auto", []),
        ({}, "required", []),
        (CHAT.tools, {"type": "function", "function": {"name": "unknown"}}, []),
    ],
)
def test_only_a_tool_that_is_offered_is_called(
    client: Client, more: Document, choice: Any, tools: list[str]
) -> None:
    result = {"role": "tool", "content": "on the mat"}
    body = {**messages(result, result), **more, "tool_choice": choice}
    assert called_tools(client.ask(CHAT, body)) == tools


def test_a_tool_without_parameters_is_called_with_an_empty_object(client: Client) -> None:
    tool = {"type": "function", "function": {"name": "look"}}
    (call,) = client.plain(CHAT, tools=[tool])["choices"][0]["message"]["tool_calls"]
    assert call["function"] == {"name": "look", "arguments": "{}"}


def test_a_strings_value_is_the_last_message_of_the_user(client: Client) -> None:
    said = [{"role": "user", "content": "first"}, {"role": "user", "content": "last"}]
    answer = client.plain(CHAT, messages=[*said, {"role": "assistant"}], **CHAT.tools)
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"what": "last"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/chat/completions", messages()),
        ("/proxy/openai/v1/chat/completions", messages()),
        ("/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21", messages()),  # Azure
        ("/serving-endpoints/x/invocations", messages()),  # Databricks
        ("/v1/fim/completions", {"prompt": TEXT}),  # Mistral
        ("/v1/agents/completions", messages()),  # Mistral
    ],
)
@plain_and_streamed
def test_other_paths_answer_with_a_chat_completion(
    client: Client, path: str, body: Document, streamed: bool
) -> None:
    answer = client.post(path, {**body, "stream": streamed}).text
    kind = "chat.completion.chunk" if streamed else "chat.completion"
    assert f'"object": "{kind}"' in answer
    assert ('"delta"' if streamed else '"message"') in answer
    assert client.gateway.usage() == {None: Usage(1, 4, 6)}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, 0),
        ("", 0),
        ([], 0),
        ([{"text": "one two"}, {"type": "image_url"}, {"text": "three"}], 3),
        ("\udc80", 1),
    ],
)
@plain_and_streamed
def test_the_content_of_a_message_may_be_text_or_parts_or_missing(
    client: Client, content: Any, words: int, streamed: bool
) -> None:
    client.ask(CHAT, {"messages": [{"role": "user", "content": content}]}, streamed=streamed)
    assert client.gateway.usage() == {None: Usage(1, words, words + 2)}


def error_for(path: str, status: int, message: str) -> Any:
    """Return the error in the format of the API that has *path*."""
    if path.startswith("/api/") and path != GENERATION:
        return message
    error: Document = {"message": message, "type": "invalid_request_error", "param": None}
    if path.startswith(GEMINI):
        names = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND"}
        return {**error, "code": status, "status": names[status]}
    return {**error, "code": None}


NO_OBJECT = "the body must be a JSON object"
NO_LISTS: list[Document] = [{"messages": []}, {"messages": "Hello"}]
NO_PROMPT, NO_INPUT = "prompt must be a text", "input must be a text"


@pytest.mark.parametrize(
    ("path", "body", "problem"),
    [
        *((CHAT.path, body, NO_OBJECT) for body in (b"", b"{'a': 1}", b"\xff\xfe", b"[" * 99_999)),
        *((api.path, [], NO_OBJECT) for api in APIS.values()),
        *((api.path, {}, "at least one item|malformed: KeyError") for api in APIS.values()),
        *(
            (path, body, "messages must be a list")
            for path in (CHAT.path, ANTHROPIC.path, OLLAMA.path, COHERE.path)
            for body in NO_LISTS
        ),
        (CHAT.path, {"messages": ["Hello"]}, "malformed: AttributeError"),
        (CHAT.path, {"messages": [{"role": "user", "content": 5}]}, "malformed: TypeError"),
        (CHAT.path, {"messages": [{**USER, "role": ["user"]}]}, "malformed: TypeError"),
        (CHAT.path, {**messages(), "tools": [{}]}, "malformed: KeyError"),
        (CHAT.path, {**messages(), "tools": {"a": 1}}, "malformed: AttributeError"),
        (CHAT.path, {**messages(), "stream_options": "all"}, "malformed: AttributeError"),
        (ANTHROPIC.path, {"messages": [{"role": "user"}]}, "malformed: KeyError..content"),
        (ANTHROPIC.path, {**messages(), "output_config": "json"}, "malformed: AttributeError"),
        (
            ANTHROPIC.path,
            {"messages": [{**USER, "content": [{"text": 5}]}]},
            "malformed: TypeError",
        ),
        (f"{ANTHROPIC.path}/count_tokens", {}, "messages must be a list"),
        (CONVERSE.path, messages(), "content must be a list"),
        (CONVERSE.path, {**converse_messages(), "toolConfig": {"tools": [5]}}, "TypeError"),
        (CONVERSE.stream_path, {}, "messages must be a list"),
        (INVOKE.path, {"prompt": TEXT}, "messages must be a list"),
        (INVOKE.path, {"inputText": 5}, "malformed: TypeError"),
        (INVOKE.stream_path, {}, "messages must be a list"),
        (RESPONSES.path, {"input": []}, "input must be a list"),
        (RESPONSES.path, {"input": [5]}, "malformed: AttributeError"),
        (RESPONSES.path, {"input": TEXT, "tools": [{}]}, "malformed: KeyError..type"),
        (COMPLETIONS.path, {}, NO_PROMPT),
        (COMPLETIONS.path, {"prompt": []}, NO_PROMPT),
        (COMPLETIONS.path, {"prompt": 5}, "malformed: TypeError"),
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
        (GENERATE.path, {}, "malformed: KeyError..prompt"),
        ("/api/embed", {"input": ["text"], "dimensions": 0}, "1 to 4096 dimensions, not 0"),
        (COHERE.path, {"messages": [{"content": [{"document": 5}]}]}, "malformed: AttributeError"),
        (GENERATION, {"input": {}}, "malformed: KeyError..prompt"),
        (GENERATION, {"input": {"messages": []}}, "messages must be a list"),
        *(
            ("/v1/embeddings", {"input": texts}, NO_INPUT)
            for texts in (None, [], {"a": 1}, ["text", []], ["text", {}], ["text", ["text"]])
        ),
        ("/v1/embeddings", {"input": 5}, "malformed: TypeError"),
        ("/v1/embeddings", {"input": ["text", 5]}, "malformed: TypeError"),
        *(
            ("/v1/embeddings", {"input": "text", "dimensions": number}, "1 to 4096 dimensions")
            for number in (0, -1, 4097, 1.5, True, "8")
        ),
    ],
)
def test_a_malformed_body_is_refused(client: Client, path: str, body: Any, problem: str) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = client.http.post(client.gateway.url + path, data=data, timeout=10)
    assert response.status_code == 400
    refused = response.json()
    assert re.search(problem, refused["message"])
    error = error_for(path, 400, refused["message"])
    assert refused == {"type": "error", "error": error, "message": refused["message"]}
    bedrocks = "ValidationException" if path.startswith(MODEL) else None
    assert response.headers.get("X-Amzn-ErrorType") == bedrocks
    assert client.gateway.calls[0].body == data
    assert client.gateway.usage() == {}


@pytest.mark.parametrize("path", ["/v1/other", "/api/other", f"{GEMINI}:other", f"{MODEL}/other"])
@pytest.mark.parametrize(("status", "marker"), [(404, {}), (400, {"X-Cagent-Forward": ""})])
def test_an_unknown_path_or_a_missing_marker_gets_the_providers_error(
    client: Client, path: str, status: int, marker: dict[str, str]
) -> None:
    response = client.post(path, {}, marker)
    names = {400: "ValidationException", 404: "ResourceNotFoundException"}
    bedrocks = names[status] if path.startswith(MODEL) else None
    assert response.headers.get("X-Amzn-ErrorType") == bedrocks
    assert response.status_code == status
    assert response.json()["error"] == error_for(path, status, response.json()["message"])


@pytest.mark.parametrize(
    ("path", "body", "headers", "content_type"),
    [
        (CHAT.path, messages(), {}, "application/json"),
        (CHAT.path, {**messages(), "stream": True}, {}, "text/event-stream; charset=utf-8"),
        (OLLAMA.path, {**messages(), "stream": False}, {}, "application/json"),
        (OLLAMA.path, messages(), {}, "application/x-ndjson"),
        (CONVERSE.path, converse_messages(), {}, "application/json"),
        (CONVERSE.stream_path, converse_messages(), {}, EVENT_FRAMES),
        (INVOKE.stream_path, messages(), {}, EVENT_FRAMES),
        (GENERATION, {"input": {"prompt": TEXT}}, {}, "application/json"),
        (
            GENERATION,
            {"input": {"prompt": TEXT}},
            {"Accept": "text/event-stream"},
            "text/event-stream; charset=utf-8",
        ),
    ],
)
def test_the_headers_say_whether_an_answer_is_streamed(
    client: Client, path: str, body: Document, headers: dict[str, str], content_type: str
) -> None:
    response = client.post(path, body, headers)
    assert response.headers["Content-Type"] == content_type
    is_streamed = response.headers.get("Transfer-Encoding") == "chunked"
    assert is_streamed == (content_type != "application/json")
    assert client.gateway.usage() == {None: Usage(1, 4, 6)}


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
    answer = client.plain(COMPLETIONS, prompt=prompt)
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [
        *enumerate(texts)
    ]
    completion_tokens = sum(len(text.split()) for text in texts)
    assert answer["usage"]["total_tokens"] == tokens + completion_tokens
    for options in ({}, {"include_usage": True}):
        chunks = client.chunks(COMPLETIONS, prompt=prompt, stream_options=options)
        assert [chunk["usage"] for chunk in chunks if chunk.get("usage")] == [answer["usage"]]
        assert chunks[-1]["usage"]
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        streamed = dict.fromkeys(range(len(texts)), "")
        for choice in choices:
            streamed[choice["index"]] += choice["text"]
        assert [*streamed.values()] == texts
        ends = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
        assert ends == ["stop"] * len(texts)
    assert client.gateway.usage() == {None: Usage(3, 3 * tokens, 3 * completion_tokens)}


def test_a_request_for_a_response_may_hold_earlier_items(client: Client) -> None:
    """Clients that store the conversation themselves send earlier items."""
    (message,) = client.plain(RESPONSES)["output"]
    (call,) = client.plain(RESPONSES, **RESPONSES.tools)["output"]
    question = {"role": "user", "content": [{"type": "input_text", "text": "And now?"}]}
    (item,) = client.plain(RESPONSES, input=[USER, message, question])["output"]
    assert item["content"][0]["text"] == "You said: And now?"
    assert client.gateway.calls[-1].prompt_tokens == 4 + 6 + 2
    (item,) = client.plain(RESPONSES, input=[USER, call], **RESPONSES.tools)["output"]
    assert json.loads(item["arguments"]) == ARGUMENTS


@pytest.mark.parametrize(
    ("texts", "count", "tokens"),
    [
        (TEXT, 1, 4),
        ([TEXT, "a b", ""], 3, 6),
        ([1, 2, 3], 1, 3),
        ([[1, 2, 3], [4]], 2, 4),
        ("\udc80", 1, 1),
    ],
)
def test_embeddings_have_openais_format(
    client: Client, texts: Any, count: int, tokens: int
) -> None:
    answer = client.post("/v1/embeddings", {"input": texts, "model": "m"}).json()
    assert answer.pop("id").startswith("embd-")
    data = answer.pop("data")
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    assert answer == {"object": "list", "model": "m", "usage": usage}
    assert [(each["object"], each["index"]) for each in data] == [
        ("embedding", index) for index in range(count)
    ]
    vectors = {tuple(each["embedding"]) for each in data}
    assert len(vectors) == count
    assert all(len(vector) == 8 and math.isclose(math.hypot(*vector), 1) for vector in vectors)
    assert client.gateway.usage() == {None: Usage(1, tokens, 0)}


def embedding_of(client: Client, **body: Any) -> Any:
    return client.post("/v1/embeddings", {"input": TEXT, **body}).json()["data"][0]["embedding"]


def test_an_embedding_depends_only_on_the_text(client: Client) -> None:
    assert embedding_of(client) == embedding_of(client, input=[TEXT], model="m")
    assert embedding_of(client) != embedding_of(client, input="other")
    assert embedding_of(client) != embedding_of(client, input=[1])


@pytest.mark.parametrize("name", ["dimensions", "output_dimension"])
@pytest.mark.parametrize(("dimensions", "length"), [(1, 1), (3, 3), (4096, 4096), (None, 8)])
def test_a_request_chooses_the_dimensions_of_an_embedding(
    client: Client, name: str, dimensions: int | None, length: int
) -> None:
    vector = embedding_of(client, **{name: dimensions})
    assert len(vector) == length
    assert math.isclose(math.hypot(*vector), 1)


def test_an_embedding_in_base64_has_the_same_numbers(client: Client) -> None:
    encoded = base64.b64decode(embedding_of(client, encoding_format="base64"), validate=True)
    numbers = embedding_of(client, encoding_format="float")
    assert struct.unpack("<8f", encoded) == pytest.approx(numbers, abs=1e-6)


def test_embeddings_of_other_providers_have_their_format(client: Client) -> None:
    vector, short = embedding_of(client), embedding_of(client, dimensions=2)

    databricks = client.post("/serving-endpoints/x/invocations", {"input": [TEXT]}).json()
    assert (databricks["data"][0]["embedding"], databricks["model"]) == (vector, "")

    titan = client.post(INVOKE.path, {"inputText": TEXT, "dimensions": 2}).json()
    assert titan == {"embedding": short, "inputTextTokenCount": 4}
    assert client.gateway.calls[-1].prompt_tokens == 4

    part = {"content": {"parts": [{"text": TEXT}]}}
    assert client.post(f"{GEMINI}:embedContent", part).json() == {
        "embedding": {"values": vector},
        "usageMetadata": {"promptTokenCount": 4},
    }
    both = {"requests": [part, {**part, "outputDimensionality": 2}]}
    assert client.post(f"{GEMINI}:batchEmbedContents", both).json() == {
        "embeddings": [{"values": vector}, {"values": short}],
        "usageMetadata": {"promptTokenCount": 8},
    }

    body = {"model": "m", "input": [TEXT, "other"], "dimensions": 2}
    other = embedding_of(client, input="other", dimensions=2)
    expected = {"model": "m", "embeddings": [short, other], "prompt_eval_count": 5}
    assert client.post("/api/embed", body).json() == expected
    assert client.gateway.calls[-1].prompt_tokens == 5


def test_a_text_after_a_tools_result_is_echoed(client: Client) -> None:
    blocks = [{"type": "tool_result", "content": "on the mat"}, {"type": "text", "text": "Why?"}]
    said = [{"role": "user", "content": blocks}]
    answer = client.plain(ANTHROPIC, messages=said, **ANTHROPIC.tools)
    assert answer["content"] == [{"type": "text", "text": "You said: Why?"}]


@pytest.mark.parametrize(
    ("path", "body", "answer"),
    [
        ("/v1/messages/count_tokens", ANTHROPIC.with_system, {"input_tokens": 6}),
        (f"{GEMINI}:countTokens", GOOGLE.question, {"totalTokens": 4}),
        (
            f"{GEMINI}:countTokens",
            {"generateContentRequest": GOOGLE.with_system},
            {"totalTokens": 6},
        ),
    ],
)
def test_counted_tokens_are_not_billed(
    client: Client, path: str, body: Document, answer: Document
) -> None:
    assert client.post(path, body).json() == answer
    assert client.gateway.usage() == {None: Usage(1, 0, 0)}


def test_googles_numbers_of_types_are_understood(client: Client) -> None:
    values = {1: TEXT, 2: 0, 3: 0, 4: False, 5: [], 6: {}}
    schema = required(**{f"of type {kind}": {"type": kind} for kind in values})
    function = {"name": "find", "parameters": {**schema, "type": 6}}
    answer = client.plain(OLD_GOOGLE, tools=[{"function_declarations": [function]}])
    call = answer["candidates"][0]["content"]["parts"][0]["functionCall"]
    arguments = {f"of type {kind}": value for kind, value in values.items()}
    assert json.dumps(call["args"]) == json.dumps(arguments)


def test_a_tools_result_can_be_any_json(client: Client) -> None:
    result = {"functionResponse": {"name": "find", "response": {"where": "on the mat", "legs": 4}}}
    (candidate,) = client.plain(GOOGLE, **contents(result))["candidates"]
    assert candidate["content"]["parts"] == [{"text": "The tool said: on the mat 4"}]
    answer = client.plain(CONVERSE, **converse_messages(converse_result(json=["mat", 4])))
    assert answer["output"]["message"]["content"] == [{"text": 'The tool said: ["mat", 4]'}]
    document = {"type": "document", "document": {"data": {"where": "on the mat"}}}
    answer = client.plain(COHERE, **messages({"role": "tool", "content": [document]}))
    assert answer["message"]["content"][0]["text"] == 'The tool said: {"where": "on the mat"}'


@each_api
def test_the_gateway_keeps_working_after_a_client_hangs_up(
    client: Client,
    api: Api,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    long = json.loads(json.dumps(api.question).replace("Where", ("x" * 1_000 + " ") * 1_000))
    before = set(threading.enumerate())
    with client.http.post(
        client.gateway.url + (api.stream_path or api.path),
        json={**long, "stream": True},
        headers=api.stream_headers,
        stream=True,
        timeout=10,
    ) as response:
        assert response.raw.read(10)
        answering = set(threading.enumerate()) - before
    for thread in answering:
        thread.join(10)
        assert not thread.is_alive()
    assert "You said" in client.ask(api, api.question)
    assert "Traceback" not in capfd.readouterr().err + caplog.text


if __name__ == "__main__":
    with ModelsGateway() as gateway, mount(requests.Session(), gateway.url) as http:
        http.trust_env = False
        http.headers.update(gateway_headers("https://api.openai.com/v1"))
        ANSWERS.write_text(all_answers(Client(gateway, http)), "utf-8")
