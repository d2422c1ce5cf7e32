"""The guide to observing is true: the log and the report have the lines that it shows."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import requests
import responses

from cagent_session import gateway_headers, mount, session_scope
from cagent_session.testing import ModelsGateway

GUIDE = Path(__file__).parents[2] / "examples" / "observing" / "README.rst"


def test_the_log_has_the_lines_and_the_reasons_that_are_shown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gateway, chat = "https://gateway.example", "/v1/chat/completions"
    marker = gateway_headers("https://api.openai.com/v1")
    moved = {"Location": "https://other.example/v1/files/1"}
    with (
        caplog.at_level(logging.DEBUG, "cagent_session"),
        responses.RequestsMock() as mock,
        mount(requests.Session(), gateway) as session,
    ):
        mock.post(gateway + chat)
        mock.get(f"{gateway}/v1/models")
        mock.post(f"http://gateway.example{chat}")
        mock.get(f"{gateway}/v1/files/1", status=307, headers=moved)
        mock.get(moved["Location"])
        with session_scope("sess-1"):
            session.post(gateway + chat, headers=marker)
        session.post(gateway + chat, headers=marker)
        with session_scope("sess-1"):
            session.get(f"{gateway}/v1/models")
            session.post(f"http://gateway.example{chat}", headers=marker)
            session.get(f"{gateway}/v1/files/1", headers=marker)
            session.get(moved["Location"])  # not logged
    logged = [record.getMessage() for record in caplog.records if record.name == "cagent_session"]

    guide = GUIDE.read_text("utf-8")
    (shown,) = re.findall(r"lines such\s+as\s+these::\n\n((?:    .+\n)+)", guide)
    assert logged == textwrap.dedent(shown).splitlines()
    explained = re.findall(r"(?m)^``([a-z ]+)``  ", guide)
    assert set(explained) == {line.partition(":")[0] for line in logged}


def test_the_report_is_the_one_that_is_shown(models_gateway: ModelsGateway, tmp_path: Path) -> None:
    guide = GUIDE.read_text("utf-8")
    (program,) = re.findall(
        r"code-block:: python\n\n((?:    # agent\.py\n)(?:    .+\n|\n)+)", guide
    )
    (command,) = re.findall(r"code-block:: shell\n\n    cagent-session (.+)\n", guide)
    (shown,) = re.findall(r"ends with these lines::\n\n((?:    .+\n|\n)+)", guide)
    (tmp_path / "agent.py").write_text(textwrap.dedent(program), encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-m", "cagent_session", *command.split()],
        check=True,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "DOCKER_AGENT_MODELS_GATEWAY": models_gateway.url, "NO_PROXY": "*"},
    )
    report = ran.stderr.replace(models_gateway.url, "https://gateway.example")
    assert report.splitlines() == textwrap.dedent(shown).strip().splitlines()
