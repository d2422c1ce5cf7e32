"""Tests of the models gateway for tests: its records, its bills and its refusals."""

from __future__ import annotations

import base64
import importlib
import json
import re
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from functools import partial
from typing import Any

import httpx
import pytest
import requests
import trustme
from hypothesis import given, settings, strategies
from pytest_httpserver import HTTPServer, HTTPServerError
from token_answers import (
    ADVISED,
    ADVISED_TOKENS,
    COMPACTED,
    COMPACTED_TOKENS,
    COMPACTION,
    CONTRADICTING,
    CONTRADICTING_TOKENS,
    ITERATIONS,
    LAST,
    nested,
    usage_with,
)
from werkzeug import Request, Response
from werkzeug.exceptions import TooManyRequests

from cagent_session import (
    FORWARD_HEADER,
    SESSION_ID_HEADER,
    Gateway,
    InvalidSessionId,
    gateway_headers,
    mount,
    session_id_hook,
    session_scope,
    sub_session,
)
from cagent_session.testing import Call, ModelsGateway, Usage
from cagent_session.testing.bedrock import event_frame
from cagent_session.testing.documents import JSON_LINES_TYPES, Documents
from cagent_session.testing.serving import Handler, start_serving
from cagent_session.testing.tokens import NUMBERS, TOKEN_FIELDS, TokenCounter, TokenFields

FORWARD = "https://api.openai.com/v1"
CHAT = "/v1/chat/completions"
QUESTION: dict[str, Any] = {
    "model": "gpt-4o",
    "messages": [{"role": "user", "content": "Where is  the\ncat?"}],
}
# This answer does not fit into the buffers of sockets. So the gateway can't produce its end before
# the client reads.
LONG_WORDS = 200
LONG: dict[str, Any] = {
    "messages": [{"role": "user", "content": ("x" * 100_000 + " ") * LONG_WORDS}],
    "stream": True,
}
SECRET_FORWARD = "https://user:s3cret@api.example/v1?key=s3cret"

BODY = json.dumps(QUESTION).encode()

Ask = Callable[..., requests.Response]


@pytest.fixture
def gateway() -> Iterator[ModelsGateway]:
    with ModelsGateway() as gateway:
        yield gateway


@pytest.fixture
def http(gateway: ModelsGateway) -> Iterator[requests.Session]:
    with mount(requests.Session(), gateway.url) as session:
        session.trust_env = False
        session.headers.update(gateway_headers(FORWARD))
        yield session


@pytest.fixture
def ask(gateway: ModelsGateway, http: requests.Session) -> Ask:
    """Return a function that sends the question to the gateway. It takes changes of the body."""

    def ask(method: str = "POST", path: str = CHAT, **changes: Any) -> requests.Response:
        body = {**QUESTION, **changes}
        return http.request(method, gateway.url + path, json=body, timeout=10)

    return ask


def error_of(response: requests.Response) -> str:
    """Return the message of an error in OpenAI's format."""
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return str(error["message"])


def test_it_listens_on_loopback_and_its_url_has_no_trailing_slash(gateway: ModelsGateway) -> None:
    assert gateway.url == f"http://127.0.0.1:{gateway.port}"
    assert gateway.port > 0


def test_a_program_that_does_not_stop_it_ends_nevertheless() -> None:
    program = "from cagent_session.testing import ModelsGateway; ModelsGateway().start()"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_it_records_calls_in_order(gateway: ModelsGateway, ask: Ask) -> None:
    with session_scope("sess-1"):
        ask()
    ask("GET", "/v1/models?limit=1")
    first, second = gateway.calls
    assert (first.method, first.path, first.session_id, first.forward, first.status) == (
        ("POST", CHAT, "sess-1", FORWARD, 200)
    )
    assert json.loads(first.body) == first.json == QUESTION
    assert (first.prompt_tokens, first.completion_tokens) == (4, 6)
    assert (second.method, second.path, second.session_id, second.status) == (
        ("GET", "/v1/models", None, 404)
    )


def test_the_json_of_a_body_that_is_not_json_is_none(gateway: ModelsGateway, http: Any) -> None:
    http.post(gateway.url + CHAT, data=b"{'a': 1}", timeout=10)
    assert (gateway.calls[0].body, gateway.calls[0].json) == (b"{'a': 1}", None)


def test_the_headers_of_a_call_take_names_in_any_case(gateway: ModelsGateway, ask: Ask) -> None:
    ask()
    assert gateway.calls[0].headers["x-cagent-LANG"] == "python"
    assert "X-Cagent-Compacting" not in gateway.calls[0].headers


def send(gateway: ModelsGateway, request: bytes) -> bytes:
    """Send *request* as it is, and return the whole answer."""
    with socket.create_connection((gateway.host, gateway.port), timeout=10) as raw:
        raw.sendall(request)
        raw.shutdown(socket.SHUT_WR)
        return raw.makefile("rb").read()


def test_paths_are_decoded_and_repeated_headers_are_joined(gateway: ModelsGateway) -> None:
    head = b"GET /v1/models/a%20b%2Fc%FF?d=%20 HTTP/1.1\r\nHost: x\r\nX-Cagent-Forward: a\r\n"
    assert send(gateway, head + b"A: one\r\na:two \r\n\r\n").startswith(b"HTTP/1.1 404")
    (call,) = gateway.calls
    assert (call.path, call.headers["A"]) == ("/v1/models/a b/c\ufffd", "one,two")


def test_the_list_of_calls_is_a_copy(gateway: ModelsGateway, ask: Ask) -> None:
    ask()
    before = gateway.calls
    ask()
    before.clear()
    assert len(gateway.calls) == 2


def test_the_calls_of_a_session_are_found_by_its_id(
    gateway: ModelsGateway, http: requests.Session, ask: Ask
) -> None:
    session_id = uuid.uuid4()
    for scope in (session_id, "sess-2", None):
        with session_scope(scope):
            ask()
    http.headers[SESSION_ID_HEADER] = ""  # it is malformed
    ask()
    first, second, third, fourth = gateway.calls
    assert gateway.calls_in(session_id) == gateway.calls_in(str(session_id)) == [first]
    assert gateway.calls_in("sess-2") == [second]
    assert gateway.calls_in(None) == [third, fourth]
    assert gateway.calls_in("sess-3") == []


def test_each_session_is_billed_for_its_own_calls(gateway: ModelsGateway, ask: Ask) -> None:
    for scope, stream in (("sess-1", False), ("sess-2", True), ("sess-1", True), (None, False)):
        with session_scope(scope):
            ask(stream=stream)
    bill = gateway.usage()
    assert bill == {"sess-1": Usage(2, 8, 12), "sess-2": Usage(1, 4, 6), None: Usage(1, 4, 6)}
    assert bill["sess-1"].total_tokens == 20


def test_refused_calls_are_recorded_but_not_billed(gateway: ModelsGateway, ask: Ask) -> None:
    busy = gateway.expect_request("/v1/busy")
    busy.respond_with_json({"usage": {"prompt_tokens": 5}}, status=429)
    with session_scope("sess-1"):
        ask(path="/v1/busy")
    assert [call.status for call in gateway.calls_in("sess-1")] == [429]
    assert gateway.usage() == {}


JSON, LINES, EVENTS = "application/json", "application/x-ndjson", "text/event-stream"


def answer_with(fields: TokenFields, place: str, first: int = 1) -> tuple[Any, Usage]:
    """Return an answer with *fields* at *place*, and its usage."""
    usage, numbers = usage_with(fields, first)
    usage = {"unknown": 1 << 20, "detail": {"input_tokens": 1 << 21}, **usage}
    return nested(place, usage), Usage(1, **numbers)


def billed(gateway: ModelsGateway, ask: Ask, answer: Any, mimetype: str, **options: Any) -> Usage:
    """Return the usage of a call that is answered with *answer*."""
    document = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    gateway.expect_oneshot_request("/v1/x").respond_with_data(document, content_type=mimetype)
    before = len(gateway.calls)
    assert ask(path="/v1/x", **options).content == document
    call = gateway.calls[before]
    return Usage(1, **{number: getattr(call, number) for number in NUMBERS})


TABLE = {
    f"{fields.format}, {place}": (fields, place)
    for fields in TOKEN_FIELDS
    for place in fields.places
}


@pytest.mark.parametrize(("fields", "place"), TABLE.values(), ids=TABLE)
@pytest.mark.parametrize("streamed", [False, True])
def test_each_format_of_the_table_is_billed(
    gateway: ModelsGateway, ask: Ask, fields: TokenFields, place: str, streamed: bool
) -> None:
    answer, usage = answer_with(fields, place)
    mimetype = JSON
    if streamed:  # an event that states the same fields later counts instead
        early, _ = answer_with(fields, place, first=1 << 10)
        events = [{"usage": None}, early, answer, {"done": True}]
        mimetype = EVENTS
        answer = b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events)
    assert billed(gateway, ask, answer, mimetype) == usage
    assert gateway.usage() == {None: usage}
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


@pytest.mark.parametrize(
    ("answer", "usage"),
    [
        (
            {
                "usageMetadata": {
                    "promptTokenCount": 40,
                    "toolUsePromptTokenCount": 2,
                    "cachedContentTokenCount": 9,
                    "candidatesTokenCount": 5,
                    "thoughtsTokenCount": 3,
                }
            },
            Usage(1, 42, 8, 9),
        ),
        (
            {
                "usage": {
                    "input_tokens": 40,
                    "cache_read_input_tokens": 7,
                    "cache_creation_input_tokens": 2,
                    "output_tokens": 5,
                }
            },
            Usage(1, 49, 5, 7, 2),
        ),
        (
            {
                "usage": {
                    "inputTokens": 40,
                    "cacheReadInputTokens": 7,
                    "cacheWriteInputTokens": 2,
                    "outputTokens": 5,
                }
            },
            Usage(1, 49, 5, 7, 2),
        ),
        (
            {
                "usage": {
                    "input_tokens": 40,
                    "input_tokens_details": {"cached_tokens": 7},
                    "output_tokens": 5,
                    "output_tokens_details": {"reasoning_tokens": 3},
                }
            },
            Usage(1, 40, 5, 7),
        ),
    ],
    ids=["Gemini", "Anthropic", "Bedrock", "OpenAI"],
)
@pytest.mark.parametrize("mimetype", [JSON, "application/jsonl"])
def test_what_a_provider_counts_apart_is_added(
    gateway: ModelsGateway, ask: Ask, answer: Any, usage: Usage, mimetype: str
) -> None:
    document = json.dumps(answer).encode()
    if mimetype != JSON:
        document += b"\n{}\n"
    assert billed(gateway, ask, document, mimetype) == usage


def test_sums_of_cached_tokens_are_billed(gateway: ModelsGateway, ask: Ask) -> None:
    details = {"cached_tokens": 3, "cache_write_tokens": 2}
    for _ in range(2):
        billed(
            gateway, ask, {"usage": {"prompt_tokens": 7, "prompt_tokens_details": details}}, JSON
        )
    assert gateway.usage() == {None: Usage(2, 14, 0, 6, 4)}


ITERATED = [
    *((events, COMPACTED_TOKENS) for events in COMPACTED.values()),
    *((events, ADVISED_TOKENS) for events in ADVISED.values()),
    (CONTRADICTING, CONTRADICTING_TOKENS),
]


@pytest.mark.parametrize(
    ("events", "tokens"), ITERATED, ids=[*COMPACTED, *ADVISED, "contradicting figures"]
)
@pytest.mark.parametrize("begin", [b"{", b"data: {"])
def test_all_iterations_of_a_message_are_billed(
    gateway: ModelsGateway, ask: Ask, events: list[Any], tokens: tuple[int, int], begin: bytes
) -> None:
    """The documents are the lines of an answer, or server-sent events."""
    lines = [json.dumps(event).encode().replace(b"{", begin, 1) + b"\n\n" for event in events]
    mimetype = EVENTS if begin.startswith(b"data") else LINES
    assert billed(gateway, ask, b"".join(lines), mimetype) == Usage(1, *tokens)


def test_the_cached_tokens_of_iterations_are_billed(gateway: ModelsGateway, ask: Ask) -> None:
    cached = {"cache_read_input_tokens": 500, "cache_creation_input_tokens": 20}
    each = [COMPACTION, {**LAST, **cached}, {**LAST, **cached}]
    answer = {"usage": {**LAST, **cached, "iterations": each}}
    assert billed(gateway, ask, answer, JSON) == Usage(1, 227_040, 5_500, 1000, 40)
    # If the iterations do not state the field, that of the whole message counts.
    answer = {"usage": {**LAST, **cached, **ITERATIONS}}
    assert billed(gateway, ask, answer, JSON) == Usage(1, 203_520, 4_500, 500, 20)


@pytest.mark.parametrize("iterations", [None, [], {}, 5, [5, None], [{"input_tokens": True}]])
def test_malformed_iterations_are_ignored(
    gateway: ModelsGateway, ask: Ask, iterations: Any
) -> None:
    answer = {"usage": {**LAST, "iterations": iterations}}
    assert billed(gateway, ask, answer, JSON) == Usage(1, 23_000, 1_000)


@pytest.mark.parametrize("method", ["GET", "DELETE", "PATCH"])
def test_only_a_post_spends_tokens(gateway: ModelsGateway, ask: Ask, method: str) -> None:
    """A GET may return a stored answer with its usage. It was billed when it was made."""
    answer = {"usage": {"input_tokens": 7, "output_tokens": 2}}
    assert billed(gateway, ask, answer, JSON, method=method) == Usage(1, 0, 0)


TOKENS = b'{"input_tokens": 7, "output_tokens": 2}'
ANTHROPIC_EVENTS = (
    b'data: {"message": {"usage": {"input_tokens": 7, "output_tokens": 1}}}\n\n'
    b'data: {"type": "message_delta", "usage": {"output_tokens": 2}}\n\n'
)
FRAMES = "application/vnd.amazon.eventstream"
CONVERSE_FRAMES = event_frame("messageStart", {"role": "assistant"}) + event_frame(
    "metadata", {"usage": {"inputTokens": 7, "outputTokens": 2}}
)
CHUNK_FRAMES = event_frame(
    "chunk", {"bytes": base64.b64encode(b'{"message": {"usage": %b}}' % TOKENS).decode()}
)
GEMINI_LIST = (
    b'[{"a": [1]},\n {"usageMetadata": {"promptTokenCount": 7,\n "candidatesTokenCount": 2}}]\n'
)


@pytest.mark.parametrize(
    ("document", "mimetype"),
    [
        (b'{"usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}}', JSON),
        (b'{"usage": %b}' % TOKENS, JSON),
        (b'{"usage": {"tokens": %b}}' % TOKENS, JSON),
        (b'{"usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 2}}', JSON),
        (b'{"prompt_eval_count": 7, "eval_count": 2}', JSON),
        (b'{"a": 1}\n{"prompt_eval_count": 7, "eval_count": 2}', LINES),
        *(
            (b'{"a": 1}\r\n{"usage": %b}\n\n{"b": 2}' % TOKENS, mimetype)
            for mimetype in JSON_LINES_TYPES
        ),
        (b'data: {"response": {"usage": %b}}\n\n' % TOKENS, EVENTS),
        (b'data: {"usage": %b}' % TOKENS, EVENTS),
        (b': a\ndata: {"usage":\ndata:%b\ndata: }\nid: 5\n\ndata: [DONE]\n\n' % TOKENS, EVENTS),
        (b'data: {"usage":\r\ndata:%b\r\ndata: }\r\n\r\n: the end' % TOKENS, EVENTS),
        (b'data: {"usage":\rdata:%b\rdata: }\r\r' % TOKENS, EVENTS),
        (ANTHROPIC_EVENTS, EVENTS),
        (b'data: {"message": {"usage": %b}}\n\n' % TOKENS, EVENTS),
        (b'data: {"delta": {"usage": {"tokens": %b}}}\n\n' % TOKENS, EVENTS),
        (CONVERSE_FRAMES, FRAMES),
        (CHUNK_FRAMES, FRAMES),
        (GEMINI_LIST, JSON),
    ],
)
@pytest.mark.parametrize("size", [1, 1000], ids=["in single bytes", "in one piece"])
def test_a_handlers_answer_in_any_providers_format_is_billed(
    gateway: ModelsGateway, ask: Ask, document: bytes, mimetype: str, size: int
) -> None:
    def handler(_request: Request) -> Response:
        pieces = (document[at : at + size] for at in range(0, len(document), size))
        return Response(pieces, mimetype=mimetype)

    gateway.expect_oneshot_request(CHAT).respond_with_handler(handler)
    with session_scope("sess-1"):
        assert ask().content == document
    assert gateway.usage() == {"sess-1": Usage(1, 7, 2)}


@pytest.mark.parametrize(
    ("document", "mimetype", "prompt_tokens"),
    [
        ('{"data": [], "usage": {"total_tokens": 7}}', JSON, 7),  # Voyage's embeddings
        ("", JSON, 0),
        ("[]", JSON, 0),
        ("[5]", JSON, 0),
        ('{"usage": null}', JSON, 0),
        ('{"usage": {"prompt_tokens": "many"}}', JSON, 0),
        ('{"usage": {"prompt_tokens": true}}', JSON, 0),
        ('{"usage": {"prompt_tokens": 7.5}}', JSON, 0),
        ('data: {"usage":\n\ndata: {"prompt_tokens": 7}}\n\n', EVENTS, 0),  # two events
        ("[" * 99_999, JSON, 0),
        ("\0" * 99, FRAMES, 0),
        ("not frames" * 99, FRAMES, 0),
        ("\0\0\0\x10" + "\0" * 12, FRAMES, 0),  # an event without a document
    ],
)
def test_an_answer_may_state_only_the_total_or_no_tokens(
    gateway: ModelsGateway, ask: Ask, document: str, mimetype: str, prompt_tokens: int
) -> None:
    gateway.expect_request(CHAT).respond_with_data(document, content_type=mimetype)
    assert ask().text == document
    assert gateway.usage() == {None: Usage(1, prompt_tokens, 0)}


@pytest.mark.parametrize("mimetype", [JSON, LINES, EVENTS, FRAMES])
@pytest.mark.parametrize("part", ["many", "one"])
def test_counting_the_tokens_of_a_long_stream_takes_linear_time(mimetype: str, part: str) -> None:
    """Four times as many pieces take about four times as long, not sixteen times."""

    def seconds_for(pieces: int) -> float:
        text = json.dumps({"choices": [{"delta": {"content": "x" * 2000}}]}).encode()
        if mimetype == FRAMES:
            text = event_frame("a", json.loads(text))
        wire = {EVENTS: b"data: %b\n\n" % text, LINES: text + b"\n"}.get(mimetype, text)
        data = [wire] * pieces
        if part == "one":  # one document in all
            data = [b"x" * 2000] * pieces
            if mimetype == FRAMES:
                data[0] = event_frame("a", {"b": "x" * 2000 * pieces})[:2000]
        best = 60.0
        for _ in range(3):
            documents, counter = Documents(mimetype), TokenCounter()
            begin = time.thread_time()  # of the processor, because the machine may be busy
            for piece in data:
                for document in documents.add(piece):
                    counter.add(document)
            for document in documents.end():
                counter.add(document)
            best = min(best, time.thread_time() - begin)
        return best

    assert seconds_for(4000) < 10 * max(seconds_for(1000), 0.01)  # less than that is noise


def test_a_streamed_answer_with_a_length_is_billed_before_its_last_piece(
    gateway: ModelsGateway, http: requests.Session
) -> None:
    """The client has all of it then, and does not wait for the end of the stream."""
    document, received = b'{"usage": {"prompt_tokens": 7}}', threading.Event()

    def pieces() -> Iterator[bytes]:
        yield document[:9]
        yield document[9:]
        assert received.wait(10)

    headers = {"Content-Length": str(len(document))}
    gateway.expect_request(CHAT).respond_with_handler(
        lambda _request: Response(pieces(), headers=headers, mimetype=JSON)
    )
    assert http.post(gateway.url + CHAT, json=QUESTION, timeout=10).content == document
    assert gateway.usage() == {None: Usage(1, 7, 0)}
    received.set()


def test_a_handlers_streamed_answer_is_sent_and_billed_piece_by_piece(
    gateway: ModelsGateway, http: requests.Session
) -> None:
    """A piece is billed and sent before the next one is made."""
    received = threading.Event()

    def events(_request: Request) -> Response:
        def pieces() -> Iterator[bytes]:
            yield b'data: {"usage": null}\n\ndata: {"usage": {"prompt_'
            assert received.wait(10)
            yield b'tokens": 3, "completion_tokens": 4}}\r\n\r\n'
            yield b": the end\r\n"

        return Response(pieces(), mimetype=EVENTS)

    gateway.expect_request(CHAT).respond_with_handler(events)
    with http.post(gateway.url + CHAT, json=QUESTION, stream=True, timeout=10) as response:
        pieces = response.iter_content(None)
        assert next(pieces).endswith(b'"prompt_')
        assert gateway.usage() == {None: Usage(1, 0, 0)}
        received.set()
        assert next(pieces).startswith(b"tokens")
        assert gateway.usage() == {None: Usage(1, 3, 4)}
        assert b"".join(pieces) == b": the end\r\n"


@pytest.mark.parametrize("mimetype", [LINES, JSON])
def test_a_handler_may_return_the_same_response_again(
    gateway: ModelsGateway, ask: Ask, mimetype: str
) -> None:
    class Pieces:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b'{"usage": {"input', b'_tokens": 3}}'])

    gateway.expect_request("/v1/x").respond_with_response(Response(Pieces(), mimetype=mimetype))
    for _ in range(2):
        assert ask(path="/v1/x").json() == {"usage": {"input_tokens": 3}}
    assert gateway.usage() == {None: Usage(2, 6, 0)}


@pytest.mark.parametrize("marker", [{}, {FORWARD_HEADER: ""}, {FORWARD_HEADER: b"\xa0"}])
def test_a_request_without_a_marker_is_refused_before_any_handler(
    gateway: ModelsGateway, http: requests.Session, ask: Ask, marker: dict[str, Any]
) -> None:
    gateway.expect_request(CHAT).respond_with_data("handled")
    del http.headers[FORWARD_HEADER]
    http.headers.update(marker)
    response = ask()
    assert response.status_code == 400
    assert f"has no marker, the header {FORWARD_HEADER}," in error_of(response)
    assert f"gateway is {gateway.gateway}" in error_of(response)
    assert [call.status for call in gateway.calls] == [400]


def test_the_first_event_arrives_before_the_last_one_is_made(
    gateway: ModelsGateway, http: requests.Session
) -> None:
    with http.post(gateway.url + CHAT, json=LONG, stream=True, timeout=60) as response:
        lines = response.iter_lines(chunk_size=1_000_000)
        assert next(lines).startswith(b"data: {")
        assert gateway.usage() == {None: Usage(1, 0, 0)}
        assert sum(b"content" in line for line in lines) == LONG_WORDS + 2
    assert gateway.usage() == {None: Usage(1, LONG_WORDS, LONG_WORDS + 2)}


def test_a_client_that_hangs_up_is_not_billed_for_the_rest(
    gateway: ModelsGateway, http: requests.Session, ask: Ask, capfd: pytest.CaptureFixture[str]
) -> None:
    before = set(threading.enumerate())
    with http.post(gateway.url + CHAT, json=LONG, stream=True, timeout=60) as response:
        assert response.raw.read(10)
        (answering,) = set(threading.enumerate()) - before
    answering.join(10)
    assert not answering.is_alive()
    assert ask().ok
    assert gateway.usage() == {None: Usage(2, 4, 6)}
    assert "Traceback" not in capfd.readouterr().err


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Cagent-Forward: https://a.example\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "rest",
    [
        b"Content-Length: 99\r\n\r\nabc",
        CHUNKED + b"3\r\nabc\r\n",
        CHUNKED + b"x\r\nabc\r\n0\r\n\r\n",
        CHUNKED + b"3\r\nabcdef\r\n0\r\n\r\n",
    ],
)
def test_a_request_with_an_incomplete_body_is_recorded_and_refused(
    gateway: ModelsGateway, caplog: pytest.LogCaptureFixture, rest: bytes
) -> None:
    gateway.require_session()
    for session in (b"X-Cagent-Session-Id: sess-1\r\n", b""):
        answer = send(gateway, HEAD + session + rest)
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"the body is incomplete" in answer
    assert [(call.session_id, call.status, call.body) for call in gateway.calls] == [
        ("sess-1", 400, b""),
        (None, 400, b""),
    ]
    assert gateway.usage() == {}
    with pytest.raises(AssertionError, match=r"^1 call reached .* in no session:"):
        gateway.check_sessions()
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("request_", "method", "path", "status"),
    [
        (HEAD + b"A: " + b"b" * 70_000 + b"\r\n\r\n", "POST", CHAT, 431),
        (HEAD + b"A: b\r\n" * 200 + b"\r\n", "POST", CHAT, 431),
        (b"POST /a%20b?key=s3cret HTTP/3.0\r\n\r\n", "POST", "/a b", 505),
        (b"POST /a b?key=s3cret HTTP/1.1\r\n\r\n", "POST", "/a", 400),
        (b"POST\r\n\r\n", "POST", "", 400),
        (b"POST /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", "POST", "/" + "a" * 65_531, 414),
    ],
    ids=["long header", "many headers", "version", "syntax", "no path", "long path"],
)
@pytest.mark.parametrize("marker", [FORWARD_HEADER, None])
def test_a_request_that_the_server_refuses_is_recorded(
    caplog: pytest.LogCaptureFixture,
    request_: bytes,
    method: str,
    path: str,
    status: int,
    marker: str | None,
) -> None:
    with ModelsGateway(marker=marker) as gateway:
        gateway.require_session()
        with socket.create_connection((gateway.host, gateway.port), timeout=10) as raw:
            raw.sendall(request_)
            assert raw.recv(1)
        with requests.Session() as http:
            ask_through(http, gateway)
    refused, other = gateway.calls
    assert (refused.method, refused.path, refused.status) == (method, path, status)
    assert (refused.session_id, dict(refused.headers), refused.body) == (None, {}, b"")
    assert gateway.usage() == {}
    with pytest.raises(AssertionError, match=r"^2 calls reached .* in no session:") as failure:
        gateway.check_sessions()
    assert f"no headers could be read: answered {status}\n" in str(failure.value)
    assert "s3cret" not in str(failure.value) + caplog.text
    assert other.status == 400


def test_a_server_that_is_no_gateway_also_refuses_such_requests() -> None:
    """The stand-ins for providers in examples/gateways are such servers."""
    with Plain("127.0.0.1", 0) as server:
        with socket.create_connection((server.host, server.port), timeout=10) as raw:
            raw.sendall(b"POST\r\n\r\n")
            assert b"400" in raw.makefile("rb").read()
        with pytest.raises(HTTPServerError, match="already running"):
            server.start()


class Plain(HTTPServer):
    def start(self) -> None:
        start_serving(self)


MALFORMED = {
    "two": b"%(name)b: one\r\n%(name)b: two\r\n",
    "the same twice": b"%(name)b: one\r\nx: y\r\n%(name)b: one\r\n",
    "two empty ones": b"%(name)b:\r\n%(name)b: \r\n",
    "empty": b"%(name)b:\r\n",
    "a space": b"%(name)b: two words\r\n",
    "folded": b"%(name)b: two\r\n words\r\n",
    "long": b"%%(name)b: %b\r\n" % (b"a" * 5000),
    "other bytes": b"%(name)b: sess-\xfc\xff\r\n",
}


@pytest.mark.parametrize("malformed", MALFORMED.values(), ids=MALFORMED)
@pytest.mark.parametrize("names", [{}, {"session_header": "session_id", "root_header": "root_id"}])
@pytest.mark.parametrize("header", ["session_header", "root_header"])
def test_a_call_with_a_malformed_id_is_in_no_session(
    malformed: bytes, names: dict[str, Any], header: str
) -> None:
    usual = {"session_header": SESSION_ID_HEADER, "root_header": "X-Cagent-Root-Session"}
    used = {**usual, **names}
    sent = malformed % {b"name": used[header].encode()}
    if header == "root_header":
        sent += f"{used['session_header']}: sess-1\r\n".encode()
    question = b"%%bContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
    with ModelsGateway(**names) as gateway:
        assert send(gateway, HEAD + question % sent).startswith(b"HTTP/1.1 200")
        gateway.require_session()
        answer = send(gateway, HEAD + question % sent)
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"session ID, or that of its root session, is malformed" in answer
        assert send(gateway, HEAD + question % b"").startswith(b"HTTP/1.1 400")
    accepted, refused, without = gateway.calls
    assert accepted.has_malformed_id
    assert refused.has_malformed_id
    assert not without.has_malformed_id
    assert [(call.session_id, call.root_session_id) for call in gateway.calls] == [(None, None)] * 3
    assert gateway.usage() == gateway.usage(by="root") == {None: Usage(1, 4, 6)}
    assert gateway.calls_in(None) == gateway.calls
    call = f"POST  {CHAT}  X-Cagent-Forward: https://a.example"
    with pytest.raises(AssertionError) as failure:
        gateway.check_sessions()
    assert str(failure.value).splitlines()[:3] == [
        "2 calls reached the models gateway in no session:",
        f"  malformed ID   {call}",
        f"  in no session  {call}",
    ]
    with pytest.raises(AssertionError, match="calls in all: 3, in no session: 3") as failure:
        gateway.assert_attributed("sess-1")
    assert str(failure.value).splitlines()[1] == f"  >  malformed ID   {call}"


def test_white_space_around_an_id_is_not_part_of_it(gateway: ModelsGateway) -> None:
    """RFC 9110, section 5.5."""
    send(gateway, HEAD + b"X-Cagent-Session-Id: \t sess-1 \t\r\n\r\n")
    assert gateway.calls[0].session_id == "sess-1"


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/models"), ("GET", CHAT), ("DELETE", "/"), ("POST", f"{CHAT}/x")],
)
def test_an_unexpected_call_is_answered_404_and_fails_the_check(
    gateway: ModelsGateway, ask: Ask, method: str, path: str
) -> None:
    for _ in range(2):
        response = ask(method, path)
        assert response.status_code == 404
        assert f"no answer to {method} {path}: " in error_of(response)
        assert [call.status for call in gateway.calls] == [404]
        with pytest.raises(AssertionError, match="No handler found"):
            gateway.check_assertions()
        gateway.clear()


def test_a_head_request_gets_no_body(gateway: ModelsGateway, ask: Ask) -> None:
    response = ask("HEAD", "/v1/models")
    assert (response.status_code, response.content, gateway.calls[0].method) == (404, b"", "HEAD")


def test_after_a_default_answer_the_check_passes(gateway: ModelsGateway, ask: Ask) -> None:
    ask()
    gateway.check()


def test_a_call_out_of_order_gets_no_default_answer(gateway: ModelsGateway, ask: Ask) -> None:
    gateway.expect_ordered_request("/v1/first").respond_with_data("first")
    assert ask().status_code == 404
    with pytest.raises(AssertionError, match="No handler found"):
        gateway.check_assertions()


@pytest.mark.parametrize(
    ("error", "status"), [(TooManyRequests(), 429), (ZeroDivisionError(), 500)]
)
def test_a_failing_handler_is_recorded_with_its_status(
    gateway: ModelsGateway, ask: Ask, error: Exception, status: int
) -> None:
    def handler(_request: Request) -> Response:
        raise error

    gateway.expect_request(CHAT).respond_with_handler(handler)
    assert ask().status_code == status
    assert [call.status for call in gateway.calls] == [status]
    with pytest.raises(type(error)):
        gateway.check()


def test_a_call_without_an_answer_is_recorded_but_not_billed(
    gateway: ModelsGateway, ask: Ask
) -> None:
    before_answer: list[Call] = []

    def handler(_request: Request) -> Response:
        before_answer.extend(gateway.calls)
        assert gateway.usage() == {}
        return Response()

    gateway.expect_request(CHAT).respond_with_handler(handler)
    assert ask().ok
    assert [(call.json, call.status) for call in before_answer] == [(QUESTION, 0)]


def test_concurrent_calls_are_billed_to_their_sessions(gateway: ModelsGateway, ask: Ask) -> None:
    def work(number: int) -> None:
        with session_scope(f"sess-{number}"):
            for stream in (False, True, False):
                ask(stream=stream)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    assert gateway.usage() == {f"sess-{number}": Usage(3, 12, 18) for number in range(16)}


def test_clear_removes_calls_and_handlers(gateway: ModelsGateway, ask: Ask) -> None:
    """It also removes a call that has no answer yet."""

    def handler(_request: Request) -> Response:
        gateway.clear()
        return Response("cleared")

    gateway.expect_request(CHAT).respond_with_handler(handler)
    assert ask().text == "cleared"
    assert (gateway.calls, gateway.usage()) == ([], {})
    assert ask().json()["object"] == "chat.completion"


def test_it_does_not_wait_for_silent_connections(
    gateway: ModelsGateway, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cagent_session.testing.serving._STOP_SECONDS", 60)
    with socket.create_connection((gateway.host, gateway.port), timeout=10):
        assert ask().ok
        begin = time.perf_counter()
        gateway.stop()
        assert time.perf_counter() - begin < 30  # it would wait a minute for a call


def test_stop_waits_for_the_answers_to_calls_that_have_begun(
    gateway: ModelsGateway, ask: Ask
) -> None:
    answering, release = threading.Event(), threading.Event()

    def handler(_request: Request) -> Response:
        answering.set()
        assert release.wait(10)
        return Response('{"usage": {"prompt_tokens": 7}}', mimetype=JSON)

    gateway.expect_request(CHAT).respond_with_handler(handler)
    with ThreadPoolExecutor(2) as pool:
        call = pool.submit(ask)
        assert answering.wait(10)
        stopping = pool.submit(gateway.stop)
        assert not wait([stopping], timeout=0.1).done
        release.set()
        stopping.result(10)
        assert gateway.usage() == {None: Usage(1, 7, 0)}
        assert call.result(10).ok


def test_stop_also_answers_calls_that_wait_to_be_accepted(gateway: ModelsGateway) -> None:
    gateway.require_session()
    server: Any = gateway.server
    accept, stopping_begins = server.process_request, threading.Event()

    def accept_late(*connection: Any) -> None:
        assert stopping_begins.wait(10)
        accept(*connection)

    server.process_request = accept_late
    with ThreadPoolExecutor(1) as pool, ExitStack() as stack:
        connect = partial(socket.create_connection, (gateway.host, gateway.port), timeout=10)
        clients = [stack.enter_context(connect()) for _ in range(20)]
        for client in clients:
            client.sendall(HEAD + b"\r\n")
        stopping = pool.submit(gateway.stop)
        stopping_begins.set()
        stopping.result(10)
        assert [client.recv(12) for client in clients] == [b"HTTP/1.1 400"] * 20
    with pytest.raises(AssertionError, match="20 calls reached the models gateway in no session"):
        gateway.check_sessions()


def test_stop_waits_only_for_a_while(
    gateway: ModelsGateway, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cagent_session.testing.serving._STOP_SECONDS", 0.1)
    answering, release = threading.Event(), threading.Event()

    def handler(_request: Request) -> Response:
        answering.set()
        release.wait(10)
        return Response()

    gateway.expect_request(CHAT).respond_with_handler(handler)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(ask)
        assert answering.wait(10)
        gateway.stop()
        assert [call.status for call in gateway.calls] == [0]
        release.set()
        assert call.result(10).ok


@pytest.fixture
def tls() -> Iterator[tuple[ModelsGateway, str]]:
    """A gateway with TLS, and the file with its authority."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with ModelsGateway(ssl_context=context) as gateway, authority.cert_pem.tempfile() as bundle:
        yield gateway, bundle


@pytest.mark.parametrize("begin", [b"", b"\x16", b"GET / HTTP/1.1\r\n\r\n"])
def test_a_connection_without_tls_blocks_neither_calls_nor_stop(
    tls: tuple[ModelsGateway, str],
    http: requests.Session,
    begin: bytes,
    capfd: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cagent_session.testing.serving._STOP_SECONDS", 60)
    gateway, http.verify = tls
    with socket.create_connection((gateway.host, gateway.port), timeout=10) as raw:
        raw.sendall(begin)
        assert mount(http, gateway.url).post(gateway.url + CHAT, json=QUESTION, timeout=10).ok
        begin_of_stop = time.perf_counter()
        gateway.stop()
        assert time.perf_counter() - begin_of_stop < 30  # it would wait a minute for a call
    assert [call.path for call in gateway.calls] == [CHAT]
    assert "Traceback" not in capfd.readouterr().err


def test_a_client_of_tls_that_has_gone_leaves_no_connection_open(
    tls: tuple[ModelsGateway, str], http: requests.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket that is not closed warns, and a warning is an error in these tests."""
    accept, gone, accepted = socket.socket.accept, threading.Event(), threading.Event()

    def accept_later(listening: socket.socket) -> Any:
        assert gone.wait(10)
        accepted.set()
        return accept(listening)

    gateway, http.verify = tls
    monkeypatch.setattr(socket.socket, "accept", accept_later)
    raw = socket.create_connection((gateway.host, gateway.port), timeout=10)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()  # resets the connection
    gone.set()
    assert accepted.wait(10)
    assert mount(http, gateway.url).post(gateway.url + CHAT, json=QUESTION, timeout=10).ok


@pytest.mark.parametrize("begin", [b"", b"GET / HTTP/1.1\r\nA: b"])
@pytest.mark.parametrize("of", ["gateway", "tls"])
def test_a_silent_connection_is_closed_after_a_while(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, of: str, begin: bytes
) -> None:
    assert Handler.timeout
    monkeypatch.setattr(Handler, "timeout", 0.1)
    gateway, *_ = value if isinstance(value := request.getfixturevalue(of), tuple) else (value,)
    with socket.create_connection((gateway.host, gateway.port), timeout=10) as raw:
        raw.sendall(begin if of == "gateway" else b"")
        assert raw.recv(1) == b""
    assert gateway.calls == []


def test_the_body_and_the_answer_may_take_longer(gateway: ModelsGateway) -> None:
    assert Handler.timeout
    in_time: list[float | None] = []

    def handler(request: Request) -> Response:
        in_time.append(request.environ["werkzeug.socket"].gettimeout())
        return Response()

    gateway.expect_request(CHAT).respond_with_handler(handler)
    assert send(gateway, HEAD + b"\r\n").startswith(b"HTTP/1.1 200")
    assert in_time == [None]


def ask_through(client: Any, gateway: ModelsGateway, **headers: str) -> Any:
    """Ask the question with *client*, a Session or a Client, and with these headers."""
    return client.post(gateway.url + CHAT, json=QUESTION, headers=headers, timeout=10)


def session_for(gateway: Gateway) -> requests.Session:
    session = mount(requests.Session(), gateway)
    session.trust_env = False
    return session


def client_for(gateway: Gateway) -> httpx.Client:
    return httpx.Client(event_hooks={"request": [session_id_hook(gateway)]}, trust_env=False)


OTHER_NAMES: dict[str, Any] = {
    "session_header": "x-session-id",
    "marker": None,
    "root_header": "x-root-session-id",
    "parent_header": "x-parent-session-id",
}
WITH_UNDERSCORES: dict[str, Any] = {
    "session_header": "session_id",
    "marker": "use_gateway",
    "root_header": "root_id",
    "parent_header": "parent_id",
}


@pytest.mark.parametrize("names", [{}, OTHER_NAMES, WITH_UNDERSCORES], ids=str)
def test_its_gateway_has_its_url_and_its_names(names: dict[str, Any]) -> None:
    with ModelsGateway(**names) as gateway:
        usual = {"root_header": "X-Cagent-Root-Session"}
        assert gateway.gateway == Gateway(gateway.url, **{**usual, **names})


@pytest.mark.parametrize("names", [OTHER_NAMES, WITH_UNDERSCORES], ids=str)
@pytest.mark.parametrize("connect", [session_for, client_for])
def test_it_reads_headers_of_other_names(
    names: dict[str, Any], connect: Callable[[Gateway], Any]
) -> None:
    with ModelsGateway(**names) as gateway, connect(gateway.gateway) as http:
        headers = gateway.gateway.route("openai").headers
        http.headers[SESSION_ID_HEADER] = "not read"
        with session_scope("sess-1"):
            with sub_session("sub-1"), sub_session("sub-2"):
                assert ask_through(http, gateway, **headers).status_code == 200
            assert ask_through(http, gateway, **headers).status_code == 200
        assert ask_through(http, gateway, **headers).status_code == 200
        assert [
            (call.session_id, call.root_session_id, call.parent_session_id, call.forward)
            for call in gateway.calls
        ] == [
            ("sub-2", "sess-1", "sub-1", headers.get(names["marker"])),
            ("sess-1", "sess-1", None, headers.get(names["marker"])),
            (None, None, None, headers.get(names["marker"])),
        ]
        assert gateway.calls_in("sub-2") == gateway.calls[:1]
        assert gateway.usage() == {
            "sub-2": Usage(1, 4, 6),
            "sess-1": Usage(1, 4, 6),
            None: Usage(1, 4, 6),
        }
        assert gateway.usage(by="root") == {"sess-1": Usage(2, 8, 12), None: Usage(1, 4, 6)}


def test_headers_with_an_underscore_are_not_those_with_a_hyphen() -> None:
    with ModelsGateway(session_header="session_id", marker=None) as gateway:
        head = b"GET / HTTP/1.1\r\nHost: x\r\nSession-Id: not read\r\nSession_Id: one\r\n"
        send(gateway, head + b"a_b: c\r\nA_B: d\r\n\r\n")
        (call,) = gateway.calls
        assert (call.session_id, call.headers["a_b"]) == ("one", "c,d")


def test_a_root_header_of_none_is_not_read() -> None:
    with ModelsGateway(root_header=None, marker=None) as gateway:
        sent = {SESSION_ID_HEADER: "sub-1", "X-Cagent-Root-Session": "sess-1"}
        with requests.Session() as http:
            ask_through(http, gateway, **sent)
        assert gateway.usage(by="root") == gateway.usage() == {"sub-1": Usage(1, 4, 6)}


@pytest.mark.parametrize("value", [None, "", "two words", "a" * 257, "\xe9"])
def test_a_missing_root_or_a_malformed_parent_counts_as_none(value: str | None) -> None:
    with ModelsGateway(parent_header="X-Parent") as gateway, requests.Session() as http:
        http.headers.update({} if value is None else {"X-Parent": value})
        ask_through(http, gateway, **{FORWARD_HEADER: FORWARD, SESSION_ID_HEADER: "sub-1"})
        ask_through(http, gateway, **{FORWARD_HEADER: FORWARD})
        in_session, in_none = gateway.calls
        assert (in_session.root_session_id, in_session.parent_session_id) == ("sub-1", None)
        assert (in_none.root_session_id, in_none.parent_session_id) == (None, None)
        assert gateway.usage("root") == {"sub-1": Usage(1, 4, 6), None: Usage(1, 4, 6)}


def test_a_root_in_no_session_is_not_billed(gateway: ModelsGateway) -> None:
    sent = {FORWARD_HEADER: FORWARD, "X-Cagent-Root-Session": "sess-1"}
    with requests.Session() as http:
        ask_through(http, gateway, **sent)
    assert gateway.usage(by="root") == {None: Usage(1, 4, 6)}


@settings(max_examples=30)
@given(strategies.lists(strategies.sampled_from(["call", "sub", "own", "none", "up"]), max_size=30))
def test_the_bill_by_root_adds_up_to_the_bill_by_session(steps: list[str]) -> None:
    """The steps open and leave sessions and sub-sessions, to any depth, and make calls in them."""
    with ModelsGateway() as gateway, session_for(gateway.gateway) as http:
        http.headers.update(gateway_headers(FORWARD))
        open_now: list[tuple[Any, str | None]] = []
        roots: list[str | None] = []
        scope: Any
        for number, step in enumerate(steps):
            root = open_now[-1][1] if open_now else None
            if step == "call":
                ask_through(http, gateway)
                roots.append(root)
            elif step != "up":
                session_id = None if step == "none" else f"{step}-{number}"
                scope = (sub_session if step == "sub" else session_scope)(session_id)
                scope.__enter__()
                open_now.append((scope, root if step == "sub" and root else session_id))
            elif open_now:
                open_now.pop()[0].__exit__()
        for scope, _ in reversed(open_now):
            scope.__exit__()
    by_session, by_root = gateway.usage(by="session"), gateway.usage(by="root")
    assert {root: usage.calls for root, usage in by_root.items()} == {
        root: roots.count(root) for root in roots
    }
    assert total(by_root) == total(by_session) == (len(roots), 4 * len(roots), 6 * len(roots))


def total(bill: Mapping[str | None, Usage]) -> tuple[int, ...]:
    names = ("calls", "prompt_tokens", "completion_tokens")
    return tuple(sum(getattr(usage, name) for usage in bill.values()) for name in names)


def test_refused_calls_are_on_no_roots_bill(gateway: ModelsGateway, http: Any, ask: Ask) -> None:
    http.headers["X-Cagent-Root-Session"] = "sess-1"
    with session_scope("sub-1"):
        ask(path="/v1/unknown")
    assert gateway.calls_in("sub-1")
    assert gateway.usage(by="root") == {}


@pytest.mark.parametrize("by", ["parent", "", None])
def test_another_kind_of_bill_is_an_error(gateway: ModelsGateway, by: Any) -> None:
    with pytest.raises(ValueError, match=rf'^by must be "session" or "root", got {by!r}$'):
        gateway.usage(by=by)
    with pytest.raises(ValueError, match=rf'^by must be "session" or "root", got {by!r}$'):
        gateway.assert_attributed("sess-1", by=by)


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ({"session_header": "x y"}, ValueError, r"session_header must be .*, got 'x y'"),
        ({"session_header": None}, TypeError, "session_header must be .*, got NoneType"),
        ({"marker": ""}, ValueError, "marker must be .*, got ''"),
        ({"marker": "x-cagent-session-id"}, ValueError, "must be different names"),
        ({"parent_header": "X-Cagent-Root-Session"}, ValueError, "must be different names"),
    ],
    ids=str,
)
def test_an_invalid_name_is_an_error(
    names: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ModelsGateway(**names)


@pytest.mark.parametrize("marker", [{}, {"X-Use-Gateway": ""}])
def test_a_request_without_the_marker_of_another_name_is_refused(marker: dict[str, str]) -> None:
    with ModelsGateway(marker="X-Use-Gateway") as gateway, requests.Session() as http:
        refused = ask_through(http, gateway, **{FORWARD_HEADER: FORWARD}, **marker)
        assert refused.status_code == 400
        assert "has no marker, the header X-Use-Gateway," in error_of(refused)
        assert f"gateway is {gateway.gateway!r}" in error_of(refused)
        assert FORWARD_HEADER not in error_of(refused)
        assert ask_through(http, gateway, **gateway.gateway.route("openai").headers).ok


def test_without_a_marker_every_request_is_for_the_gateway() -> None:
    with ModelsGateway(session_header="x-session-id", marker=None) as gateway:
        gateway.require_session()
        with requests.Session() as http:
            refused = ask_through(http, gateway, **{SESSION_ID_HEADER: "sess-1"})
            assert error_of(refused).startswith("the request has no x-session-id, and this gateway")
            assert f"gateway is {gateway.gateway!r}" in error_of(refused)
            assert ask_through(http, gateway, **{"X-Session-Id": "sess-1"}).ok
        with pytest.raises(AssertionError) as failure:
            gateway.assert_attributed("sess-1")
        assert str(failure.value).splitlines()[1:] == [
            f"  >  in no session  POST  {CHAT}",
            f"     in sess-1      POST  {CHAT}",
        ]
        with pytest.raises(AssertionError) as failure:
            gateway.check_sessions()
        first, call, *_, last = str(failure.value).splitlines()
        assert (first[:6], call) == ("1 call", f"  POST  {CHAT}")
        other = "This gateway reads other headers than docker-agent's: gateway is"
        assert last == f"{other} {gateway.gateway!r}"
        messages = str(failure.value) + error_of(refused)
        assert "session_header='x-session-id', marker=None" in messages
        assert FORWARD_HEADER not in messages


def test_the_list_of_calls_shows_no_key_in_a_marker_of_another_name() -> None:
    with ModelsGateway(marker="X-Use-Gateway") as gateway, requests.Session() as http:
        gateway.require_session()
        for value in ("s3cret", SECRET_FORWARD, ""):
            ask_through(http, gateway, **{"X-Use-Gateway": value})
        with pytest.raises(AssertionError) as failure:
            gateway.check_sessions()
        _, *rows, _, _, _, _, last = str(failure.value).splitlines()
        assert [row.split(CHAT)[1] for row in rows] == [
            "  X-Use-Gateway: ...",
            "  X-Use-Gateway: https://api.example/v1",
            "  no X-Use-Gateway: add gateway.route(...).headers",
        ]
        assert "marker='X-Use-Gateway'" in last


def test_require_session_refuses_later_calls_in_no_session(
    gateway: ModelsGateway, ask: Ask
) -> None:
    gateway.expect_request("/v1/models").respond_with_data("handled")
    assert ask(path="/v1/models").text == "handled"
    gateway.require_session()
    for path in ("/v1/models", CHAT):
        refused = ask(path=path)
        assert refused.status_code == 400
        problem = "the request has no X-Cagent-Session-Id, and this gateway requires a session"
        assert error_of(refused).startswith(problem)
    with session_scope("sess-1"):
        assert ask().status_code == 200
    assert gateway.usage()[None].calls == 1
    gateway.require_session(False)
    assert ask().status_code == 200


def test_check_sessions_lists_each_refused_call_once(
    gateway: ModelsGateway, http: requests.Session, ask: Ask
) -> None:
    gateway.require_session()
    for path, forward in (
        ("/v1/two words?key=s3cret", SECRET_FORWARD),
        (CHAT, "s3cret"),
        ("/two words", ""),
    ):
        http.headers[FORWARD_HEADER] = forward
        ask(path=path)
    with pytest.raises(AssertionError) as failure:
        gateway.check_sessions()
    assert str(failure.value) == (
        "3 calls reached the models gateway in no session:\n"
        "  POST  /v1/two%20words       X-Cagent-Forward: https://api.example/v1\n"
        "  POST  /v1/chat/completions  X-Cagent-Forward: a URL that can't be read\n"
        "  POST  /two%20words          no X-Cagent-Forward: add gateway.route(...).headers\n"
        "Make each call inside session_scope(), or in a function decorated with in_session().\n"
        "A web application needs SessionMiddleware. Test clients call it in no session.\n"
        "Call instrument(gateway) first, or use a client with mount() or session_id_hook().\n"
        'To find a call, use instrument(gateway, missing="raise"). Then the call itself fails.'
    )
    gateway.check_sessions()
    ask()
    one_call = r"^1 call reached the models gateway in no session:\n  POST  /v1/chat"
    with pytest.raises(AssertionError, match=one_call):
        gateway.check_assertions()
    gateway.check_assertions()
    ask()
    gateway.clear()
    gateway.check_sessions()
    assert ask().status_code == 400


def test_check_sessions_lists_the_first_of_many_calls(gateway: ModelsGateway, ask: Ask) -> None:
    gateway.require_session()
    for number in range(23):
        ask(path=f"/{number}")
    with pytest.raises(AssertionError, match=r"^23 calls") as failure:
        gateway.check_sessions()
    _, *rows, last, _, _, _, _ = str(failure.value).splitlines()
    assert [row.split()[1] for row in rows] == [f"/{number}" for number in range(20)]
    assert last == "  and 3 more"


def test_check_assertions_also_fails_for_added_assertions(gateway: ModelsGateway) -> None:
    gateway.add_assertion("added")
    gateway.check_sessions()
    with pytest.raises(AssertionError, match=r"^added$"):
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
def test_assert_attributed_accepts_the_sessions_calls(
    gateway: ModelsGateway, ask: Ask, made: list[str], calls: int | None
) -> None:
    for session_id in made:
        with session_scope(session_id):
            ask()
    gateway.assert_attributed("sess-1", calls=calls)


@pytest.mark.parametrize(
    ("made", "calls", "expected", "got", "in_none"),
    [
        ([], None, "every call", 0, 0),
        ([], 1, "1 call", 0, 0),
        (["sess-1", "sess-2"], None, "every call", 1, 0),
        (["sess-1", None], None, "every call", 1, 1),
        (["sess-1", None], 1, "1 call", 1, 1),
        (["sess-1", "sess-2"], 2, "2 calls", 1, 0),
        (["sess-1", "sess-1"], 1, "1 call", 2, 0),
        (["sess-1", "sess-1"], 0, "0 calls", 2, 0),
    ],
)
def test_assert_attributed_fails_with_a_list_of_all_calls(
    gateway: ModelsGateway,
    ask: Ask,
    made: list[str | None],
    calls: int | None,
    expected: str,
    got: int,
    in_none: int,
) -> None:
    for session_id in made:
        with session_scope(session_id):
            ask()
    with pytest.raises(AssertionError) as failure:
        gateway.assert_attributed("sess-1", calls=calls)
    first, *rows = str(failure.value).splitlines()
    numbers = f"calls in all: {len(made)}, in no session: {in_none}"
    assert first == f"expected {expected} in session sess-1, got {got}; {numbers}"
    sessions = {"sess-1": "     in sess-1", "sess-2": "  >  in sess-2", None: "  >  in no session"}
    width = max((len(sessions[session_id]) for session_id in made), default=0)
    call = f"POST  {CHAT}  X-Cagent-Forward: {FORWARD}"
    assert rows == [f"{sessions[session_id]:{width}}  {call}" for session_id in made]


def test_assert_attributed_can_count_the_calls_of_sub_sessions(
    gateway: ModelsGateway, http: requests.Session, ask: Ask
) -> None:
    mount(http, gateway.gateway)  # it sends the root, too
    with session_scope("sess-1"):
        ask()
        with sub_session("sub-1"):
            ask()
    gateway.assert_attributed("sess-1", by="root")
    gateway.assert_attributed("sess-1", calls=2, by="root")
    gateway.assert_attributed("sess-1", calls=1)
    with pytest.raises(AssertionError) as failure:
        gateway.assert_attributed("sub-1", by="root")
    first, *rows = str(failure.value).splitlines()
    assert first.startswith("expected every call in root session sub-1, got 0; calls in all: 2")
    assert [row.partition("  POST")[0].strip() for row in rows] == [
        ">  in sess-1",
        ">  in sub-1 of sess-1",
    ]


def test_assert_attributed_lists_the_other_calls_first_if_there_are_many(
    gateway: ModelsGateway, ask: Ask
) -> None:
    for number in range(30):
        with session_scope(None if number == 25 else "sess-1"):
            ask(path=f"/{number}")
    with pytest.raises(AssertionError, match=r"^expected 30 calls .* got 29; ") as failure:
        gateway.assert_attributed("sess-1", calls=30)
    _, first, second, *_, last = str(failure.value).splitlines()
    assert first.split()[:6] == [">", "in", "no", "session", "POST", "/25"]
    assert second.split()[:4] == ["in", "sess-1", "POST", "/0"]
    assert last == "  and 10 more"


def test_assert_attributed_takes_a_uuid_and_refuses_other_values(
    gateway: ModelsGateway, ask: Ask
) -> None:
    session_id = uuid.uuid4()
    with session_scope(session_id):
        ask()
    gateway.assert_attributed(session_id)
    with pytest.raises(InvalidSessionId, match="a space at position 2"):
        gateway.assert_attributed("no session")
    with pytest.raises(ValueError, match=r"^calls must be 0 or more, got -1$"):
        gateway.assert_attributed(session_id, calls=-1)


def test_no_key_password_or_query_is_logged_or_shown(
    gateway: ModelsGateway, http: requests.Session, caplog: pytest.LogCaptureFixture
) -> None:
    http.headers[FORWARD_HEADER] = SECRET_FORWARD
    headers = {"x-goog-api-key": "s3cret", "Authorization": "Bearer s3cret"}
    http.post(f"{gateway.url}/v1/other?key=s3cret", data="body", headers=headers, timeout=10)
    (call,) = gateway.calls
    assert (call.status, call.headers["Authorization"]) == (404, "Bearer s3cret")
    assert "s3cret" not in repr(gateway.calls)
    logged = [record.getMessage() for record in caplog.records if record.name == "werkzeug"]
    assert "s3cret" not in "".join(logged)
    no_handler = r"No handler found for request .*/v1/other.*'body'"
    with pytest.raises(AssertionError, match=no_handler) as failure:
        gateway.check_assertions()
    assert "s3cret" not in str(failure.value)


def test_after_the_with_statement_it_does_not_listen() -> None:
    with ModelsGateway() as gateway:
        assert gateway.server
        listening = gateway.server.socket  # not the port: another program may take it next
    assert not gateway.is_running()
    assert listening.fileno() == -1


def test_it_can_be_stopped_and_started_again(gateway: ModelsGateway, ask: Ask) -> None:
    url = gateway.url
    gateway.stop()
    gateway.start()
    assert gateway.url == url
    assert ask().ok


def test_it_serves_https(tls: tuple[ModelsGateway, str], http: requests.Session) -> None:
    gateway, http.verify = tls
    assert gateway.url.startswith("https://127.0.0.1:")
    assert mount(http, gateway.url).post(gateway.url + CHAT, json=QUESTION, timeout=10).ok


def test_it_works_without_pytest() -> None:
    code = "import sys, cagent_session.testing; print('pytest' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


def test_without_the_extra_the_import_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pytest_httpserver", None)
    monkeypatch.delitem(sys.modules, "cagent_session.testing")
    command = re.escape('pip install "cagent-session[testing]"')
    with pytest.raises(ImportError, match=command) as caught:
        importlib.import_module("cagent_session.testing")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__, "one traceback is enough"
