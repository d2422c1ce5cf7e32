"""What the tests of an SDK need if ``ModelsGateway`` has no answers to its calls."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping

import pytest
from contract import AttributesCalls

from cagent_session.testing import ModelsGateway
from cagent_session.testing.answers import ANSWERS, Answer


class BringsAnswers(AttributesCalls):
    """The module of the SDK's tests has the answers. The SDK's example needs a gateway."""

    answers: Mapping[str, Answer]  # by the ends of paths
    gateway: ModelsGateway

    @pytest.fixture(autouse=True)
    def answering(self, gateway: ModelsGateway, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gateway = gateway
        for end, answer in self.answers.items():
            monkeypatch.setitem(ANSWERS, end, answer)

    def test_its_example_runs(self, line: str) -> None:
        """Its example needs ``--models-gateway``."""
        options = ["--models-gateway", self.gateway.url]
        if line == "own lines":
            options.append("--own-lines")
        command = [sys.executable, "-W", "ignore", self.example.__file__, *options]
        done = subprocess.run(
            command, env=os.environ, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stderr
        session_ids = re.findall(r"(?m)^(\S{36}) You said: ", done.stdout)
        assert [call.session_id for call in self.calls(self.gateway)] == session_ids
        assert len(session_ids) == 2
