"""The agent's batch job, which on_celery.py and on_dask.py run.

The agent answers the questions of each session, and summarizes the answers. Each answer and each
summary is one call through a models gateway.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import requests

from cagent_session import Gateway, gateway_headers, mount
from cagent_session.testing import ModelsGateway

Batch = dict[str, list[str]]  # the questions of each session
BATCH: Batch = {
    "sess-1": ["Which orders are late?", "Which orders were returned?"],
    "sess-2": ["Which orders are late?", "Who has to be told?", "What shall we tell them?"],
    "sess-3": ["Which invoices are open?"],
}

Work = Callable[["Agent", Batch], dict[str, str]]  # returns the summary of each session


@dataclass(frozen=True)
class Agent:
    """An agent that calls the model through a gateway. It can be pickled and sent as JSON."""

    gateway: str  # its URL
    forward: str
    model: str

    def answer(self, question: str) -> str:
        message = {"role": "user", "content": question}
        body: dict[str, Any] = {"model": self.model, "messages": [message]}
        gateway = Gateway(self.gateway)
        route = gateway.route("openai", forward=self.forward, model=self.model)
        headers = route.headers
        if key := os.environ.get("OPENAI_API_KEY", "").strip():
            headers["Authorization"] = f"Bearer {key}"
        url = f"{route.base_url}chat/completions"
        with mount(requests.Session(), gateway) as http:
            answer = http.post(url, params=route.query, json=body, headers=headers, timeout=60)
        answer.raise_for_status()
        return str(answer.json()["choices"][0]["message"]["content"])

    def summarize(self, answers: list[str]) -> str:
        return self.answer("Summarize: " + " ".join(answers))


def run(work: Work) -> None:
    """Let *work* do the batch, and print the summaries.

    If no gateway is given, a stand-in answers. Then also print what the gateway bills each session,
    and check that it received every call.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument(
        "--models-gateway",
        metavar="URL",
        help="default: $DOCKER_AGENT_MODELS_GATEWAY, or else $CAGENT_MODELS_GATEWAY",
    )
    parser.add_argument(
        "--forward", metavar="URL", default="https://api.openai.com/v1", help="default: %(default)s"
    )
    parser.add_argument("--model", metavar="NAME", default="gpt-4o", help="default: %(default)s")
    options = parser.parse_args()
    url = options.models_gateway
    try:
        gateway = Gateway(url) if url else Gateway.from_environment()
        gateway_headers(options.forward, model=options.model)
    except ValueError as error:
        parser.error(str(error))
    if gateway:
        show(work, Agent(gateway.urls[0], options.forward, options.model))
        return
    print("No models gateway is set. A stand-in on this machine answers; its model echoes.\n")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it would log every request
    os.environ["NO_PROXY"] = "127.0.0.1"
    with ModelsGateway() as stand_in:
        show(work, Agent(stand_in.url, options.forward, options.model))
        usage = stand_in.usage()
    print(f"\n{'session':8}  calls  tokens")
    for session_id, used in sorted(usage.items(), key=str):
        print(f"{session_id or 'none':8}  {used.calls:5}  {used.total_tokens:6}")
    expected = {session_id: len(questions) + 1 for session_id, questions in BATCH.items()}
    if {session_id: used.calls for session_id, used in usage.items()} != expected:
        sys.exit(f"the gateway should have got these calls: {expected}")


def show(work: Work, agent: Agent) -> None:
    try:
        summaries = work(agent, BATCH)
    except ImportError as error:
        sys.exit(f"the batch failed: {error}")
    except Exception as error:  # noqa: BLE001 - its message may hold a password, its type can't
        sys.exit(f"the batch failed: {type(error).__name__}")
    for session_id, summary in summaries.items():
        print(f"{session_id}: {summary}")
