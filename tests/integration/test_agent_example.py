"""Does the example agent's every call reach its gateway in the right session, and does it fail in one line?"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from cagent_session.testing import ModelsGateway

AGENT = str(Path(__file__).parents[2] / "examples" / "agent.py")
AS_MAIN = f"\nimport runpy; runpy.run_path({AGENT!r}, run_name='__main__')"
CHAT = "/v1/chat/completions"
ROW = re.compile(
    r"(?:(main|sub ) (\S+)|- +)  (run loop|sub-session|title|compaction|direct) +(\d+) +(\d+)"
).fullmatch
TOTAL = re.compile(r"(main|sub ) (\S+) +(\d+) +(\d+)  (\S+)").fullmatch


@pytest.fixture
def gateway() -> Iterator[ModelsGateway]:
    with ModelsGateway() as gateway:
        yield gateway


@pytest.fixture
def provider() -> Iterator[HTTPServer]:
    with HTTPServer("127.0.0.1") as provider:
        provider.expect_request("/v1/models").respond_with_json({"data": []})
        yield provider


@pytest.fixture
def nobody() -> Iterator[str]:
    """The URL of a port that is taken, but that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def environment_with(variables: dict[str, str]) -> dict[str, str]:
    ours = ("DOCKER_AGENT_MODELS_GATEWAY", "CAGENT_MODELS_GATEWAY", "OPENAI_API_KEY")
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ours and "proxy" not in name.lower()
    }
    return {**kept, "PYTHONIOENCODING": "utf-8", **variables}


def run(
    *arguments: str, before: str | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the example as a program, or as the main module after the statements of *before*."""
    program = [AGENT] if before is None else ["-c", before + AS_MAIN]
    return subprocess.run(
        [sys.executable, "-W", "error", *program, *arguments],
        env=environment_with(variables),
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


def run_through(
    gateway: ModelsGateway, provider: HTTPServer, *arguments: str, **kwargs: Any
) -> tuple[str, list[Any]]:
    """Run the example through a gateway of the test; return what it printed, and the rows of its table."""
    result = run(
        "--models-gateway", gateway.url, "--forward", provider.url_for("/v1"), *arguments, **kwargs
    )
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout, rows_of(result.stdout)


def rows_of(output: str) -> list[Any]:
    """The rows as (label, session ID, kind, status, tokens)."""
    rows = [row.groups() for row in map(ROW, output.splitlines()) if row]
    return [(*texts, int(status), int(tokens)) for *texts, status, tokens in rows]


def assert_fails(result: subprocess.CompletedProcess[str], status: int, *parts: str) -> None:
    """Check that it ended with *status* and one line that has all the *parts*."""
    assert result.returncode == status
    assert result.stderr.startswith("agent.py: ")
    assert len(result.stderr.splitlines()) == 1
    assert [part for part in parts if part not in result.stderr] == []
    assert "Traceback" not in result.stdout + result.stderr


def events(*choices: Any) -> Response:
    chunks = [json.dumps({"choices": [choice]}) for choice in choices]
    return Response(
        "".join(f"data: {chunk}\n\n" for chunk in [*chunks, "[DONE]"]), mimetype="text/event-stream"
    )


def tool_call(name: str, arguments: str) -> Response:
    call = {
        "index": 0,
        "id": "call_1",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }
    return events({"delta": {"tool_calls": [call]}, "finish_reason": "tool_calls"})


def totals_of(output: str) -> list[Any]:
    """The totals as (label, session ID, calls, tokens, delegating session)."""
    totals = [total.groups() for total in map(TOTAL, output.splitlines()) if total]
    return [
        (label, session, int(calls), int(tokens), parent)
        for label, session, calls, tokens, parent in totals
    ]


def test_without_a_gateway_it_brings_its_own() -> None:
    result = run()
    assert (result.returncode, result.stderr) == (0, "")
    rows = rows_of(result.stdout)
    main, sub = rows[0][1], rows[1][1]
    assert len({uuid.UUID(main), uuid.UUID(sub)}) == 2
    assert [row[:4] for row in rows] == [
        ("main", main, "run loop", 200),
        ("sub ", sub, "sub-session", 200),
        ("sub ", sub, "sub-session", 200),
        ("main", main, "run loop", 200),
        ("main", main, "title", 200),
        ("main", main, "compaction", 200),
        (None, None, "direct", 200),
    ]
    assert [row[4] > 0 for row in rows] == [True] * 6 + [False]
    tokens = {session: sum(row[4] for row in rows if row[1] == session) for session in (main, sub)}
    assert totals_of(result.stdout) == [
        ("main", main, 4, tokens[main], "-"),
        ("sub ", sub, 2, tokens[sub], main),
    ]
    assert result.stdout.splitlines()[-1] == (
        "The direct provider call carried no X-Cagent-* header (as the provider received it)."
    )


def test_its_tools_really_run() -> None:
    output = run("one two three four").stdout
    assert '-> transfer_task({"task": "one two three four"})' in output
    assert "<- The tool said: 4 words" in output


def test_it_prints_what_the_gateway_saw(gateway: ModelsGateway, provider: HTTPServer) -> None:
    output, rows = run_through(gateway, provider)
    assert [(row[1], row[3], row[4]) for row in rows[:-1]] == [
        (call.session_id, call.status, call.prompt_tokens + call.completion_tokens)
        for call in gateway.calls
    ]
    assert {session: (calls, tokens) for _, session, calls, tokens, _ in totals_of(output)} == {
        session: (usage.calls, usage.total_tokens) for session, usage in gateway.usage().items()
    }
    assert (
        output.splitlines()[-1]
        == "The direct provider call carried no X-Cagent-* header (as it was sent)."
    )


def test_title_and_compaction_say_what_they_are(
    gateway: ModelsGateway, provider: HTTPServer
) -> None:
    """Nor do they offer tools: providers refuse an empty list of them."""
    _, rows = run_through(gateway, provider)
    assert ["tools" in call.json for call in gateway.calls] == [
        True,
        True,
        True,
        True,
        False,
        False,
    ]
    purposes = {"title": ("1", None), "compaction": (None, "1")}
    assert [
        (call.headers.get("X-Cagent-GeneratingTitle"), call.headers.get("X-Cagent-Compacting"))
        for call in gateway.calls
    ] == [purposes.get(row[2], (None, None)) for row in rows[:-1]]


def test_the_provider_gets_nothing_of_ours(gateway: ModelsGateway, provider: HTTPServer) -> None:
    run_through(gateway, provider)
    assert {call.forward for call in gateway.calls} == {provider.url_for("/v1")}
    ((request, _),) = provider.log
    assert (request.method, request.path) == ("GET", "/v1/models")
    assert [
        name for name, _ in request.headers.items() if name.lower().startswith("x-cagent")
    ] == []


def test_session_model_and_prompt_reach_the_gateway(
    gateway: ModelsGateway, provider: HTTPServer
) -> None:
    run_through(gateway, provider, "--session", "my-session", "--model", "my-model", "my prompt")
    assert [call.session_id == "my-session" for call in gateway.calls] == [
        True,
        False,
        False,
        True,
        True,
        True,
    ]
    assert {(call.json["model"], call.headers["X-Cagent-Model"]) for call in gateway.calls} == {
        ("my-model",) * 2
    }
    assert gateway.calls[0].json["messages"] == [{"role": "user", "content": "my prompt"}]


@pytest.mark.parametrize(
    ("option", "docker_agent", "cagent"),
    [
        ("{}", "{nobody}", "{nobody}"),
        (None, "{}", "{nobody}"),
        (None, None, "{}"),
        (" ", " / ", "\t{}/ "),
    ],
)
def test_the_gateway_is_found_where_docker_agent_finds_it(
    gateway: ModelsGateway,
    provider: HTTPServer,
    nobody: str,
    option: str | None,
    docker_agent: str | None,
    cagent: str | None,
) -> None:
    """The option, then the two variables; white space and one slash at the end are trimmed, and nothing is not set."""
    option, docker_agent, cagent = (
        url and url.format(gateway.url, nobody=nobody) for url in (option, docker_agent, cagent)
    )
    variables = {"DOCKER_AGENT_MODELS_GATEWAY": docker_agent, "CAGENT_MODELS_GATEWAY": cagent}
    result = run(
        *(() if option is None else ("--models-gateway", option)),
        *("--forward", provider.url_for("/v1")),
        **{name: url for name, url in variables.items() if url is not None},
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert len(gateway.calls) == 6


def test_the_key_goes_to_both_and_is_not_printed(
    gateway: ModelsGateway, provider: HTTPServer
) -> None:
    output, _ = run_through(gateway, provider, OPENAI_API_KEY=" sk-secret\n")
    carried = [call.headers["Authorization"] for call in gateway.calls] + [
        provider.log[0][0].headers["Authorization"]
    ]
    assert set(carried) == {"Bearer sk-secret"}
    assert "sk-secret" not in output


def test_a_provider_that_refuses_the_direct_call_does_not_matter(
    gateway: ModelsGateway, provider: HTTPServer
) -> None:
    provider.clear()
    provider.expect_request("/v1/models").respond_with_data("who are you?", status=401)
    _, rows = run_through(gateway, provider)
    assert rows[-1][2:4] == ("direct", 401)


def test_a_models_mistakes_are_told_to_it(gateway: ModelsGateway, provider: HTTPServer) -> None:
    for answer in (
        tool_call("no_such_tool", "{}"),
        tool_call("count_words", "not JSON"),
        tool_call("count_words", '{"number": 5}'),
        events({"delta": {"content": "I give up"}, "finish_reason": "stop"}),
    ):
        gateway.expect_oneshot_request(CHAT).respond_with_response(answer)
    output, _ = run_through(gateway, provider)
    assert "I give up" in output
    results = [
        message["content"]
        for message in gateway.calls[3].json["messages"]
        if message["role"] == "tool"
    ]
    assert len(results) == 3
    assert all(result.startswith("error: ") for result in results)


def test_it_prints_what_the_terminal_can_not_show(
    gateway: ModelsGateway, provider: HTTPServer
) -> None:
    output, _ = run_through(gateway, provider, "na\u00efve \U0001f600", PYTHONIOENCODING="ascii")
    assert "na?ve ?" in output


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--models-gateway", "gateway.example"), "gateway URL must be absolute"),
        (
            ("--models-gateway", "http://me:sk-secret@gateway.example"),
            "gateway URL must not contain a user",
        ),
        (("--no-such-option",), "unrecognized arguments: --no-such-option; see --help"),
        (("--session",), "expected one argument"),
        (("--session", "two words"), "session ID must be"),
        (("--session", ""), "session ID must be"),
        (("--forward", "provider.example"), "forward must be an absolute"),
        (("--forward", "https://me:sk-secret@provider.example"), "forward must be an absolute"),
        (("--model", "two\nlines"), "X-Cagent-Model"),
    ],
)
def test_bad_arguments(arguments: tuple[str, ...], problem: str) -> None:
    result = run(*arguments)
    assert_fails(result, 2, problem)
    assert "sk-secret" not in result.stdout + result.stderr


def test_a_key_that_no_header_can_carry() -> None:
    result = run(OPENAI_API_KEY="sk-secret\u2026")
    assert_fails(result, 2, "OPENAI_API_KEY")
    assert "sk-secret" not in result.stdout + result.stderr


def test_a_gateway_that_can_not_be_reached(nobody: str) -> None:
    assert_fails(
        run("--models-gateway", nobody), 1, "no answer from the models gateway: ConnectionError"
    )


def test_a_provider_that_can_not_be_reached_does_not_matter(
    gateway: ModelsGateway, nobody: str
) -> None:
    """A gateway is often the only way out; what was sent is known all the same."""
    result = run("--models-gateway", gateway.url, "--forward", nobody)
    assert (result.returncode, result.stderr) == (0, "")
    assert "direct         none       0" in result.stdout
    assert result.stdout.endswith(
        "The direct provider call carried no X-Cagent-* header (as it was sent).\n"
    )
    assert len(gateway.calls) == 6


def test_without_the_extra_it_says_what_is_missing(
    gateway: ModelsGateway, provider: HTTPServer
) -> None:
    missing = "import sys; sys.modules['pytest_httpserver'] = None;"
    assert_fails(run(before=missing), 1, 'pip install "cagent-session[testing]"')
    arguments = ("--models-gateway", gateway.url, "--forward", provider.url_for("/v1"))
    assert run(*arguments, before=missing).returncode == 0


@pytest.mark.parametrize(
    ("refusal", "parts"),
    [
        (Response('{"error": {"message": "Slow down."}}', 429), ["run loop", "429 Slow down."]),
        (
            Response('{"error": {"message": "No\\n\\u001b[1mmodel\\u2028 sk-secret"}}', 400),
            ["400 No  [1mmodel  ..."],
        ),
        (Response("<html>", 502), ["502 BAD GATEWAY"]),
        (Response('{"error": "' + "long" * 999 + '"}', 500), ["500 INTERNAL SERVER ERROR"]),
        (Response('{"error": {"message": "' + "long" * 999 + '"}}', 500), ["500 long"]),
    ],
)
def test_a_refused_call(gateway: ModelsGateway, refusal: Response, parts: list[str]) -> None:
    gateway.expect_request(CHAT).respond_with_response(refusal)
    result = run("--models-gateway", gateway.url, OPENAI_API_KEY="sk-secret")
    assert_fails(result, 1, "the models gateway refused", *parts)
    assert "sk-secret" not in result.stderr
    assert len(result.stderr) < 400


@pytest.mark.parametrize("header", ["X-Cagent-GeneratingTitle", "X-Cagent-Compacting"])
def test_a_refused_call_outside_the_run_loop(gateway: ModelsGateway, header: str) -> None:
    gateway.expect_request(CHAT, headers={header: "1"}).respond_with_json(
        {"error": {"message": "No."}}, status=403
    )
    assert_fails(run("--models-gateway", gateway.url), 1, "call: 403 No.")


def test_a_refused_call_in_the_sub_session(gateway: ModelsGateway) -> None:
    gateway.expect_ordered_request(CHAT).respond_with_response(
        tool_call("transfer_task", '{"task": "t"}')
    )
    gateway.expect_ordered_request(CHAT).respond_with_json(
        {"error": {"message": "No."}}, status=403
    )
    assert_fails(run("--models-gateway", gateway.url), 1, "refused the sub-session call: 403 No.")


@pytest.mark.parametrize(
    ("document", "mimetype"),
    [
        ("<html>", "text/html"),
        ('{"choices": []}', "application/json"),
        ("", "text/event-stream"),
        ("data: <html>\n\n", "text/event-stream"),
        ("data: \xff\n\n", "text/event-stream"),
        ("data: []\n\n", "text/event-stream"),
        ('data: {"error": {}}\n\n', "text/event-stream"),
        ('data: {"choices": [{"delta": {"content": 5}}]}\n\n', "text/event-stream"),
        (
            'data: {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {"total_tokens": "many"}}\n\n',
            "text/event-stream",
        ),
        ('data: {"choices": [{"delta": {"content": "The stream is"}}]}\n\n', "text/event-stream"),
    ],
)
def test_a_malformed_answer(gateway: ModelsGateway, document: str, mimetype: str) -> None:
    gateway.expect_request(CHAT).respond_with_response(
        Response(document.encode("latin-1"), mimetype=mimetype)
    )
    assert_fails(
        run("--models-gateway", gateway.url), 1, "malformed answer from the models gateway"
    )


def test_an_answer_whose_connection_breaks(gateway: ModelsGateway) -> None:
    def pieces() -> Iterator[bytes]:
        yield b'data: {"choices": []}\n\n'
        raise ConnectionResetError

    gateway.expect_request(CHAT).respond_with_handler(
        lambda _: Response(pieces(), mimetype="text/event-stream")
    )
    assert_fails(
        run("--models-gateway", gateway.url),
        1,
        "no answer from the models gateway: ChunkedEncodingError",
    )


def test_a_model_that_never_stops_calling_tools(gateway: ModelsGateway) -> None:
    gateway.expect_request(CHAT).respond_with_response(tool_call("count_words", '{"text": "t"}'))
    assert_fails(run("--models-gateway", gateway.url), 1, "after 8 rounds")
    assert len(gateway.calls) == 8


LEAK = """
from requests.adapters import HTTPAdapter
send = HTTPAdapter.send
def leak(self, request, **options):
    request.headers["X-Cagent-Id"] = "1"
    return send(self, request, **options)
HTTPAdapter.send = leak
"""


def test_a_header_that_leaks_to_the_provider_is_told(
    gateway: ModelsGateway, provider: HTTPServer
) -> None:
    arguments = ("--models-gateway", gateway.url, "--forward", provider.url_for("/v1"))
    assert_fails(run(*arguments, before=LEAK), 1, "the direct provider call carried X-Cagent-Id")
    assert_fails(run(before=LEAK), 1, "the direct provider call carried X-Cagent-Id")


def test_a_gateway_that_saw_something_else_is_told() -> None:
    lose = "import cagent_session.testing as t; t.ModelsGateway.calls = property(lambda self: [])"
    assert_fails(run(before=lose), 1, "what the models gateway saw differs from what was sent")


def test_it_ends_quietly_when_nobody_reads_on() -> None:
    with subprocess.Popen(
        [sys.executable, AGENT],
        env=environment_with({}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for a child process")
def test_ctrl_c_ends_it_at_once(gateway: ModelsGateway) -> None:
    """Even while the thread of a sub-agent waits for the gateway."""
    reached, released = threading.Event(), threading.Event()

    def wait(_request: Request) -> Response:
        reached.set()
        released.wait(30)
        return Response()

    gateway.expect_ordered_request(CHAT).respond_with_response(
        tool_call("transfer_task", '{"task": "t"}')
    )
    gateway.expect_ordered_request(CHAT).respond_with_handler(wait)
    allow = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    with subprocess.Popen(
        [sys.executable, "-c", allow + AS_MAIN, "--models-gateway", gateway.url],
        env=environment_with({}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        assert reached.wait(30)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=20)
        released.set()
    assert (process.returncode, errors) == (130, "agent.py: interrupted\n")
    assert "-> transfer_task" in output
