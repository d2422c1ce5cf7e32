"""What does a real gateway make of an agent's sessions? It limits them, and writes down whose each call was.

    pip install ".[gateways]"
    python examples/gateways/run.py nginx

This starts the gateway by the recipe beside this file, with a provider behind it that echoes, lets examples/agent.py
work through it, shows the gateway's audit and the bill that can be made of it, and stops it all.
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
        NotInstalled,
        NotStarted,
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
Line = dict[str, Any]  # of the audit


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("gateway", choices=PROGRAMS)
    parser.add_argument("prompt", nargs="?", help="what the agent is asked")
    options = parser.parse_args()
    for wish in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(
            wish, lambda number, _: sys.exit(128 + number)
        )  # so that it stops the gateway, too
    try:
        executable(options.gateway)
        with TemporaryDirectory() as folder, running_providers(Path(folder)) as providers:
            origin = f"https://{providers[OPENAI].address}"
            # The agent calls its provider past the gateway, too, so that one's own address becomes a known forward.
            known = PROGRAMS[options.gateway].forward
            own = known.replace("\\", "").replace(f"https://{OPENAI}", origin)
            with running(options.gateway, Path(folder), providers, {known: own}) as gateway:
                print(
                    f"{options.gateway} listens on {gateway.url}, before a provider on loopback\n",
                    flush=True,
                )
                status = run_agent(gateway, f"{origin}/v1", options.prompt)
                if status == 0:
                    show(gateway.audit(len(providers[OPENAI].log) - 1))  # one call went past it
    except (NotInstalled, NotStarted) as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return status or told_the_provider(providers)


def run_agent(gateway: Gateway, forward: str, prompt: str | None) -> int:
    command = [sys.executable, str(AGENT), "--models-gateway", gateway.url, "--forward", forward]
    variables = {
        **ON_LOOPBACK,
        "OPENAI_API_KEY": gateway.key,
        "REQUESTS_CA_BUNDLE": str(gateway.place.providers.authority),
    }
    arguments = [] if prompt is None else ["--", prompt]
    return subprocess.run(
        [*command, *arguments], env={**os.environ, **variables}, check=False
    ).returncode


def show(lines: list[Line]) -> None:
    print("\nThe gateway's audit:")
    show_table(["session", "provider", "model", "status", "duration_ms", *counted(lines)], lines)
    bill: dict[str, Line] = {}
    for line in lines:
        entry = bill.setdefault(line["session"], {"session": line["session"], "calls": 0})
        entry["calls"] += line["status"] < 400
        for name in counted(lines):
            entry[name] = entry.get(name, 0) + line.get(name, 0)
    print("\nThe bill of each session:")
    show_table(["session", "calls", *counted(lines)], bill.values())


def counted(lines: list[Line]) -> list[str]:
    """Return what this gateway counts, beside the calls."""
    return [name for name in COUNTED if any(name in line for line in lines)]


def show_table(names: list[str], lines: Iterable[Line]) -> None:
    rows = [names, *([shown(line.get(name, "")) for name in names] for line in lines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(names, row, widths, strict=True)
        aligned = [
            cell.rjust(width) if name in NUMBERS else cell.ljust(width)
            for name, cell, width in cells
        ]
        print("  ".join(aligned).rstrip())


def shown(value: float | str) -> str:
    return f"{value:.6f}" if isinstance(value, float) else str(value)


def told_the_provider(providers: Providers) -> int:
    """Return 1 if the provider was told anything of ours, and say so."""
    requests = [request for request, _ in providers[OPENAI].log]
    told = {
        name
        for request in requests
        for name in request.headers.keys()  # noqa: SIM118 - pairs, otherwise
        if name.lower().startswith("x-cagent-")
    }
    if told:
        print(f"run.py: the provider was told {', '.join(sorted(told))}", file=sys.stderr)
        return 1
    print(f"\nThe provider got {len(requests)} calls, and none with an X-Cagent-* header.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
