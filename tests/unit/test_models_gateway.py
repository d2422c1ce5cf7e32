"""Does the models gateway record, answer and bill as it says?"""

from __future__ import annotations

import importlib
import json
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
import trustme
from werkzeug import Request, Response
from werkzeug.exceptions import TooManyRequests

from cagent_session import (
    FORWARD_HEADER,
    SESSION_ID_HEADER,
    InvalidSessionId,
    gateway_headers,
    mount,
    session_scope,
)
from cagent_session.testing import Call, ModelsGateway, Usage

FORWARD = "https://api.openai.com/v1"
MARKED = gateway_headers(FORWARD)
QUESTION: dict[str, Any] = {
    "model": "gpt-4o",
    "messages": [{"role": "user", "content": "Where is  the\ncat?"}],
}
LONG: dict[str, Any] = {
    "messages": [{"role": "user", "content": ("x" * 10_000 + " ") * 3_000}],
    "stream": True,
}
CAT_TOOL = {
    "type": "function",
    "function": {
        "name": "find",
        "parameters": {"properties": {"what": {"type": "string"}}, "required": ["what"]},
    },
}
ANTHROPIC_EVENTS = (
    b'data: {"type": "message_start", "message": {"usage": {"input_tokens": 7, "output_tokens": 1}}}\n\n'
    b'data: {"type": "message_delta", "usage": {"output_tokens": 2}}\n\n'
)
COHERE_EVENT = (
    b'data: {"delta": {"usage": {"tokens": {"input_tokens": 7, "output_tokens": 2}}}}\n\n'
)
GEMINI_LIST = (
    b'[{"a": [1]},\n {"usageMetadata": {"promptTokenCount": 7,\n "candidatesTokenCount": 2}}]\n'
)


@pytest.fixture
def gateway() -> Iterator[ModelsGateway]:
    with ModelsGateway() as gateway:
        yield gateway


@pytest.fixture
def http(gateway: ModelsGateway) -> Iterator[requests.Session]:
    """A session of requests whose calls are all for the gateway."""
    with mount(requests.Session(), gateway.url) as session:
        session.trust_env = False
        session.headers.update(MARKED)
        yield session


def ask(
    http: requests.Session, gateway: ModelsGateway, body: Any = QUESTION, **changes: Any
) -> requests.Response:
    return http.post(f"{gateway.url}/v1/chat/completions", json={**body, **changes}, timeout=10)


def chunks_of(response: requests.Response) -> list[dict[str, Any]]:
    """The chunks of a streamed answer, which must end as OpenAI's do."""
    *events, done, end = response.text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def error_of(response: requests.Response) -> str:
    """The message of an error in OpenAI's shape."""
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return str(error["message"])


def test_it_listens_on_loopback_and_has_no_trailing_slash(gateway: ModelsGateway) -> None:
    assert gateway.url == f"http://127.0.0.1:{gateway.port}"
    assert gateway.port > 0


def test_it_records_what_reached_it_in_order(
    gateway: ModelsGateway, http: requests.Session
) -> None:
    with session_scope("sess-1"):
        ask(http, gateway)
    http.get(f"{gateway.url}/v1/models?limit=1", timeout=10)
    call, other = gateway.calls
    assert (call.method, call.path, call.session_id, call.forward) == (
        "POST",
        "/v1/chat/completions",
        "sess-1",
        FORWARD,
    )
    assert json.loads(call.body) == call.json == QUESTION
    assert (call.status, call.prompt_tokens, call.completion_tokens) == (200, 4, 6)
    assert (other.method, other.path, other.session_id, other.json, other.status) == (
        "GET",
        "/v1/models",
        None,
        None,
        404,
    )


def test_the_headers_of_a_call_take_names_in_any_case(
    gateway: ModelsGateway, http: requests.Session
) -> None:
    ask(http, gateway)
    assert gateway.calls[0].headers["x-cagent-LANG"] == "python"
    assert "X-Cagent-Compacting" not in gateway.calls[0].headers


def test_a_call_shows_no_key(gateway: ModelsGateway, http: requests.Session) -> None:
    http.headers["Authorization"] = "Bearer secret"
    ask(http, gateway)
    assert gateway.calls[0].headers["Authorization"] == "Bearer secret"
    assert "secret" not in repr(gateway.calls)


def test_paths_are_decoded_and_headers_sent_twice_are_joined(gateway: ModelsGateway) -> None:
    with socket.create_connection((gateway.host, gateway.port), timeout=10) as raw:
        raw.sendall(
            b"GET /v1/models/a%20b%2Fc%FF?d=%20 HTTP/1.1\r\nHost: x\r\nX-Cagent-Forward: https://a.example\r\n"
            b"X-Cagent-Session-Id: one\r\nX-Cagent-Session-Id: two\r\n\r\n"
        )
        assert raw.makefile("rb").read().startswith(b"HTTP/1.1 404")
    assert (gateway.calls[0].path, gateway.calls[0].session_id) == (
        "/v1/models/a b/c\ufffd",
        "one,two",
    )


def test_calls_are_a_copy(gateway: ModelsGateway, http: requests.Session) -> None:
    ask(http, gateway)
    before = gateway.calls
    ask(http, gateway)
    before.clear()
    assert len(gateway.calls) == 2


def test_the_calls_of_a_session_are_found_by_its_id(
    gateway: ModelsGateway, http: requests.Session
) -> None:
    session_id = uuid.uuid4()
    for scope in (session_id, "sess-2", None):
        with session_scope(scope):
            ask(http, gateway)
    http.headers[SESSION_ID_HEADER] = ""  # an empty one is none
    ask(http, gateway)
    first, second, third, fourth = gateway.calls
    assert gateway.calls_in(session_id) == gateway.calls_in(str(session_id)) == [first]
    assert gateway.calls_in("sess-2") == [second]
    assert gateway.calls_in(None) == [third, fourth]
    assert gateway.calls_in("sess-3") == []


def test_each_session_is_billed_its_own_calls(
    gateway: ModelsGateway, http: requests.Session
) -> None:
    for scope, stream in (("sess-1", False), ("sess-2", True), ("sess-1", True), (None, False)):
        with session_scope(scope):
            ask(http, gateway, stream=stream)
    assert gateway.usage() == {
        "sess-1": Usage(2, 8, 12),
        "sess-2": Usage(1, 4, 6),
        None: Usage(1, 4, 6),
    }
    assert gateway.usage()["sess-1"].total_tokens == 20


def test_refused_calls_are_recorded_but_not_billed(
    gateway: ModelsGateway, http: requests.Session
) -> None:
    gateway.expect_request("/v1/busy").respond_with_json(
        {"usage": {"prompt_tokens": 5}}, status=429
    )
    with session_scope("sess-1"):
        http.post(f"{gateway.url}/v1/busy", timeout=10)
    assert [call.status for call in gateway.calls_in("sess-1")] == [429]
    assert gateway.usage() == {}


@pytest.mark.parametrize(
    ("document", "mimetype"),
    [
        (
            b'{"usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}}',
            "application/json",
        ),
        (b'{"usage": {"input_tokens": 7, "output_tokens": 2}}', "application/json"),
        (b'{"usage": {"tokens": {"input_tokens": 7, "output_tokens": 2}}}', "application/json"),
        (
            b'{"usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 2}}',
            "application/json",
        ),
        (b'{"prompt_eval_count": 7, "eval_count": 2}', "application/json"),
        (b'{"a": 1}\n{"prompt_eval_count": 7, "eval_count": 2}', "application/x-ndjson"),
        (
            b'data: {"response": {"usage": {"input_tokens": 7, "output_tokens": 2}}}\n\n',
            "text/event-stream",
        ),
        (ANTHROPIC_EVENTS, "text/event-stream"),
        (
            b'data: {"message": {"usage": {"input_tokens": 7, "output_tokens": 2}}}\n\n',
            "text/event-stream",
        ),
        (COHERE_EVENT, "text/event-stream"),
        (GEMINI_LIST, "application/json"),
    ],
)
@pytest.mark.parametrize("size", [1, 1000])
def test_an_answer_of_ones_own_is_billed_in_any_providers_words(
    gateway: ModelsGateway, http: requests.Session, document: bytes, mimetype: str, size: int
) -> None:
    """Sent in one piece, or byte by byte."""

    def handler(_request: Request) -> Response:
        pieces = (document[at : at + size] for at in range(0, len(document), size))
        return Response(pieces, mimetype=mimetype)

    gateway.expect_oneshot_request("/v1/chat/completions").respond_with_handler(handler)
    with session_scope("sess-1"):
        assert ask(http, gateway).content == document
    assert gateway.usage() == {"sess-1": Usage(1, 7, 2)}


def test_voyages_only_figure_is_the_prompts(gateway: ModelsGateway, http: requests.Session) -> None:
    gateway.expect_request("/v1/embeddings").respond_with_json(
        {"data": [], "usage": {"total_tokens": 7}}
    )
    http.post(f"{gateway.url}/v1/embeddings", json={}, timeout=10)
    assert gateway.usage() == {None: Usage(1, 7, 0)}


@pytest.mark.parametrize(
    "document",
    ["", "[]", "[5]", '{"usage": null}', '{"usage": {"prompt_tokens": "many"}}', "[" * 99_999],
)
def test_an_answer_that_tells_no_usage_costs_no_tokens(
    gateway: ModelsGateway, http: requests.Session, document: str
) -> None:
    gateway.expect_request("/v1/chat/completions").respond_with_data(document)
    assert ask(http, gateway).text == document
    assert gateway.usage() == {None: Usage(1, 0, 0)}


def test_a_streamed_answer_of_ones_own_passes_piece_by_piece_and_is_billed(
    gateway: ModelsGateway, http: requests.Session
) -> None:
    """Each piece is sent before the next one is made, and no client gets the usage before it is on the bill."""
    received = threading.Event()

    def events(_request: Request) -> Response:
        def pieces() -> Iterator[bytes]:
            yield b'data: {"usage": null}\n\ndata: {"usage": {"prompt_'
            assert received.wait(10)
            yield b'tokens": 3, "completion_tokens": 4}}\r\n'
            yield b"\r\n"

        return Response(pieces(), mimetype="text/event-stream")

    gateway.expect_request("/v1/chat/completions").respond_with_handler(events)
    with http.post(
        f"{gateway.url}/v1/chat/completions", json=QUESTION, stream=True, timeout=10
    ) as response:
        pieces = response.iter_content(None)
        assert next(pieces).endswith(b'"prompt_')
        assert gateway.usage() == {None: Usage(1, 0, 0)}
        received.set()
        assert next(pieces).startswith(b"tokens")
        assert gateway.usage() == {None: Usage(1, 3, 4)}
        assert b"".join(pieces) == b"\r\n"


@pytest.mark.parametrize("mimetype", ["text/event-stream", "application/json"])
def test_the_same_response_can_be_given_again(
    gateway: ModelsGateway, http: requests.Session, mimetype: str
) -> None:
    class Pieces:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b'{"usage": {"input', b'_tokens": 3}}'])

    gateway.expect_request("/v1/x").respond_with_response(Response(Pieces(), mimetype=mimetype))
    for _ in range(2):
        assert http.get(f"{gateway.url}/v1/x", timeout=10).json() == {"usage": {"input_tokens": 3}}
    assert gateway.usage() == {None: Usage(2, 6, 0)}


@pytest.mark.parametrize("marker", [{}, {FORWARD_HEADER: b""}, {FORWARD_HEADER: b"\xa0"}])
def test_a_request_without_a_marker_is_refused_before_any_handler_is_asked(
    gateway: ModelsGateway, http: requests.Session, marker: dict[str, bytes]
) -> None:
    gateway.expect_request("/v1/chat/completions").respond_with_data("asked")
    del http.headers[FORWARD_HEADER]
    response = http.post(
        f"{gateway.url}/v1/chat/completions", json=QUESTION, headers=marker, timeout=10
    )
    assert response.status_code == 400
    assert FORWARD_HEADER in error_of(response)
    assert "gateway_headers(" in error_of(response)
    assert [call.status for call in gateway.calls] == [400]


@pytest.mark.parametrize("prefix", ["", "/v1", "/proxy/openai/v1"])
def test_a_chat_completion_has_openais_shape(
    gateway: ModelsGateway, http: requests.Session, prefix: str
) -> None:
    response = http.post(f"{gateway.url}{prefix}/chat/completions", json=QUESTION, timeout=10)
    answer = response.json()
    assert response.headers["Content-Type"] == "application/json"
    assert answer.pop("id").startswith("chatcmpl-")
    assert isinstance(answer.pop("created"), int)
    assert answer == {
        "object": "chat.completion",
        "model": "gpt-4o",
        "service_tier": "default",
        "system_fingerprint": "fp_0",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "You said: Where is  the\ncat?"},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 4, "completion_tokens": 6, "total_tokens": 10},
    }


@pytest.mark.parametrize("include_usage", [False, True])
def test_a_streamed_chat_completion_comes_word_by_word(
    gateway: ModelsGateway, http: requests.Session, include_usage: bool
) -> None:
    response = ask(http, gateway, stream=True, stream_options={"include_usage": include_usage})
    assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert response.headers["Transfer-Encoding"] == "chunked"
    chunks = chunks_of(response)
    assert {(chunk["id"], chunk["object"], chunk["model"]) for chunk in chunks} == {
        (chunks[0]["id"], "chat.completion.chunk", "gpt-4o")
    }
    *untold, told = chunks  # clients that add up what is told must not get it twice
    assert told["usage"] == {"prompt_tokens": 4, "completion_tokens": 6, "total_tokens": 10}
    assert {chunk.get("usage", "not there") for chunk in untold} == {
        None if include_usage else "not there"
    }
    if include_usage:
        assert chunks.pop()["choices"] == []
    first, *words, last = [chunk["choices"][0] for chunk in chunks]
    assert {choice["index"] for choice in (first, *words, last)} == {0}
    assert first["delta"] == {"role": "assistant", "content": ""}
    assert [word["delta"]["content"] for word in words] == [
        "You ",
        "said: ",
        "Where ",
        "is  ",
        "the\n",
        "cat?",
    ]
    assert {choice["finish_reason"] for choice in (first, *words)} == {None}
    assert (last["delta"], last["finish_reason"]) == ({}, "stop")
    assert gateway.usage() == {None: Usage(1, 4, 6)}


def test_the_first_event_arrives_before_the_last_one_is_made(
    gateway: ModelsGateway, http: requests.Session
) -> None:
    """The answer is longer than the sockets' buffers: unread, its end can't have been made."""
    with http.post(
        f"{gateway.url}/v1/chat/completions", json=LONG, stream=True, timeout=10
    ) as response:
        lines = response.iter_lines(chunk_size=100_000)
        assert next(lines).startswith(b"data: {")
        assert gateway.usage() == {None: Usage(1, 0, 0)}
        for _ in lines:
            pass
    assert gateway.usage() == {None: Usage(1, 3_000, 3_002)}


def test_a_client_that_hangs_up_does_no_harm(
    gateway: ModelsGateway,
    http: requests.Session,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = set(threading.enumerate())
    with http.post(
        f"{gateway.url}/v1/chat/completions", json=LONG, stream=True, timeout=10
    ) as response:
        assert next(response.iter_lines()).startswith(b"data: {")
        answering = set(threading.enumerate()) - before
    for thread in answering:
        thread.join(10)
        assert not thread.is_alive()
    assert ask(http, gateway).ok
    assert gateway.usage() == {None: Usage(2, 4, 6)}
    assert "Traceback" not in capfd.readouterr().err + caplog.text


@pytest.mark.parametrize(
    "start", [b"Content-Length: 99\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"]
)
def test_a_client_that_hangs_up_while_it_sends_is_no_call(
    gateway: ModelsGateway, caplog: pytest.LogCaptureFixture, start: bytes
) -> None:
    with socket.create_connection((gateway.host, gateway.port), timeout=10) as raw:
        raw.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Cagent-Forward: https://a.example\r\n"
            + start
        )
        raw.shutdown(socket.SHUT_WR)
        assert raw.makefile("rb").read().startswith(b"HTTP/1.1 400")
    assert gateway.calls == []
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, 0),
        ("", 0),
        ([], 0),
        (
            [
                {"type": "text", "text": "one two"},
                {"type": "image_url"},
                {"type": "text", "text": "three"},
            ],
            3,
        ),
        ("\udc80", 1),
    ],
)
def test_the_content_of_a_message_may_be_text_parts_or_nothing(
    gateway: ModelsGateway, http: requests.Session, content: Any, words: int
) -> None:
    for stream in (False, True):
        assert ask(http, gateway, messages=[{"role": "user", "content": content}], stream=stream).ok
    assert gateway.usage() == {None: Usage(2, 2 * words, 2 * (words + 2))}


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "must be a JSON object"),
        (b"{'model': 1}", "must be a JSON object"),
        (b"\xff\xfe", "must be a JSON object"),
        (b"[" * 99_999, "must be a JSON object"),
        (b"[]", "must be a JSON object"),
        (b"{}", "messages must be a list"),
        (b'{"messages": "Hello"}', "messages must be a list"),
        (b'{"messages": []}', "messages must be a list"),
        (b'{"messages": ["Hello"]}', "malformed"),
        (b'{"messages": [{"role": "user", "content": 5}]}', "malformed"),
        (b'{"messages": [{"role": ["user"], "content": "Hello"}], "tools": [{}]}', "malformed"),
        (b'{"messages": [{"role": "user", "content": "Hello"}], "tools": [{}]}', "malformed"),
        (b'{"messages": [{"role": "user", "content": "Hello"}], "tools": {"a": 1}}', "malformed"),
        (
            b'{"messages": [{"role": "user", "content": "Hello"}], "stream_options": "all"}',
            "malformed",
        ),
    ],
)
def test_a_malformed_body_is_refused(
    gateway: ModelsGateway, http: requests.Session, body: bytes, problem: str
) -> None:
    response = http.post(f"{gateway.url}/v1/chat/completions", data=body, timeout=10)
    assert response.status_code == 400
    assert problem in error_of(response)
    assert gateway.calls[0].body == body


def test_the_first_tool_offered_is_called(gateway: ModelsGateway, http: requests.Session) -> None:
    other = {"type": "function", "function": {"name": "other"}}
    choice = ask(http, gateway, tools=[CAT_TOOL, other]).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert (call["type"], call["function"]["name"]) == ("function", "find")
    assert json.loads(call["function"]["arguments"]) == {"what": "Where is  the\ncat?"}
    assert gateway.calls[0].completion_tokens == len(call["function"]["arguments"].split())


def test_a_streamed_call_of_a_tool_comes_in_pieces(
    gateway: ModelsGateway, http: requests.Session
) -> None:
    choices = [
        chunk["choices"][0]
        for chunk in chunks_of(ask(http, gateway, tools=[CAT_TOOL], stream=True))
    ]
    assert choices[0]["delta"] == {"role": "assistant", "content": None}
    assert choices[-1]["finish_reason"] == "tool_calls"
    first, *rest = [choice["delta"]["tool_calls"][0] for choice in choices[1:-1]]
    assert (first["index"], first["type"], first["id"][:5]) == (0, "function", "call_")
    assert first["function"] == {"name": "find", "arguments": ""}
    assert all(set(piece) == {"index", "function"} for piece in rest)
    assert json.loads("".join(piece["function"]["arguments"] for piece in rest)) == {
        "what": "Where is  the\ncat?"
    }


def test_the_required_parameters_of_a_tool_are_filled_as_its_schema_says(
    gateway: ModelsGateway, http: requests.Session
) -> None:
    values: dict[str, tuple[dict[str, Any], Any]] = {
        "text": ({"type": "string"}, "last"),
        "perhaps": ({"type": ["string", "null"]}, "last"),
        "unit": ({"type": "string", "enum": ["km", "mi"]}, "km"),
        "count": ({"type": "integer"}, 0),
        "size": ({"type": "number"}, 0),
        "really": ({"type": "boolean"}, False),
        "names": ({"type": "array"}, []),
        "options": ({"type": "object"}, {}),
    }
    parameters = {
        "type": "object",
        "properties": {
            "not_required": {"type": "string"},
            **{name: schema for name, (schema, _) in values.items()},
        },
        "required": [*values, "undescribed"],
    }
    tool = {"type": "function", "function": {"name": "t", "parameters": parameters}}
    messages = [
        {"role": "user", "content": "first"},
        {"role": "user", "content": "last"},
        {"role": "assistant"},
    ]
    message = ask(http, gateway, messages=messages, tools=[tool]).json()["choices"][0]["message"]
    arguments = json.loads(message["tool_calls"][0]["function"]["arguments"])
    assert arguments == {
        **{name: value for name, (_, value) in values.items()},
        "undescribed": None,
    }


def test_a_tool_without_parameters_is_called_with_none(
    gateway: ModelsGateway, http: requests.Session
) -> None:
    tool = {"type": "function", "function": {"name": "look"}}
    (call,) = ask(http, gateway, tools=[tool]).json()["choices"][0]["message"]["tool_calls"]
    assert call["function"] == {"name": "look", "arguments": "{}"}


def test_no_tool_is_called_when_the_request_forbids_it(
    gateway: ModelsGateway, http: requests.Session
) -> None:
    choice = ask(http, gateway, tools=[CAT_TOOL], tool_choice="none").json()["choices"][0]
    assert (choice["finish_reason"], "tool_calls" in choice["message"]) == ("stop", False)


def test_a_tools_result_is_answered_with_text(
    gateway: ModelsGateway, http: requests.Session
) -> None:
    result = {"role": "tool", "tool_call_id": "call_1", "content": "on the mat"}
    choice = ask(http, gateway, tools=[CAT_TOOL], messages=[*QUESTION["messages"], result]).json()[
        "choices"
    ][0]
    assert choice["finish_reason"] == "stop"
    assert choice["message"] == {"role": "assistant", "content": "The tool said: on the mat"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("GET", "/v1/chat/completions"),
        ("DELETE", "/"),
        ("POST", "/v1/chat/completions/x"),
    ],
)
def test_what_nobody_answers_is_a_404_and_a_failed_assertion(
    gateway: ModelsGateway, http: requests.Session, method: str, path: str
) -> None:
    for _ in range(2):
        response = http.request(method, gateway.url + path, timeout=10)
        assert response.status_code == 404
        assert f"{method} {path}" in error_of(response)
        assert [call.status for call in gateway.calls] == [404]
        with pytest.raises(AssertionError, match="No handler found"):
            gateway.check_assertions()
        gateway.clear()


def test_a_head_request_gets_no_body(gateway: ModelsGateway, http: requests.Session) -> None:
    response = http.head(f"{gateway.url}/v1/models", timeout=10)
    assert (response.status_code, response.content, gateway.calls[0].method) == (404, b"", "HEAD")


def test_a_default_answer_is_no_failed_assertion(
    gateway: ModelsGateway, http: requests.Session
) -> None:
    ask(http, gateway)
    gateway.check()


def test_a_call_out_of_order_gets_no_default_answer(
    gateway: ModelsGateway, http: requests.Session
) -> None:
    gateway.expect_ordered_request("/v1/first").respond_with_data("first")
    assert ask(http, gateway).status_code == 404
    with pytest.raises(AssertionError, match="No handler found"):
        gateway.check_assertions()


@pytest.mark.parametrize(
    ("error", "status"), [(TooManyRequests(), 429), (ZeroDivisionError(), 500)]
)
def test_a_handler_that_fails_is_recorded_with_its_status(
    gateway: ModelsGateway, http: requests.Session, error: Exception, status: int
) -> None:
    def handler(_request: Request) -> Response:
        raise error

    gateway.expect_request("/v1/chat/completions").respond_with_handler(handler)
    assert ask(http, gateway).status_code == status
    assert [call.status for call in gateway.calls] == [status]
    with pytest.raises(type(error)):
        gateway.check()


def test_a_call_that_is_being_answered_is_recorded_but_not_billed(
    gateway: ModelsGateway, http: requests.Session
) -> None:
    seen: list[Call] = []

    def handler(_request: Request) -> Response:
        seen.extend(gateway.calls)
        assert gateway.usage() == {}
        return Response()

    gateway.expect_request("/v1/chat/completions").respond_with_handler(handler)
    assert ask(http, gateway).ok
    assert [(call.json, call.status) for call in seen] == [(QUESTION, 0)]


def test_concurrent_calls_are_all_billed_to_their_sessions(
    gateway: ModelsGateway, http: requests.Session
) -> None:
    def work(number: int) -> None:
        with session_scope(f"sess-{number}"):
            for stream in (False, True, False):
                ask(http, gateway, stream=stream)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    assert gateway.usage() == {f"sess-{number}": Usage(3, 12, 18) for number in range(16)}


def test_clearing_forgets_calls_and_handlers(
    gateway: ModelsGateway, http: requests.Session
) -> None:
    """A call that is being answered meanwhile is forgotten, too."""

    def handler(_request: Request) -> Response:
        gateway.clear()
        return Response("cleared")

    gateway.expect_request("/v1/chat/completions").respond_with_handler(handler)
    assert ask(http, gateway).text == "cleared"
    assert (gateway.calls, gateway.usage()) == ([], {})
    assert ask(http, gateway).json()["object"] == "chat.completion"


def test_it_stops_at_once_while_clients_hold_connections(
    gateway: ModelsGateway, http: requests.Session
) -> None:
    """Of three times the shortest counts: the machine may be busy."""
    seconds = []
    for _ in range(3):
        with socket.create_connection((gateway.host, gateway.port), timeout=10):
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda _: ask(http, gateway), range(8)))
            begin = time.perf_counter()
            gateway.stop()
            seconds.append(time.perf_counter() - begin)
        gateway.start()
    assert min(seconds) < 0.25


def test_a_required_session_is_asked_of_every_call_from_then_on(
    gateway: ModelsGateway, http: requests.Session
) -> None:
    gateway.expect_request("/v1/models").respond_with_data("handled")
    assert http.get(f"{gateway.url}/v1/models", timeout=10).text == "handled"
    gateway.require_session()
    for path in ("/v1/models", "/v1/chat/completions"):
        refused = http.post(f"{gateway.url}{path}", json=QUESTION, timeout=10)
        assert refused.status_code == 400
        assert error_of(refused).startswith(
            "the request has no X-Cagent-Session-Id, and this gateway requires a session"
        )
    with session_scope("sess-1"):
        assert ask(http, gateway).status_code == 200
    assert gateway.usage()[None].calls == 1
    gateway.require_session(False)
    assert ask(http, gateway).status_code == 200


def test_each_refused_call_is_told_once(gateway: ModelsGateway, http: requests.Session) -> None:
    gateway.require_session()
    http.headers[FORWARD_HEADER] = "https://user:s3cret@api.example/v1?key=s3cret"
    http.get(f"{gateway.url}/v1/two words?key=s3cret", timeout=10)
    http.headers[FORWARD_HEADER] = "s3cret"
    ask(http, gateway)
    http.headers[FORWARD_HEADER] = ""
    http.get(f"{gateway.url}/two words", timeout=10)
    with pytest.raises(AssertionError) as told:
        gateway.check_sessions()
    assert str(told.value) == (
        "3 calls reached the models gateway in no session:\n"
        "  GET   /v1/two%20words       forward https://api.example/v1\n"
        "  POST  /v1/chat/completions  forward a URL that can't be read\n"
        "  GET   /two%20words          without a forward, so not gateway-bound: see gateway_headers()\n"
        "Make each in session_scope() or under in_session(), through mount() or session_id_hook(); "
        'missing="raise" shows where'
    )
    gateway.check_sessions()
    ask(http, gateway)
    with pytest.raises(
        AssertionError, match=r"^1 call reached the models gateway in no session:\n  POST  /v1/chat"
    ):
        gateway.check_assertions()
    gateway.check_assertions()
    ask(http, gateway)
    gateway.clear()
    gateway.check_sessions()
    assert ask(http, gateway).status_code == 400


def test_of_many_refused_calls_the_first_are_told(
    gateway: ModelsGateway, http: requests.Session
) -> None:
    gateway.require_session()
    for number in range(23):
        http.get(f"{gateway.url}/{number}", timeout=10)
    with pytest.raises(AssertionError, match=r"^23 calls") as told:
        gateway.check_sessions()
    _, *rows, _ = str(told.value).splitlines()
    assert [row.split()[:2] for row in rows] == [
        *(["GET", f"/{number}"] for number in range(20)),
        ["and", "3"],
    ]


def test_what_other_tests_note_fails_the_check_of_assertions_too(gateway: ModelsGateway) -> None:
    gateway.add_assertion("noted")
    gateway.check_sessions()
    with pytest.raises(AssertionError, match=r"^noted$"):
        gateway.check_assertions()


@pytest.mark.parametrize(
    ("made", "calls"),
    [
        (["sess-1"], None),
        (["sess-1"] * 3, None),
        (["sess-1"] * 3, 3),
        (["sess-2", "sess-1"], 1),
        (["sess-2"], 0),
        ([], 0),
    ],
)
def test_attributed_calls_are(
    gateway: ModelsGateway, http: requests.Session, made: list[str], calls: int | None
) -> None:
    for session_id in made:
        with session_scope(session_id):
            ask(http, gateway)
    gateway.assert_attributed("sess-1", calls=calls)


@pytest.mark.parametrize(
    ("made", "calls", "difference"),
    [
        ([], None, "expected every call in session sess-1, got 0 of 0"),
        ([], 1, "expected 1 call in session sess-1, got 0 of 0"),
        (["sess-1", "sess-2"], None, "expected every call in session sess-1, got 1 of 2"),
        (
            ["sess-1", None],
            None,
            "expected every call in session sess-1, got 1 of 2, and 1 in no session",
        ),
        (["sess-1", None], 1, "expected 1 call in session sess-1, got 1 of 2, and 1 in no session"),
        (["sess-1", "sess-2"], 2, "expected 2 calls in session sess-1, got 1 of 2"),
        (["sess-1", "sess-1"], 1, "expected 1 call in session sess-1, got 2 of 2"),
        (["sess-1", "sess-1"], 0, "expected 0 calls in session sess-1, got 2 of 2"),
    ],
)
def test_calls_that_are_not_attributed_are_told(
    gateway: ModelsGateway,
    http: requests.Session,
    made: list[str | None],
    calls: int | None,
    difference: str,
) -> None:
    for session_id in made:
        with session_scope(session_id):
            ask(http, gateway)
    with pytest.raises(AssertionError) as told:
        gateway.assert_attributed("sess-1", calls=calls)
    first, *rows = str(told.value).splitlines()
    assert first == difference
    whose = {"sess-1": "     in sess-1", "sess-2": "  >  in sess-2", None: "  >  in no session"}
    width = max((len(whose[session_id]) for session_id in made), default=0)
    call = f"POST  /v1/chat/completions  forward {FORWARD}"
    assert rows == [f"{whose[session_id]:{width}}  {call}" for session_id in made]


def test_of_many_calls_those_of_others_are_told_first(
    gateway: ModelsGateway, http: requests.Session
) -> None:
    for number in range(30):
        with session_scope(None if number == 25 else "sess-1"):
            http.get(f"{gateway.url}/{number}", timeout=10)
    with pytest.raises(
        AssertionError,
        match=r"^expected 30 calls in session sess-1, got 29 of 30, and 1 in no session\n",
    ) as told:
        gateway.assert_attributed("sess-1", calls=30)
    _, first, second, *_, last = str(told.value).splitlines()
    assert first.split()[:6] == [">", "in", "no", "session", "GET", "/25"]
    assert second.split()[:4] == ["in", "sess-1", "GET", "/0"]
    assert last == "  and 10 more"


def test_a_uuid_can_be_asserted_and_what_is_no_session_can_not(
    gateway: ModelsGateway, http: requests.Session
) -> None:
    session_id = uuid.uuid4()
    with session_scope(session_id):
        ask(http, gateway)
    gateway.assert_attributed(session_id)
    with pytest.raises(InvalidSessionId, match="a space at position 2"):
        gateway.assert_attributed("no session")
    with pytest.raises(ValueError, match=r"^calls must be 0 or more, got -1$"):
        gateway.assert_attributed(session_id, calls=-1)


def test_neither_key_nor_query_is_logged_or_shown(
    gateway: ModelsGateway, http: requests.Session, caplog: pytest.LogCaptureFixture
) -> None:
    http.headers[FORWARD_HEADER] = "https://user:s3cret@api.example/v1?key=s3cret"
    http.post(
        f"{gateway.url}/v1/unheard-of?key=s3cret",
        data="body",
        headers={"x-goog-api-key": "s3cret"},
        timeout=10,
    )
    assert [call.status for call in gateway.calls] == [404]
    assert "s3cret" not in repr(gateway.calls)
    assert "s3cret" not in "".join(
        record.getMessage() for record in caplog.records if record.name == "werkzeug"
    )
    with pytest.raises(
        AssertionError, match=r"No handler found for request .*/v1/unheard-of.*'body'"
    ) as told:
        gateway.check_assertions()
    assert "s3cret" not in str(told.value)


def test_after_the_with_statement_nobody_listens() -> None:
    with ModelsGateway() as gateway:
        pass
    assert not gateway.is_running()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((gateway.host, gateway.port), timeout=10)


def test_it_can_be_stopped_and_started_again(
    gateway: ModelsGateway, http: requests.Session
) -> None:
    url = gateway.url
    gateway.stop()
    gateway.start()
    assert gateway.url == url
    assert ask(http, gateway).ok


def test_it_speaks_https(http: requests.Session) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with ModelsGateway(ssl_context=context) as gateway, authority.cert_pem.tempfile() as bundle:
        assert gateway.url.startswith("https://127.0.0.1:")
        http.verify = bundle
        assert ask(mount(http, gateway.url), gateway).ok


def test_it_needs_no_pytest() -> None:
    code = "import sys, cagent_session.testing; print('pytest' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "False\n"
    )


def test_without_the_extra_the_import_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytest_httpserver", None)
    monkeypatch.delitem(sys.modules, "cagent_session.testing")
    with pytest.raises(
        ImportError, match=re.escape('pip install "cagent-session[testing]"')
    ) as caught:
        importlib.import_module("cagent_session.testing")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__, "one traceback is enough"
