"""How do the examples of the provider SDKs start, and how do they end? No SDK is needed to tell."""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from cagent_session import mount, session_scope
from cagent_session.testing import ModelsGateway

COMMON = Path(__file__).parents[2] / "examples" / "sdks" / "common.py"
FORWARD = "https://api.openai.com/v1"
SECRET = "sk-secret"


@pytest.fixture
def common() -> Any:
    spec: Any = importlib.util.spec_from_file_location("common", COMMON)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No gateway, a key, and what the examples set put back."""
    for name in ("DOCKER_AGENT_MODELS_GATEWAY", "CAGENT_MODELS_GATEWAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PROVIDER_API_KEY", SECRET)
    werkzeug = logging.getLogger("werkzeug")
    level = werkzeug.level
    yield
    werkzeug.setLevel(level)


def call(
    gateway: str, headers: dict[str, str], model: str, session_id: str | None = "sess-1"
) -> None:
    with mount(requests.Session(), gateway) as http, session_scope(session_id):
        messages = [{"role": "user", "content": f"to {model}"}]
        http.post(
            f"{gateway}/v1/chat/completions",
            json={"messages": messages},
            headers=headers,
            timeout=10,
        )


def start(common: Any, monkeypatch: pytest.MonkeyPatch, *arguments: str, main: Any = call) -> None:
    monkeypatch.setattr("sys.argv", ["with_sdk.py", *arguments])
    common.run(main, forward=FORWARD, model="gpt-4o", key="PROVIDER_API_KEY")


def test_the_embedded_gateway_shows_what_each_session_is_billed(
    common: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start(common, monkeypatch)
    assert capsys.readouterr().out.split() == ["session", "calls", "tokens", "sess-1", "1", "6"]


@pytest.mark.parametrize(
    "main",
    [functools.partial(call, session_id=None), lambda *given: None],
    ids=["in no session", "no call"],
)
def test_the_embedded_gateway_misses_an_attributed_call(
    common: Any, monkeypatch: pytest.MonkeyPatch, main: Any
) -> None:
    with pytest.raises(SystemExit, match="in no session"):
        start(common, monkeypatch, main=main)


@pytest.mark.parametrize("way", ["option", "variable"])
def test_your_gateway_gets_the_calls(
    common: Any, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    with ModelsGateway() as gateway:
        url = f" {gateway.url}/ "
        if way == "variable":
            monkeypatch.setenv("CAGENT_MODELS_GATEWAY", url)
        options = ["--models-gateway", url] if way == "option" else []
        start(
            common,
            monkeypatch,
            *options,
            "--model",
            "llama",
            "--forward",
            "https://provider.example/v1",
        )
        (seen,) = gateway.calls
    assert (seen.session_id, seen.forward) == ("sess-1", "https://provider.example/v1")
    assert seen.headers["X-Cagent-Model"] == "llama"
    assert seen.json["messages"][0]["content"] == "to llama"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--models-gateway", "gateway.example"], "gateway URL must be absolute"),
        (
            ["--models-gateway", f"https://me:{SECRET}@gateway.example"],
            "must not contain a user or a password",
        ),
        (["--forward", "provider"], "forward must be an absolute http or https URL"),
    ],
)
def test_bad_arguments_are_refused_in_a_line(
    common: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    problem: str,
) -> None:
    with pytest.raises(SystemExit) as ended:
        start(common, monkeypatch, *arguments, main=None)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert problem in error
    assert SECRET not in error


def test_a_missing_key_is_told_before_the_sdk_misses_it(
    common: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PROVIDER_API_KEY")
    with pytest.raises(SystemExit):
        start(common, monkeypatch, "--models-gateway", "https://gateway.example", main=None)
    assert "set PROVIDER_API_KEY" in capsys.readouterr().err


def test_an_sdks_error_ends_in_a_line_without_its_message(
    common: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: Any) -> None:
        raise ConnectionError(f"no answer with {SECRET}")

    with pytest.raises(SystemExit) as ended:
        start(common, monkeypatch, "--models-gateway", "https://gateway.example", main=fail)
    assert ended.value.code == "with_sdk.py: no answer from the models gateway: ConnectionError"
