"""Tests of examples/sdks/example_program.py, without an SDK."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from cagent_session import mount, session_scope, uninstrument
from cagent_session.testing import ModelsGateway

PROGRAM = Path(__file__).parents[2] / "examples" / "sdks" / "example_program.py"
SECRET = "sk-secret"

Start = Callable[..., None]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Return a function that runs the program. The environment has a key and no gateway."""
    for name in ("DOCKER_AGENT_MODELS_GATEWAY", "CAGENT_MODELS_GATEWAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PROVIDER_API_KEY", SECRET)
    spec: Any = importlib.util.spec_from_file_location("example_program", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def start(*arguments: str, ask: Any = None, has_stand_in: bool = True) -> None:
        monkeypatch.setattr("sys.argv", ["with_sdk.py", *arguments])
        forward = "https://api.openai.com/v1"
        module.run(
            PlainClient,
            ask or PlainClient.ask,
            own_lines=Client,
            forward=forward,
            model="gpt-4o",
            key="PROVIDER_API_KEY",
            has_stand_in=has_stand_in,
        )

    werkzeug = logging.getLogger("werkzeug")
    level = werkzeug.level
    yield start
    werkzeug.setLevel(level)
    uninstrument()


class PlainClient:
    """A client like an SDK's. It uses requests."""

    def __init__(self, gateway: str) -> None:
        self.url = f"{gateway}/v1/chat/completions"
        self.session = requests.Session()

    def ask(self, model: str, question: str) -> object:
        body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": question}]}
        answer = self.session.post(self.url, json=body, timeout=10)
        return answer.json()["choices"][0]["message"]["content"]


class Client(PlainClient):
    def __init__(self, gateway: str, headers: dict[str, str]) -> None:
        super().__init__(gateway)
        mount(self.session, gateway).headers.update(headers)


def ask_in_no_session(client: PlainClient, model: str, question: str) -> object:
    with session_scope(None):
        return client.ask(model, question)


def ask_nothing(client: PlainClient, model: str, question: str) -> object:
    return None


@pytest.mark.parametrize(("options", "lines"), [([], PlainClient), (["--own-lines"], Client)])
def test_the_stand_in_shows_what_each_session_is_billed(
    start: Start,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    lines: type[PlainClient],
) -> None:
    def ask(client: PlainClient, model: str, question: str) -> object:
        assert type(client) is lines
        return client.ask(model, question)

    start(*options, ask=ask)
    first, *answers, _, _, _, first_bill, second_bill = capsys.readouterr().out.splitlines()
    assert "stand-ins on this machine" in first
    sessions = [line.partition(" ")[0] for line in answers]
    assert len({*sessions}) == 2
    assert [line.partition(" ")[2] for line in answers] == [
        "You said: How are you?",
        "You said: And you?",
    ]
    assert first_bill.split() == [sessions[0], "1", "8"]
    assert second_bill.split() == [sessions[1], "1", "6"]


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (ask_in_no_session, "A call was in no session."),
        (ask_nothing, "No call reached the gateway."),
    ],
)
def test_with_the_stand_in_a_missing_attributed_call_is_an_error(
    start: Start, ask: Any, message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        start(ask=ask)
    assert ended.value.code == message


@pytest.mark.parametrize("way", ["option", "variable"])
def test_it_sends_the_calls_to_your_gateway(
    start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    with ModelsGateway() as gateway:
        url = f"{gateway.url}/models/"
        if way == "variable":
            monkeypatch.setenv("CAGENT_MODELS_GATEWAY", f" {url} ")
        options = ["--models-gateway", url] if way == "option" else []
        start(*options, "--model", "llama", "--forward", "https://provider.example/v1")
        calls = gateway.calls
    printed = [line.partition(" ")[0] for line in capsys.readouterr().out.splitlines()]
    assert [call.session_id for call in calls] == printed
    for call in calls:
        assert call.path == "/models/v1/chat/completions"
        assert call.forward == "https://provider.example/v1"
        assert call.headers["X-Cagent-Model"] == call.json["model"] == "llama"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--models-gateway", "gateway.example"], "gateway URL must be absolute"),
        (
            ["--models-gateway", f"https://me:{SECRET}@gateway.example"],
            "must not contain a user or a password",
        ),
        (["--models-gateway", f"https://gateway.example?key={SECRET}"], "send no query"),
        (["--forward", "provider"], "forward must be an absolute http or https URL"),
    ],
)
def test_bad_arguments_are_usage_errors(
    start: Start, capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        start(*arguments)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert problem in error
    assert SECRET not in error


def test_a_missing_key_is_a_usage_error(
    start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PROVIDER_API_KEY")
    with pytest.raises(SystemExit):
        start("--models-gateway", "https://gateway.example")
    assert "set PROVIDER_API_KEY" in capsys.readouterr().err


def test_an_sdk_that_the_stand_in_cant_answer_needs_a_gateway(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        start(has_stand_in=False)
    assert ended.value.code == 2
    assert "give --models-gateway" in capsys.readouterr().err


def test_an_sdks_error_ends_the_program_without_its_message(start: Start) -> None:
    def fail(*given: Any) -> None:
        raise ConnectionError(f"no answer with {SECRET}")

    with pytest.raises(SystemExit) as ended:
        start("--models-gateway", "https://gateway.example", ask=fail)
    assert ended.value.code == "with_sdk.py: the call failed: ConnectionError"
