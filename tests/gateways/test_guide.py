"""Tests of examples/gateways/README.rst: its commands, its table and its line of the audit."""

from __future__ import annotations

import json
import os
import re
import subprocess

import programs
import pytest
from calling import COUNT_TOKENS, Start, fingerprint_of, run_query, statuses
from programs import CLIENT_KEY, PROGRAMS, Gateway, executable

from cagent_session import gateway_headers, new_session_id
from cagent_session.testing.tokens import NUMBERS

GUIDE = (programs.HERE / "README.rst").read_text(encoding="utf-8")
(SESSION_CALLS,) = re.findall(r"(?m)^    (jq .+)$", GUIDE)
AUDIT_LINE = json.loads(re.findall(r'\n\n( +\{"time"(?:.|\n)+?\})\n', GUIDE)[0])


def test_the_query_shows_the_calls_of_a_session(gateway: Gateway) -> None:
    before, session_id = len(gateway.audit()), new_session_id()
    statuses(gateway, session_id, 2)
    statuses(gateway, new_session_id(), 1)
    gateway.audit(before + 3)
    lines = run_query(SESSION_CALLS.replace(AUDIT_LINE["session"], session_id), gateway)
    assert [json.loads(line)["session"] for line in lines] == [session_id] * 2


def test_the_audit_writes_lines_like_the_one_shown(name: str, gateway: Gateway) -> None:
    before = len(gateway.audit())
    statuses(gateway, new_session_id(), 1)
    (line,) = gateway.audit(before + 1)[before:]
    assert AUDIT_LINE.keys() <= line.keys()
    types = {key: type(value) for key, value in AUDIT_LINE.items()}
    assert {key: type(line[key]) for key in AUDIT_LINE} == types
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", line["time"])
    assert [number in line for number in NUMBERS] == [name in COUNT_TOKENS] * len(NUMBERS)
    assert ("cost_usd" in line) == (name == "litellm")


def test_the_command_shows_the_fingerprint_of_a_key() -> None:
    (command,) = re.findall(r"``(printf .+)``", GUIDE)
    result = subprocess.run(
        ["bash", "-c", command],
        env={**os.environ, "OPENAI_API_KEY": CLIENT_KEY},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == fingerprint_of(CLIENT_KEY)


def test_the_table_says_how_to_install_each_gateway() -> None:
    installs = re.findall(r"<(\w+)/README.rst>(?:.|\n)+?``((?:apt-get|pip) install .+)``", GUIDE)
    assert dict(installs) == {name: program.install for name, program in PROGRAMS.items()}


def test_the_guide_names_every_header() -> None:
    headers = gateway_headers(
        "https://api.openai.com/v1",
        provider="openai",
        model="gpt-4o",
        model_name="my model",
        install_id="install-1",
        generating_title=True,
        compacting=True,
    )
    ids = {"X-Cagent-Session-Id", "X-Cagent-Root-Session"}
    assert {*headers, *ids} == set(re.findall(r"``(X-Cagent-[\w-]+)``", GUIDE))


@pytest.mark.parametrize(
    ("name", "check", "options"),
    [
        ("nginx", "nginx -t", ["-t"]),
        ("haproxy", "haproxy -c -f haproxy.cfg", ["-c"]),
        ("envoy", "envoy --mode validate -c envoy.yaml", ["--mode", "validate"]),
    ],
)
def test_the_program_checks_the_recipe(
    name: str, check: str, options: list[str], start: Start
) -> None:
    assert f"``{check}``" in (programs.HERE / name / "README.rst").read_text(encoding="utf-8")
    place = start(name).place
    command = [executable(name), *PROGRAMS[name].arguments(place), *options]
    subprocess.run(command, cwd=place.folder, capture_output=True, check=True, timeout=60)
