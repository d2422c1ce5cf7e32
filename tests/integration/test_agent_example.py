"""Tests of the example agent: its output, the session of each of its calls, and its errors."""

from __future__ import annotations

import importlib.util
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
from typing import Any, NamedTuple, Protocol

import pytest
from pytest_httpserver import HTTPServer
from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter
from werkzeug import Request as ReceivedRequest
from werkzeug import Response as Answer

from cagent_session import uninstrument
from cagent_session.testing import ModelsGateway

AGENT = str(Path(__file__).parents[2] / "examples" / "agent.py")
CHAT = "/v1/chat/completions"
STAND_INS = "Gateway, provider and model are stand-ins on this machine. The model only echoes."
CALL = re.compile(r"(main|sub) +(\S+)  (run loop|sub-agent|title|compaction) +(\d+)").fullmatch
BILL = re.compile(r"(main|sub) +(\S+) +(\d+) +(\d+)  (\S+|the user)").fullmatch


class Result(NamedTuple):
    """The exit status of the program, and what it printed."""

    status: int
    output: str
    errors: str

    def rows(self, table: Any) -> list[tuple[str | int, ...]]:
        """Return the rows of the table of calls or of the bill, with numbers as ``int``."""
        rows = [row.groups() for row in map(table, self.output.splitlines()) if row]
        return [tuple(int(cell) if cell.isdigit() else cell for cell in row) for row in rows]


class Run(Protocol):
    """A function that runs the example with arguments and environment variables."""

    def __call__(self, *arguments: str, **variables: str) -> Result: ...


def environment() -> dict[str, str]:
    """Return the environment without the variables that the example reads."""
    ours = ("DOCKER_AGENT_MODELS_GATEWAY", "CAGENT_MODELS_GATEWAY", "OPENAI_API_KEY")
    return {
        name: value
        for name, value in os.environ.items()
        if name not in ours and "proxy" not in name.lower()
    }


@pytest.fixture(scope="module")
def agent() -> Any:
    spec = importlib.util.spec_from_file_location("example_agent", AGENT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "example_agent", module)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture
def run(agent: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the example in this process, because that is quicker than a new one."""

    def run_here(*arguments: str, **variables: str) -> Result:
        monkeypatch.setattr(os, "environ", {**environment(), **variables})
        monkeypatch.setattr(sys, "argv", ["agent.py", *arguments])
        try:
            status: Any = agent.main()
        except SystemExit as error:
            status = error.code
        finally:
            uninstrument()
        output, errors = capsys.readouterr()
        return Result(status, output, errors)

    return run_here


def program(before: str, *arguments: str) -> subprocess.Popen[str]:
    """Run the statements *before* and then the example, in a new process."""
    code = f"{before}\nimport runpy; runpy.run_path({AGENT!r}, run_name='__main__')"
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[ModelsGateway, HTTPServer]]:
    with ModelsGateway() as gateway, HTTPServer("127.0.0.1") as provider:
        yield gateway, provider


@pytest.fixture
def gateway(servers: tuple[ModelsGateway, HTTPServer]) -> ModelsGateway:
    servers[0].clear()
    return servers[0]


@pytest.fixture
def provider(servers: tuple[ModelsGateway, HTTPServer]) -> HTTPServer:
    servers[1].clear()
    servers[1].expect_request("/v1/models").respond_with_json({"data": []})
    return servers[1]


@pytest.fixture
def options(gateway: ModelsGateway, provider: HTTPServer) -> tuple[str, ...]:
    """Return the options that send the calls to the test's gateway and provider."""
    return "--models-gateway", gateway.url, "--forward", provider.url_for("/v1")


@pytest.fixture
def unused_url() -> Iterator[str]:
    """Return a URL at which no server listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def assert_fails(result: Result, message: str) -> None:
    """Check that the program ended with one line that has *message*."""
    assert (result.status, len(result.errors.splitlines())) == (1, 1)
    assert result.errors.startswith("agent.py: ")
    assert message in result.errors


def completion(message: dict[str, Any]) -> Answer:
    choice = {"message": {"role": "assistant", **message}}
    document = {"choices": [choice], "usage": {"total_tokens": 1}}
    return Answer(json.dumps(document), mimetype="application/json")


def tool_call(name: str, arguments: str) -> Answer:
    function = {"name": name, "arguments": arguments}
    call = {"id": "call_1", "type": "function", "function": function}
    return completion({"content": None, "tool_calls": [call]})


def test_without_a_gateway_it_runs_with_stand_ins(run: Run) -> None:
    """Each call is in its session, and the bill adds up."""
    result = run(http_proxy="http://127.0.0.1:1")
    assert (result.status, result.errors) == (0, "")
    lines = result.output.splitlines()
    assert lines[0] == STAND_INS
    assert "<- The tool said: 7 words" in lines
    calls = result.rows(CALL)
    main, sub = calls[0][1], calls[1][1]
    assert len({uuid.UUID(str(main)), uuid.UUID(str(sub))}) == 2
    assert [call[:3] for call in calls] == [
        ("main", main, "run loop"),
        ("sub", sub, "sub-agent"),
        ("sub", sub, "sub-agent"),
        ("main", main, "run loop"),
        ("main", main, "title"),
        ("main", main, "compaction"),
    ]
    tokens = [sum(int(call[3]) for call in calls if call[1] == billed) for billed in (main, sub)]
    assert result.rows(BILL) == [
        ("main", main, 4, tokens[0], "the user"),
        ("sub", sub, 2, tokens[1], main),
    ]
    assert "One call went past the gateway, to the provider: GET http://127.0.0.1:" in result.output
    assert f"It was made in session {main} and carried no X-Cagent-* header." in lines
    assert lines[-3].startswith("What you have seen: ")


def test_with_a_gateway_it_prints_the_gateway_and_the_provider(
    run: Run, options: tuple[str, ...], gateway: ModelsGateway, provider: HTTPServer
) -> None:
    result = run(*options, "--model", "my-model")
    assert (result.status, result.errors) == (0, "")
    assert STAND_INS not in result.output
    assert result.output.splitlines()[0] == (
        f"Calls go through the gateway {gateway.url} to my-model at {provider.url_for('/v1')}."
    )


def test_it_prints_what_the_gateway_received(
    run: Run, options: tuple[str, ...], gateway: ModelsGateway
) -> None:
    result = run(*options)
    assert [(call[1], call[3]) for call in result.rows(CALL)] == [
        (call.session_id, call.prompt_tokens + call.completion_tokens) for call in gateway.calls
    ]
    assert {row[1]: row[2:4] for row in result.rows(BILL)} == {
        session: (usage.calls, usage.total_tokens) for session, usage in gateway.usage().items()
    }


def test_title_and_compaction_calls_have_their_header_and_no_tools(
    run: Run, options: tuple[str, ...], gateway: ModelsGateway
) -> None:
    run(*options)
    purposes = ("X-Cagent-GeneratingTitle", "X-Cagent-Compacting")
    assert [("tools" in call.json, *map(call.headers.get, purposes)) for call in gateway.calls] == [
        (True, None, None)
    ] * 4 + [(False, "1", None), (False, None, "1")]


def test_session_model_and_prompt_reach_the_gateway(
    run: Run, options: tuple[str, ...], gateway: ModelsGateway
) -> None:
    run(*options, "--session", "my-session", "--model", "my-model", "my prompt")
    in_my_session = [call.session_id == "my-session" for call in gateway.calls]
    assert in_my_session == [True, False, False, True, True, True]
    models = {(call.json["model"], call.headers["X-Cagent-Model"]) for call in gateway.calls}
    assert models == {("my-model", "my-model")}
    assert gateway.calls[0].json["messages"] == [{"role": "user", "content": "my prompt"}]


def test_the_provider_gets_the_key_and_no_cagent_header(
    run: Run, options: tuple[str, ...], gateway: ModelsGateway, provider: HTTPServer
) -> None:
    result = run(*options, OPENAI_API_KEY=" sk-secret\n")
    ((request, _),) = provider.log
    assert (request.method, request.path) == ("GET", "/v1/models")
    assert not [name for name, _ in request.headers if name.lower().startswith("x-cagent")]
    assert {call.forward for call in gateway.calls} == {provider.url_for("/v1")}
    keys = {call.headers["Authorization"] for call in gateway.calls}
    assert keys == {request.headers["Authorization"]} == {"Bearer sk-secret"}
    assert "sk-secret" not in result.output


@pytest.mark.parametrize(
    ("option", "docker_agent", "cagent"),
    [
        ("{}", "{unused}", "{unused}"),
        ("", "{}", "{unused}"),
        ("", "", "{}"),
        (" ", " / ", "\t{}/ "),
    ],
)
def test_it_reads_the_gateway_from_the_same_settings_as_docker_agent(
    run: Run,
    options: tuple[str, ...],
    gateway: ModelsGateway,
    unused_url: str,
    option: str,
    docker_agent: str,
    cagent: str,
) -> None:
    """The option wins over the variables. White space and one slash at the end are removed."""
    option, docker_agent, cagent = (
        url.format(gateway.url, unused=unused_url) for url in (option, docker_agent, cagent)
    )
    variables = {"DOCKER_AGENT_MODELS_GATEWAY": docker_agent, "CAGENT_MODELS_GATEWAY": cagent}
    assert run("--models-gateway", option, *options[2:], **variables).status == 0
    assert len(gateway.calls) == 6


@pytest.mark.parametrize("status", [401, 302, None])
def test_it_succeeds_if_the_provider_refuses_or_does_not_answer(
    run: Run,
    options: tuple[str, ...],
    provider: HTTPServer,
    unused_url: str,
    status: int | None,
) -> None:
    """An agent may reach the provider only through the gateway."""
    provider.clear()
    refusal = Answer("who are you?", status, {"Location": "/v1/models/all"})
    provider.expect_request("/v1/models").respond_with_response(refusal)
    result = run(*options) if status else run(*options[:2], "--forward", unused_url)
    assert result.status == 0
    assert f"/models, {f'status {status}' if status else 'no answer'}." in result.output
    assert "and carried no X-Cagent-* header." in result.output


def test_the_model_gets_an_error_for_each_wrong_tool_call(
    run: Run, options: tuple[str, ...], gateway: ModelsGateway
) -> None:
    for answer in (
        tool_call("no_such_tool", "{}"),
        tool_call("count_words", "not JSON"),
        tool_call("count_words", '{"number": 5}'),
        completion({"tool_calls": [{}]}),
        completion({"content": "I give up"}),
    ):
        gateway.expect_oneshot_request(CHAT).respond_with_response(answer)
    assert "I give up" in run(*options).output
    messages = gateway.calls[4].json["messages"]
    results = [message["content"] for message in messages if message["role"] == "tool"]
    assert len(results) == 4
    assert all(result.startswith("error: ") for result in results)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--models-gateway", "gateway.example"), "gateway URL must be absolute"),
        (
            ("--models-gateway", "http://me:sk-secret@gateway.example"),
            "gateway URL must not contain a user",
        ),
        (("--no-such-option",), "unrecognized arguments: --no-such-option"),
        (("--session",), "expected one argument"),
        (("--session", "two words"), "session ID must be"),
        (("--session", ""), "session ID must be"),
        (("--forward", "provider.example"), "forward must be an absolute"),
        (("--forward", "https://me:sk-secret@provider.example"), "forward must be an absolute"),
        (("--model", "two\nlines"), "X-Cagent-Model"),
    ],
)
def test_bad_arguments_end_it_with_a_usage_error(
    run: Run, arguments: tuple[str, ...], problem: str
) -> None:
    result = run(*arguments)
    assert (result.status, result.output) == (2, "")
    assert problem in result.errors.partition("agent.py: error: ")[2]
    assert "sk-secret" not in result.errors


@pytest.mark.parametrize(
    ("name", "value"),
    [("OPENAI_API_KEY", "sk-secret\u2026"), ("CAGENT_MODELS_GATEWAY", "me:sk-secret@gateway")],
)
def test_bad_variables_are_named(run: Run, name: str, value: str) -> None:
    result = run(**{name: value})
    assert result.status == 2
    assert name in result.errors
    assert "sk-secret" not in result.output + result.errors


def test_an_unreachable_gateway_ends_it_with_one_line(run: Run, unused_url: str) -> None:
    result = run("--models-gateway", unused_url)
    assert_fails(result, "no answer from the gateway: ConnectionError")


@pytest.mark.parametrize(
    ("refusal", "shown"),
    [
        (Answer('{"error": {"message": "Slow down."}}', 429), '429 {"error": {"message": "Slow'),
        (Answer("No\n\u001b[1mmodel\u2028 sk-secret", 400), "400 No  [1mmodel  ...\n"),
        (Answer("", 502), "502 BAD GATEWAY"),
        (Answer("long" * 999, 500), "500 long"),
    ],
)
def test_a_refused_call_ends_it_with_the_gateways_answer(
    run: Run, gateway: ModelsGateway, refusal: Answer, shown: str
) -> None:
    """The gateway's answer is shown in one short line, without the key."""
    gateway.expect_request(CHAT).respond_with_response(refusal)
    result = run("--models-gateway", gateway.url, OPENAI_API_KEY="sk-secret")
    assert_fails(result, f"the gateway refused the run loop call: {shown}")
    assert "sk-secret" not in result.errors
    assert len(result.errors) < 400


@pytest.mark.parametrize(
    ("kind", "header"), [("title", "GeneratingTitle"), ("compaction", "Compacting")]
)
def test_a_refused_call_outside_the_run_loop_ends_it(
    run: Run, gateway: ModelsGateway, kind: str, header: str
) -> None:
    request = gateway.expect_request(CHAT, headers={f"X-Cagent-{header}": "1"})
    request.respond_with_data("No.", status=403)
    result = run("--models-gateway", gateway.url)
    assert_fails(result, f"the gateway refused the {kind} call: 403 No.")


def test_a_refused_call_of_the_sub_agent_ends_it(run: Run, gateway: ModelsGateway) -> None:
    answers = tool_call("transfer_task", '{"task": "t"}'), Answer("No.", 403)
    for answer in answers:
        gateway.expect_ordered_request(CHAT).respond_with_response(answer)
    result = run("--models-gateway", gateway.url)
    assert_fails(result, "the gateway refused the sub-agent call: 403 No.")


@pytest.mark.parametrize(
    "document",
    [
        "<html>",
        "",
        "[]",
        "{}",
        '{"choices": [], "usage": {"total_tokens": 1}}',
        '{"choices": [{"message": 5}], "usage": {"total_tokens": 1}}',
        '{"choices": [{"message": {}}], "usage": {"total_tokens": "many"}}',
        '{"choices": [{"message": {}}], "usage": null}',
        '{"choices": [{"message": {}}]}',
    ],
)
def test_a_malformed_answer_ends_it(run: Run, gateway: ModelsGateway, document: str) -> None:
    gateway.expect_request(CHAT).respond_with_data(document, mimetype="application/json")
    result = run("--models-gateway", gateway.url)
    assert_fails(result, "malformed answer from the gateway")


def test_an_answer_that_breaks_off_ends_it(run: Run, gateway: ModelsGateway) -> None:
    def pieces() -> Iterator[bytes]:
        yield b'{"choices": ['
        raise ConnectionResetError

    gateway.expect_request(CHAT).respond_with_handler(lambda _: Answer(pieces()))
    result = run("--models-gateway", gateway.url)
    assert_fails(result, "no answer from the gateway: ChunkedEncodingError")


def test_it_ends_if_the_model_never_stops_calling_tools(run: Run, gateway: ModelsGateway) -> None:
    gateway.expect_request(CHAT).respond_with_response(tool_call("count_words", '{"text": "t"}'))
    assert_fails(run("--models-gateway", gateway.url), "after 8 rounds")
    assert len(gateway.calls) == 8


@pytest.mark.parametrize("on_a_copy", [False, True])
def test_a_header_that_reaches_the_provider_is_reported(
    run: Run, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, on_a_copy: bool
) -> None:
    """If an adapter adds the header to a copy of the request, only the provider sees it."""
    send = HTTPAdapter.send

    def send_with_header(self: Any, request: PreparedRequest, **kwargs: Any) -> Response:
        changed = request.copy() if on_a_copy else request
        changed.headers["X-Cagent-Id"] = "1"
        response = send(self, changed, **kwargs)
        response.request = request
        return response

    monkeypatch.setattr(HTTPAdapter, "send", send_with_header)
    assert_fails(run(), "the call to the provider carried X-Cagent-Id")
    if not on_a_copy:
        assert_fails(run(*options), "the call to the provider carried X-Cagent-Id")


def test_it_fails_if_the_gateway_received_other_calls(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelsGateway, "calls", [])
    assert_fails(run(), "the gateway received other calls than the agent sent")


def test_it_replaces_characters_that_the_terminal_can_not_print(options: tuple[str, ...]) -> None:
    ascii_only = "import sys; sys.stdout.reconfigure(encoding='ascii', errors='strict')"
    with program(ascii_only, *options, "na\u00efve \U0001f600") as process:
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert "na?ve ?" in output


def test_without_the_extra_only_the_stand_ins_are_missing(options: tuple[str, ...]) -> None:
    missing = "import sys; sys.modules['pytest_httpserver'] = None"
    with program(missing) as process, program(missing, *options) as with_a_gateway:
        output, errors = process.communicate(timeout=60)
        with_a_gateway.communicate(timeout=60)
    assert_fails(
        Result(process.returncode, output, errors), 'pip install "cagent-session[testing]"'
    )
    assert with_a_gateway.returncode == 0


def test_it_ends_quietly_when_its_output_is_closed() -> None:
    with program("") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for a child process")
def test_ctrl_c_ends_it_at_once(gateway: ModelsGateway) -> None:
    """It also ends if the sub-agent's thread waits for the gateway."""
    reached, released = threading.Event(), threading.Event()

    def wait(_: ReceivedRequest) -> Answer:
        reached.set()
        released.wait(30)
        return Answer()

    to_sub_agent = tool_call("transfer_task", '{"task": "t"}')
    gateway.expect_ordered_request(CHAT).respond_with_response(to_sub_agent)
    gateway.expect_ordered_request(CHAT).respond_with_handler(wait)
    allow = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    with program(allow, "--models-gateway", gateway.url) as process:
        assert reached.wait(30)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=20)
        released.set()
    assert (process.returncode, errors) == (130, "agent.py: interrupted\n")
    assert "-> transfer_task" in output
