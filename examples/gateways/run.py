"""Show a real gateway at work.

    pip install ".[gateways]"
    python examples/gateways/run.py nginx

This starts the gateway with its recipe and a stand-in for the provider behind it, runs
examples/agent.py through it, prints the gateway's audit and the bill of each session, and stops
everything.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

try:
    from programs import (
        ON_LOOPBACK,
        PROGRAMS,
        Gateway,
        NotInstalledError,
        NotStartedError,
        executable,
        running,
    )
    from provider import HOSTS, Providers, running_providers
except ImportError as error:
    sys.exit(f'run.py: {error}: pip install ".[gateways]"')

AGENT = Path(__file__).parents[1] / "agent.py"
OPENAI = HOSTS[0]

COUNTED = ("prompt_tokens", "completion_tokens", "cost_usd")
NUMBERS = {"calls", "duration_ms", *COUNTED}
AuditLine = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("gateway", choices=PROGRAMS)
    parser.add_argument("prompt", nargs="?", help="what the agent is asked")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):  # stop the gateway, too
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    try:
        executable(options.gateway)
        with TemporaryDirectory() as folder, running_providers(Path(folder)) as providers:
            origin = f"https://{providers[OPENAI].address}"
            # The agent also calls the provider itself, so the marker is the stand-in's address.
            marker = PROGRAMS[options.gateway].forward
            edits = {marker: marker.replace("\\", "").replace(f"https://{OPENAI}", origin)}
            with running(options.gateway, Path(folder), providers, edits) as gateway:
                print(
                    f"{options.gateway} is real and listens on {gateway.url}. "
                    "The provider is a stand-in on this machine. Its model only echoes.\n",
                    flush=True,
                )
                status = run_agent(gateway, f"{origin}/v1", options.prompt)
                if status == 0:
                    # One call went directly to the provider.
                    print_audit_and_bill(gateway.audit(len(providers[OPENAI].log) - 1))
    except (NotInstalledError, NotStartedError) as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return status or check_provider(providers)


def run_agent(gateway: Gateway, forward: str, prompt: str | None) -> int:
    command = [sys.executable, str(AGENT), "--models-gateway", gateway.url, "--forward", forward]
    variables = {
        **ON_LOOPBACK,
        "OPENAI_API_KEY": gateway.client_key,
        "REQUESTS_CA_BUNDLE": str(gateway.place.providers.authority),
    }
    arguments = [] if prompt is None else ["--", prompt]
    return subprocess.run(
        [*command, *arguments], env={**os.environ, **variables}, check=False
    ).returncode


def print_audit_and_bill(lines: list[AuditLine]) -> None:
    print("\nThe gateway's audit:")
    print_table(["session", "provider", "model", "status", "duration_ms", *counted(lines)], lines)
    bill: dict[str, AuditLine] = {}
    for line in lines:
        entry = bill.setdefault(line["session"], {"session": line["session"], "calls": 0})
        entry["calls"] += line["status"] < 400
        for name in counted(lines):
            entry[name] = entry.get(name, 0) + line.get(name, 0)
    print("\nThe bill of each session:")
    print_table(["session", "calls", *counted(lines)], bill.values())


def counted(lines: list[AuditLine]) -> list[str]:
    """Return the keys of the audit with numbers that this gateway counts, besides calls."""
    return [name for name in COUNTED if any(name in line for line in lines)]


def print_table(names: list[str], lines: Iterable[AuditLine]) -> None:
    rows = [names, *([text_of(line.get(name, "")) for name in names] for line in lines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(names, row, widths, strict=True)
        aligned = [
            cell.rjust(width) if name in NUMBERS else cell.ljust(width)
            for name, cell, width in cells
        ]
        print("  ".join(aligned).rstrip())


def text_of(value: float | str) -> str:
    return f"{value:.6f}" if isinstance(value, float) else str(value)


def check_provider(providers: Providers) -> int:
    """Print which of the gateway's headers reached the provider. Return 1 if there are any."""
    requests = [request for request, _ in providers[OPENAI].log]
    leaked = {
        name
        for request in requests
        for name in request.headers.keys()  # noqa: SIM118 - pairs, otherwise
        if name.lower().startswith("x-cagent-")
    }
    if leaked:
        print(f"run.py: the provider got {', '.join(sorted(leaked))}", file=sys.stderr)
        return 1
    print(f"\nThe provider got {len(requests)} calls. None had an X-Cagent-* header.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
