"""The guide to observing is true: the log has the lines that it shows."""

from __future__ import annotations

import logging
import re
import textwrap
from pathlib import Path

import pytest
import requests
import responses

from cagent_session import gateway_headers, mount, session_scope

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
