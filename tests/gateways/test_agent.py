"""Test of the example agent on LiteLLM without our recipe, after a change of one line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from calling import must_be_installed
from programs import ON_LOOPBACK, running
from provider import HOSTS, Providers

AGENT = Path(__file__).parents[2] / "examples" / "agent.py"
AUDIT = """
import json
from pathlib import Path

from litellm.integrations.custom_logger import CustomLogger


class Audit(CustomLogger):
    async def async_log_success_event(self, kwargs, *_, **__):
        entry = kwargs["standard_logging_object"]
        line = json.dumps({name: entry[name] for name in ("trace_id", "total_tokens")})
        with Path(__file__).with_name("audit.log").open("a") as file:
            file.write(f"{line}\\n")


audit = Audit()
"""
WITHOUT_OUR_PART = {  # LiteLLM itself checks the key, and calls our audit
    "  custom_auth: cagent.authenticate": "",
    "litellm_settings:": "litellm_settings:\n  callbacks: own_audit.audit",
}


def test_after_changing_one_line_the_agent_runs_through_litellm(
    providers: Providers, tmp_path: Path
) -> None:
    """LiteLLM's own log has the session and the tokens of each call, as on the agent's bill."""
    must_be_installed("litellm")
    source = AGENT.read_text(encoding="utf-8")
    (line,) = re.findall(r"(?m)^    (return Gateway\(.+\))$", source)
    (for_litellm,) = re.findall(r"(?m)^    # LiteLLM: (return Gateway\(.+\))$", source)
    agent = tmp_path / "agent.py"
    agent.write_text(source.replace(line, for_litellm), encoding="utf-8")
    (tmp_path / "own_audit.py").write_text(AUDIT, encoding="utf-8")
    openai = providers[HOSTS[0]]
    with running("litellm", tmp_path, providers, WITHOUT_OUR_PART) as gateway:
        key = gateway.program.variables["LITELLM_MASTER_KEY"]
        urls = "--models-gateway", gateway.url, "--forward", f"https://{openai.address}/v1"
        variables = {
            **ON_LOOPBACK,
            "OPENAI_API_KEY": key,
            "REQUESTS_CA_BUNDLE": str(providers.authority),
        }
        result = subprocess.run(
            [sys.executable, str(agent), *urls, "--model", "openai/gpt-4o-mini"],
            capture_output=True,
            text=True,
            env={**os.environ, **variables},
            check=False,
            timeout=60,
        )
        assert (result.returncode, result.stderr) == (0, "")
        logged = gateway.audit(6)
    bill = re.findall(r"(?m)^ *(?:main |sub  |its own) +(\S+) +(\d+) +(\d+)$", result.stdout)
    (main, *total), (_, *own), (sub, *delegated) = bill
    calls = Counter(entry["trace_id"] for entry in logged)
    assert calls == {main: int(own[0]), sub: int(delegated[0])} == {main: 4, sub: 2}
    tokens = Counter[str]()
    for entry in logged:
        tokens[entry["trace_id"]] += entry["total_tokens"]
    assert tokens == {main: int(own[1]), sub: int(delegated[1])}
    assert list(map(int, total)) == [6, tokens.total()]
    keys = [request.headers.get("Authorization", "") for request, _ in openai.log]
    assert len(keys) == 7
    assert f"Bearer {key}" not in keys
