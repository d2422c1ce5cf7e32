"""Tests of examples/gateways/run.py: its output, its errors, and that it stops the gateway."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import programs
import pytest
import run
from calling import COUNT_TOKENS, fingerprint_of, must_be_installed
from programs import CLIENT_KEY

RUN = Path(run.__file__)


def start_program(*arguments: str, **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(RUN), *arguments]
    kept = {
        name: value for name, value in os.environ.items() if not name.endswith("MODELS_GATEWAY")
    }
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**kept, **variables},
    )


def still_listens(output: str) -> bool:
    (port,) = re.findall(r"listens on http://127\.0\.0\.1:(\d+)", output)
    return programs.listens(int(port))


def test_one_command_shows_the_audit_and_the_bill_of_each_session(
    name: str, tmp_path: Path
) -> None:
    must_be_installed(name)
    (tmp_path / "with a space").mkdir()
    proxied = {
        "http_proxy": "http://127.0.0.1:1",
        "https_proxy": "http://127.0.0.1:1",
        "no_proxy": "localhost",
    }
    with start_program(
        name, "Which orders are late?", TMPDIR=str(tmp_path / "with a space"), **proxied
    ) as process:
        output, errors = process.communicate(timeout=programs.START_SECONDS + 90)
    assert (process.returncode, errors) == (0, "")
    assert f"{name} is real and listens on http://127.0.0.1:" in output.splitlines()[0]
    assert "> Which orders are late?" in output
    agents, _, gateways = output.partition("The gateway's audit:\n")
    (main,), (sub,) = (
        set(re.findall(rf"^{kind} +([0-9a-f-]{{36}}) ", agents, re.MULTILINE))
        for kind in ("main", "sub")
    )
    audit, _, bill = gateways.partition("The bill of each session:\n")
    calls = [line.split()[:4] for line in audit.strip().splitlines()[1:]]
    assert sorted(calls) == sorted(
        [[main, main, "gpt-4o-mini", "200"]] * 4 + [[sub, main, "gpt-4o-mini", "200"]] * 2
    )
    header, *rows = [line.split() for line in bill.partition("\n\n")[0].splitlines()[1:]]
    columns = [header.index(name) - len(header) for name in ("calls", "errors")]
    key = fingerprint_of(CLIENT_KEY)
    shown = [[*row[:2], *(row[column] for column in columns)] for row in rows]
    assert shown == [[main, key, "6", "0"], [main, key, "4", "0"], [sub, key, "2", "0"]]
    assert ("prompt" in header) == (name in COUNT_TOKENS)
    assert "The provider got 7 calls, one of them past the gateway. None had an X-Cagent" in output
    assert not still_listens(output)


@pytest.mark.usefixtures("_sigint")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_gateway_too(how: signal.Signals) -> None:
    must_be_installed("nginx")
    with start_program("nginx") as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.send_signal(how)
        process.communicate(timeout=60)
    assert not still_listens(line)


def test_the_error_for_a_missing_program_says_how_to_install_it(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(programs, "PATH", "")
    monkeypatch.setattr(sys, "argv", ["run.py", name])
    assert run.main() == 1
    output, errors = capsys.readouterr()
    assert output == ""
    program = programs.PROGRAMS[name]
    assert errors == f"run.py: there is no {program.executable}: {program.install}\n"


def test_the_error_for_a_gateway_that_does_not_start_shows_its_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    must_be_installed("nginx")
    nginx = programs.PROGRAMS["nginx"]
    broken = nginx._replace(
        edits=lambda place: {**nginx.edits(place), "worker_connections": "worker_connection"}
    )
    monkeypatch.setitem(programs.PROGRAMS, "nginx", broken)
    monkeypatch.setattr(sys, "argv", ["run.py", "nginx"])
    assert run.main() == 1
    assert 'unknown directive "worker_connection"' in capsys.readouterr().err


def test_a_header_that_reaches_the_provider_is_reported(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    must_be_installed("nginx")
    nginx = programs.PROGRAMS["nginx"]
    leaks = {'proxy_set_header X-Cagent-Forward "";': ""}
    monkeypatch.setitem(
        programs.PROGRAMS,
        "nginx",
        nginx._replace(edits=lambda place: {**nginx.edits(place), **leaks}),
    )
    monkeypatch.setattr(sys, "argv", ["run.py", "nginx"])
    assert run.main() == 1
    assert capfd.readouterr().err.lower() == "run.py: the provider got x-cagent-forward\n"


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "trustme.py").write_text("raise ModuleNotFoundError(\"No module named 'trustme'\")")
    command = [sys.executable, str(RUN), "nginx"]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        "run.py: No module named 'trustme': pip install \".[gateways]\""
    ]


def test_a_missing_program_fails_in_ci_and_is_skipped_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(programs, "PATH", "")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(programs.NotInstalledError, match="apt-get install nginx"):
        must_be_installed("nginx")
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="apt-get install nginx"):
        must_be_installed("nginx")
