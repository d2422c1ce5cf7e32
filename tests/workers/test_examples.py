"""Tests of the batch job in examples/workers: it makes the same calls on Celery and on Dask."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from celery import Celery

from cagent_session.testing import ModelsGateway

EXAMPLES = Path(__file__).parents[2] / "examples" / "workers"
BILL = ["session", "calls", "tokens", "sess-1", "3", "48", "sess-2", "4", "78", "sess-3", "2", "26"]
SUMMARY = "You said: Summarize: You said: Which invoices are open?"

everywhere = pytest.mark.parametrize("program", ["on_celery.py", "on_dask.py"])


def run(program: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.endswith("MODELS_GATEWAY")
    }
    command = [sys.executable, str(EXAMPLES / program), *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env={**kept, "NO_PROXY": "127.0.0.1", **variables},
    )


@everywhere
def test_the_stand_in_shows_the_bill_of_each_session(program: str) -> None:
    result = run(program)
    assert result.returncode == 0, result.stderr
    first, summaries, bill = result.stdout.split("\n\n")
    assert "stand-in" in first
    assert summaries.splitlines()[-1] == f"sess-3: {SUMMARY}"
    assert bill.split() == BILL


def test_it_can_share_your_broker_with_other_programs(redis_url: str) -> None:
    with Celery("other", broker=redis_url) as other:
        other.send_task("charge")
        result = run("on_celery.py", CELERY_BROKER_URL=redis_url)
        assert result.returncode == 0, result.stderr
        assert result.stdout.split("\n\n")[2].split() == BILL
        assert other.control.purge() == 1


@everywhere
def test_it_sends_the_calls_to_your_gateway(program: str, gateway: ModelsGateway) -> None:
    result = run(
        program,
        "--model",
        "llama",
        CAGENT_MODELS_GATEWAY=f"{gateway.url}/",
        OPENAI_API_KEY="sk-secret",
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == f"sess-3: {SUMMARY}"
    assert {session_id: usage.calls for session_id, usage in gateway.usage().items()} == {
        "sess-1": 3,
        "sess-2": 4,
        "sess-3": 2,
    }
    assert {(call.json["model"], call.headers["Authorization"]) for call in gateway.calls} == {
        ("llama", "Bearer sk-secret")
    }


def test_the_query_of_your_gateways_url_comes_with_each_call(
    gateway: ModelsGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    batch = importlib.import_module("batch")
    url = f"{gateway.url}/models?tier=pro"
    monkeypatch.setattr("sys.argv", ["on_dask.py", "--models-gateway", url])
    batch.run(lambda agent, _: {"sess-1": agent.summarize([agent.answer("Hi")])})
    received = [request.full_path for request, _ in gateway.log]
    assert received == ["/models/v1/chat/completions?tier=pro"] * 2


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--models-gateway", "gateway.example"], "gateway URL must be absolute"),
        (
            ["--models-gateway", "https://me:sk-secret@gateway.example"],
            "must not contain a user or a password",
        ),
        (["--forward", "provider"], "forward must be an absolute http or https URL"),
    ],
)
def test_bad_arguments_end_it_with_a_usage_error(
    arguments: list[str],
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    batch = importlib.import_module("batch")
    monkeypatch.setattr("sys.argv", ["on_celery.py", *arguments])
    with pytest.raises(SystemExit) as stopped:
        batch.run(None)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert problem in error
    assert "sk-secret" not in error


@pytest.mark.parametrize(
    ("program", "error"), [("on_celery.py", "ChordError"), ("on_dask.py", "HTTPError")]
)
def test_a_refused_call_ends_it_with_one_line(
    program: str, error: str, gateway: ModelsGateway
) -> None:
    gateway.expect_request("/v1/chat/completions").respond_with_data("no", status=403)
    result = run(program, "--models-gateway", gateway.url)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == f"the batch failed: {error}"


def test_an_unreachable_broker_ends_it_with_one_line(tmp_path: Path) -> None:
    broker = {
        "CELERY_BROKER_URL": "redis://:sk-secret@127.0.0.1:1/0",
        "CELERY_RESULT_BACKEND": tmp_path.as_uri(),
    }
    result = run("on_celery.py", **broker)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "the batch failed: OperationalError"
    assert "sk-secret" not in result.stderr


def test_the_program_notices_a_call_in_no_session() -> None:
    """In this test carry_session does nothing."""
    start = f"""
import runpy, sys, cagent_session
cagent_session.carry_session = lambda fn: fn
sys.path.insert(0, {str(EXAMPLES)!r})
sys.argv = ["on_dask.py"]
runpy.run_path({str(EXAMPLES / "on_dask.py")!r}, run_name="__main__")
"""
    command = [sys.executable, "-c", start]
    result = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert result.returncode == 1
    assert "none" in result.stdout
    assert "the gateway should have got these calls" in result.stderr.splitlines()[-1]
