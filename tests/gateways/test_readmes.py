"""Do the commands of the recipes' READMEs answer what they are for? They are run as they stand there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess

import programs
import pytest
from calling import COUNT_TOKENS, agent, call, statuses
from programs import Gateway

from cagent_session import new_session_id

SHOWN = "b83c1a96-ecd7-458d-9dc3-594ebfcb7e89"
"""The session of the READMEs."""


def readme(name: str) -> str:
    return (programs.HERE / name / "README.rst").read_text(encoding="utf-8")


def queries(name: str) -> list[str]:
    return re.findall(r"(?m)^    (jq .+(?:\n        .+)*)$", readme(name))


def answer(query: str, gateway: Gateway, session_id: str) -> str:
    if shutil.which("jq") is None:
        reason = "there is no jq: apt-get install jq"
        raise RuntimeError(reason) if "CI" in os.environ else pytest.skip.Exception(reason)
    here = re.sub(r"\S+/audit\.log", str(gateway.audit_file), query.replace(SHOWN, session_id))
    command = ["bash", "-o", "pipefail", "-c", here]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def test_what_a_session_did_is_a_query_away(name: str, gateway: Gateway) -> None:
    before, session_id = len(gateway.audit()), new_session_id()
    statuses(gateway, session_id, 2)
    statuses(gateway, new_session_id(), 1)
    gateway.audit(before + 3)
    what = answer(queries(name)[0], gateway, session_id)
    assert what.count(f'"session":"{session_id}"') == len(what.splitlines()) == 2


def test_a_line_of_the_audit_has_what_the_readme_shows(gateway: Gateway) -> None:
    before, text = (
        len(gateway.audit()),
        (programs.HERE.parents[1] / "README.rst").read_text(encoding="utf-8"),
    )
    shown = json.loads(re.findall(r'\n\n( +\{"time"(?:.|\n)+?\})\n', text)[0])
    statuses(gateway, new_session_id(), 1)
    written = gateway.audit(before + 1)[-1]
    assert shown.keys() <= written.keys()
    assert {key: type(written[key]) for key in shown} == {
        key: type(value) for key, value in shown.items()
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", written["time"])


def test_what_each_session_did_is_another(name: str, gateway: Gateway) -> None:
    before, session_id = len(gateway.audit()), new_session_id()
    with agent(gateway) as http:
        assert call(http, gateway, session_id).ok
        assert call(http, gateway, session_id).ok
        assert not call(
            http, gateway, session_id, headers={"X-Cagent-Forward": "https://elsewhere.example"}
        ).ok
    gateway.audit(before + 3)
    (line,) = [
        line
        for line in answer(queries(name)[1], gateway, session_id).splitlines()
        if session_id in line
    ]
    assert line.split()[0] == "2"


@pytest.mark.parametrize("name", COUNT_TOKENS)
def test_the_tokens_of_each_session_are_a_third(name: str, gateway: Gateway) -> None:
    before, session_id = len(gateway.audit()), new_session_id()
    statuses(gateway, session_id, 2)
    gateway.audit(before + 2)
    (line,) = [
        line
        for line in answer(queries(name)[2], gateway, session_id).splitlines()
        if session_id in line
    ]
    assert json.loads(line)[:3] == [session_id, 4, 8]
