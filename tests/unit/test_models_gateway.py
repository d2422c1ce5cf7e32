"""Tests of the models gateway for tests: its records, its bills and its refusals."""

from __future__ import annotations

import base64
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
from collections.abc import Callable, Iterator
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
from cagent_session.testing.bedrock import event_frame

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


def test_paths_are_decoded_and_repeated_headers_are_joined(gateway: ModelsGateway) -> None:
    with socket.create_connection((gateway.host, gateway.port), timeout=10) as raw:
        raw.sendall(
            b"GET /v1/models/a%20b%2Fc%FF?d=%20 HTTP/1.1\r\nHost: x\r\n"
            b"X-Cagent-Forward: https://a.example\r\n"
            b"X-Cagent-Session-Id: one\r\nX-Cagent-Session-Id: two\r\n\r\n"
        )
        assert raw.makefile("rb").read().startswith(b"HTTP/1.1 404")
    (call,) = gateway.calls
    assert (call.path, call.session_id) == ("/v1/models/a b/c\ufffd", "one,two")


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
    http.headers[SESSION_ID_HEADER] = ""  # an empty ID counts as no ID
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
        (b'data: {"response": {"usage": %b}}\n\n' % TOKENS, EVENTS),
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


def test_a_handlers_streamed_answer_is_sent_and_billed_piece_by_piece(
    gateway: ModelsGateway, http: requests.Session
) -> None:
    """A piece is billed and sent before the next one is made."""
    received = threading.Event()

    def events(_request: Request) -> Response:
        def pieces() -> Iterator[bytes]:
            yield b'data: {"usage": null}\n\ndata: {"usage": {"prompt_'
            assert received.wait(10)
            yield b'tokens": 3, "completion_tokens": 4}}\r\n'
            yield b"\r\n"

        return Response(pieces(), mimetype=EVENTS)

    gateway.expect_request(CHAT).respond_with_handler(events)
    with http.post(gateway.url + CHAT, json=QUESTION, stream=True, timeout=10) as response:
        pieces = response.iter_content(None)
        assert next(pieces).endswith(b'"prompt_')
        assert gateway.usage() == {None: Usage(1, 0, 0)}
        received.set()
        assert next(pieces).startswith(b"tokens")
        assert gateway.usage() == {None: Usage(1, 3, 4)}
        assert b"".join(pieces) == b"\r\n"


@pytest.mark.parametrize("mimetype", [EVENTS, JSON])
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
    assert FORWARD_HEADER in error_of(response)
    assert "gateway_headers(" in error_of(response)
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


@pytest.mark.parametrize(
    "start", [b"Content-Length: 99\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"]
)
def test_an_incomplete_request_is_not_a_call(
    gateway: ModelsGateway, caplog: pytest.LogCaptureFixture, start: bytes
) -> None:
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Cagent-Forward: https://a.example\r\n"
    )
    with socket.create_connection((gateway.host, gateway.port), timeout=10) as raw:
        raw.sendall(head + start)
        raw.shutdown(socket.SHUT_WR)
        assert raw.makefile("rb").read().startswith(b"HTTP/1.1 400")
    assert gateway.calls == []
    assert "Traceback" not in caplog.text


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


def test_it_stops_at_once_while_clients_hold_connections(gateway: ModelsGateway, ask: Ask) -> None:
    """The test takes the shortest of three times, because the machine may be busy."""
    seconds = []
    for _ in range(3):
        with socket.create_connection((gateway.host, gateway.port), timeout=10):
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda _: ask(), range(8)))
            begin = time.perf_counter()
            gateway.stop()
            seconds.append(time.perf_counter() - begin)
        gateway.start()
    assert min(seconds) < 0.25


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
        "  POST  /two%20words          no X-Cagent-Forward: add gateway_headers()\n"
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


def test_it_serves_https(http: requests.Session) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with ModelsGateway(ssl_context=context) as gateway, authority.cert_pem.tempfile() as bundle:
        assert gateway.url.startswith("https://127.0.0.1:")
        http.verify = bundle
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
