"""Tests of the example agent: its output, the session of each of its calls, and its errors."""

from __future__ import annotations

import functools
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

from cagent_session import Gateway, uninstrument
from cagent_session.testing import ModelsGateway

AGENT = Path(__file__).parents[2] / "examples" / "agent.py"
SOURCE = AGENT.read_text(encoding="utf-8")
CHAT = "/v1/chat/completions"
STAND_INS = "Gateway, provider and model are stand-ins on this machine. The model only echoes."
CALL = re.compile(r"(main|sub) +(\S+) +(run loop|sub-agent|title|compaction) +(\d+)").fullmatch
BILL = re.compile(r"( *)(?:main  |sub   |its (?=own))(\S+|own calls) +(\d+) +(\d+)").fullmatch


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


def program(
    before: str, *arguments: str, file: Path = AGENT, **variables: str
) -> subprocess.Popen[str]:
    """Run the statements *before* and then the example, in a new process."""
    code = f"{before}\nimport runpy; runpy.run_path({str(file)!r}, run_name='__main__')"
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        env={**environment(), **variables},
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


def assert_adds_up(bill: list[tuple[Any, ...]]) -> None:
    """Check that each session's sum is that of the rows that are one level below it."""
    above, below = list[Any](), dict[Any, list[Any]]()
    for row in bill:
        above[len(row[0]) // 2 :] = [row]
        if len(above) > 1:
            below.setdefault(above[-2], []).append(row[2:])
    for row, parts in below.items():
        assert row[2:] == tuple(map(sum, zip(*parts, strict=True)))


def completion(message: dict[str, Any]) -> Answer:
    choice = {"message": {"role": "assistant", **message}}
    document = {"choices": [choice], "usage": {"total_tokens": 1}}
    return Answer(json.dumps(document), mimetype="application/json")


def sums(gateway: ModelsGateway, by: Any) -> dict[Any, tuple[int, int]]:
    """Return the numbers of calls and tokens in the gateway's own bill."""
    usage = gateway.usage(by).items()
    return {billed: (each.calls, each.total_tokens) for billed, each in usage}


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
        ("", main, 6, sum(tokens)),
        ("  ", "own calls", 4, tokens[0]),
        ("  ", sub, 2, tokens[1]),
    ]
    assert "The gateway's own bill has the same sums." in lines
    assert "One call went past the gateway, to the provider: GET http://127.0.0.1:" in result.output
    assert f"It was made in session {main} and carried no header of ours." in lines
    assert lines[-4].startswith("What you have seen: ")


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
    main, own, *subs = result.rows(BILL)
    assert own[1] == "own calls"
    assert {main[1]: own[2:], **{sub[1]: sub[2:] for sub in subs}} == sums(gateway, "session")
    assert {main[1]: main[2:]} == sums(gateway, "root")


def test_each_sub_session_is_on_the_bill_of_the_session_that_opened_it(
    run: Run, options: tuple[str, ...], gateway: ModelsGateway
) -> None:
    """The main agent delegates twice. Its first sub-agent delegates once more."""
    for answer in (
        tool_call("transfer_task", '{"task": "a b"}'),  # to the main agent
        tool_call("transfer_task", '{"task": "a b"}'),  # to the first sub-agent
        tool_call("count_words", '{"text": "a b"}'),  # to the second one, as the next answer
        completion({"content": "2 words"}),
        completion({"content": "I was told 2 words"}),  # to the first one
        tool_call("transfer_task", '{"task": "a b c"}'),  # to the main agent
    ):
        gateway.expect_oneshot_request(CHAT).respond_with_response(answer)
    result = run(*options)
    assert (result.status, result.errors) == (0, "")
    bill = result.rows(BILL)
    main, _, first, _, second, third = (row[1] for row in bill)
    assert [(row[0], row[1], row[2]) for row in bill] == [
        ("", main, 11),
        ("  ", "own calls", 5),
        ("  ", first, 4),
        ("    ", "own calls", 2),
        ("    ", second, 2),
        ("  ", third, 2),
    ]
    assert_adds_up(bill)
    assert {main: tuple(bill[0][2:])} == sums(gateway, "root")
    assert len({main, first, second, third}) == 4
    assert sums(gateway, "session").keys() == {main, first, second, third}
    offered = {
        call.session_id: [tool["function"]["name"] for tool in call.json["tools"]]
        for call in gateway.calls
        if "tools" in call.json
    }
    assert offered[str(first)] == ["count_words", "transfer_task"]
    assert offered[str(second)] == ["count_words"]


def test_every_call_names_the_main_session_as_its_root(
    run: Run, options: tuple[str, ...], gateway: ModelsGateway, provider: HTTPServer
) -> None:
    run(*options, "--session", "my-session")
    roots = [call.headers["X-Cagent-Root-Session"] for call in gateway.calls]
    assert roots == ["my-session"] * 6
    ((request, _),) = provider.log
    assert "X-Cagent-Root-Session" not in request.headers


def test_the_path_and_the_query_of_the_gateways_url_come_with_each_call(
    run: Run, options: tuple[str, ...], gateway: ModelsGateway
) -> None:
    """The query may have a key, so it is not printed."""
    url = f"{gateway.url}/models?tier=pro&key=sk-secret"
    result = run("--models-gateway", url, *options[2:])
    received = [request.full_path for request, _ in gateway.log]
    assert received == ["/models/v1/chat/completions?tier=pro&key=sk-secret"] * 6
    assert f"through the gateway {gateway.url}/models to " in result.output
    assert "sk-secret" not in result.output


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
    assert "and carried no header of ours." in result.output


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


@pytest.mark.parametrize("header", ["X-Session", "X-Root", "X-Marker"])
def test_a_header_of_another_gateway_that_reaches_the_provider_is_reported(
    run: Run, agent: Any, monkeypatch: pytest.MonkeyPatch, header: str
) -> None:
    names: Any = {"session_header": "x-session", "root_header": "x-root", "marker": "x-marker"}
    monkeypatch.setattr(agent, "gateway_at", functools.partial(Gateway, **names))
    send = HTTPAdapter.send

    def send_with_header(self: Any, request: PreparedRequest, **kwargs: Any) -> Response:
        if request.method == "GET":  # to the provider
            request.headers[header] = "1"
        return send(self, request, **kwargs)

    monkeypatch.setattr(HTTPAdapter, "send", send_with_header)
    assert_fails(run(), f"the call to the provider carried {header}")


def test_it_fails_if_the_gateway_received_other_calls(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelsGateway, "calls", [])
    assert_fails(run(), "the gateway's bill by session is not the agent's")


def test_it_fails_if_the_gateway_adds_up_other_sessions(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = ModelsGateway.usage
    monkeypatch.setattr(ModelsGateway, "usage", lambda self, by: usage(self))
    assert_fails(run(), "the gateway's bill by root is not the agent's")


def test_it_fails_if_a_call_does_not_carry_the_id_of_its_session(
    run: Run, agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "instrument", lambda gateway: None)
    assert_fails(run(), "the run loop call carried the session ID None")


# The line that makes the gateway, and the lines that can replace it.
(LINE,) = re.findall(r"(?m)^    (return Gateway\(.+\))$", SOURCE)
OTHER_LINES = dict(re.findall(r"(?m)^    # (\S+): (return Gateway\(.+\))$", SOURCE))
OTHER_LINES["Dynamo"] = (
    'return Gateway(url, session_header="X-Dynamo-Session-ID", '
    'parent_header="X-Dynamo-Parent-Session-ID", marker=None)'
)
NAMES: dict[str, dict[str, Any]] = {
    "LiteLLM": {"session_header": "x-litellm-session-id"},
    "https://openrouter.ai/api": {"session_header": "x-session-id"},
    "Dynamo": {
        "session_header": "X-Dynamo-Session-ID",
        "parent_header": "X-Dynamo-Parent-Session-ID",
    },
}
each_other_gateway = pytest.mark.parametrize("name", NAMES)


def run_changed(folder: Path, name: str, *arguments: str, key: str = "") -> Result:
    """Run a copy of the example in which one line is changed."""
    copy = folder / "agent.py"
    copy.write_text(SOURCE.replace(LINE, OTHER_LINES[name]), encoding="utf-8")
    with program("", *arguments, file=copy, OPENAI_API_KEY=key) as process:
        output, errors = process.communicate(timeout=60)
    return Result(process.returncode, output, errors)


@each_other_gateway
def test_after_changing_one_line_it_runs_through_another_gateway(
    tmp_path: Path, provider: HTTPServer, name: str
) -> None:
    with ModelsGateway(marker=None, root_header=None, **NAMES[name]) as gateway:
        urls = "--models-gateway", gateway.url, "--forward", provider.url_for("/v1")
        result = run_changed(tmp_path, name, *urls)
    assert (result.status, result.errors) == (0, "")
    calls = result.rows(CALL)
    main, sub = calls[0][1], calls[1][1]
    assert [call[1] for call in calls] == [call.session_id for call in gateway.calls]
    parents = {call.session_id: call.parent_session_id for call in gateway.calls}
    assert parents == {main: None, sub: main if name == "Dynamo" else None}
    purposes = {"x-cagent-generatingtitle", "x-cagent-compacting"}
    sent = {header.lower() for call in gateway.calls for header in call.headers}
    assert {header for header in sent if header.startswith("x-cagent-")} == purposes
    assert_adds_up(result.rows(BILL))


@each_other_gateway
def test_with_a_stand_in_for_another_gateway_the_bills_agree(tmp_path: Path, name: str) -> None:
    """The program itself compares them."""
    result = run_changed(tmp_path, name)
    assert (result.status, result.errors) == (0, "")
    assert "The gateway's own bill has the same sums." in result.output


@each_other_gateway
def test_the_provider_gets_no_header_and_no_key_of_another_gateway(
    tmp_path: Path, provider: HTTPServer, name: str
) -> None:
    with ModelsGateway(marker=None, **NAMES[name]) as gateway:
        urls = "--models-gateway", gateway.url, "--forward", provider.url_for("/v1")
        assert run_changed(tmp_path, name, *urls, key="sk-secret").status == 0
    assert {call.headers["Authorization"] for call in gateway.calls} == {"Bearer sk-secret"}
    ((request, _),) = provider.log
    received = {header.lower() for header, _ in request.headers}
    assert not received & {*map(str.lower, NAMES[name].values()), "authorization"}
    assert not any(header.startswith("x-cagent-") for header in received)


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
    closed = "import os; reader, writer = os.pipe(); os.close(reader); os.dup2(writer, 1)"
    with program(closed) as process:
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
