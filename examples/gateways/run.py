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
from pathlib import Path
from tempfile import TemporaryDirectory

try:
    from bill import print_bill, print_table
    from programs import (
        CLIENT_KEY,
        ON_LOOPBACK,
        PROGRAMS,
        Gateway,
        NotInstalledError,
        NotStartedError,
        executable,
        running,
    )
    from provider import HOSTS, Providers, running_providers
    from spending import Bill
except ImportError as error:
    sys.exit(f'run.py: {error}: pip install ".[gateways]"')

AGENT = Path(__file__).parents[1] / "agent.py"
OPENAI = HOSTS[0]
COUNTED = ("prompt_tokens", "completion_tokens", "cost_usd")


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
                    print_audit_and_bill(gateway, len(providers[OPENAI].log) - 1)
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
        "OPENAI_API_KEY": CLIENT_KEY,
        "REQUESTS_CA_BUNDLE": str(gateway.place.providers.authority),
    }
    arguments = [] if prompt is None else ["--", prompt]
    return subprocess.run(
        [*command, *arguments], env={**os.environ, **variables}, check=False
    ).returncode


def print_audit_and_bill(gateway: Gateway, calls: int) -> None:
    lines = gateway.audit(calls)
    counted = [name for name in COUNTED if name in lines[0]]
    print("\nThe gateway's audit:")
    print_table(["session", "root", "model", "status", "duration_ms", *counted], lines)
    print("\nThe bill of each session:")
    print_bill(Bill([gateway.audit_file], str(gateway.place.folder)), top=20)


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
    print(
        f"\nThe provider got {len(requests)} calls, one of them past the gateway."
        " None had an X-Cagent-* header."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
