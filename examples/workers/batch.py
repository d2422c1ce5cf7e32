"""What is the agent's batch job? To answer the questions of each session, and to summarize the answers.

Every answer and every summary is a call through a models gateway. Where they are called is up to on_celery.py and
on_dask.py; neither the agent nor the gateway's bill can tell.
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

from cagent_session import gateway_headers, mount
from cagent_session.testing import ModelsGateway

GATEWAY_VARIABLES = ("DOCKER_AGENT_MODELS_GATEWAY", "CAGENT_MODELS_GATEWAY")

Batch = dict[str, list[str]]  # the questions of each session
BATCH: Batch = {
    "sess-1": ["Which orders are late?", "Which orders were returned?"],
    "sess-2": ["Which orders are late?", "Who has to be told?", "What shall we tell them?"],
    "sess-3": ["Which invoices are open?"],
}


Work = Callable[["Agent", Batch], dict[str, str]]  # it returns the summary of each session


@dataclass(frozen=True)
class Agent:
    """An agent that calls the model through a gateway, from wherever it has been pickled to."""

    gateway: str
    forward: str
    model: str

    def answer(self, question: str) -> str:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": question}],
        }
        headers = gateway_headers(self.forward, model=self.model)
        if key := os.environ.get("OPENAI_API_KEY", "").strip():
            headers["Authorization"] = f"Bearer {key}"
        with mount(requests.Session(), self.gateway) as http:
            answer = http.post(
                f"{self.gateway}/v1/chat/completions", json=body, headers=headers, timeout=60
            )
        answer.raise_for_status()
        return str(answer.json()["choices"][0]["message"]["content"])

    def summarize(self, answers: list[str]) -> str:
        return self.answer("Summarize: " + " ".join(answers))


def run(work: Work) -> None:
    """Let the batch be done by *work*, and print the summaries.

    Without a gateway of yours, what the embedded one bills is printed at the end, and compared with what a loop costs.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument(
        "--models-gateway", metavar="URL", help=f"default: ${', else $'.join(GATEWAY_VARIABLES)}"
    )
    parser.add_argument(
        "--forward", metavar="URL", default="https://api.openai.com/v1", help="default: %(default)s"
    )
    parser.add_argument("--model", metavar="NAME", default="gpt-4o", help="default: %(default)s")
    options = parser.parse_args()
    urls = (options.models_gateway, *map(os.environ.get, GATEWAY_VARIABLES))
    url = next(filter(None, ((url or "").strip().removesuffix("/") for url in urls)), None)
    try:
        gateway_headers(options.forward, model=options.model)
        mount(requests.Session(), url)
    except ValueError as error:
        parser.error(str(error))
    if url:
        show(work, Agent(url, options.forward, options.model))
        return
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request otherwise
    os.environ["NO_PROXY"] = "127.0.0.1"
    with ModelsGateway() as gateway:
        show(work, Agent(gateway.url, options.forward, options.model))
        bill = gateway.usage()
    print(f"\n{'session':8}  calls  tokens")
    for session_id, usage in sorted(bill.items(), key=str):
        print(f"{session_id or 'none':8}  {usage.calls:5}  {usage.total_tokens:6}")
    if {session_id: usage.calls for session_id, usage in bill.items()} != {
        session_id: len(questions) + 1 for session_id, questions in BATCH.items()
    }:
        sys.exit("a loop would have been billed otherwise")


def show(work: Work, agent: Agent) -> None:
    try:
        summaries = work(agent, BATCH)
    except ImportError as error:
        sys.exit(f"the batch failed: {error}")
    except Exception as error:  # noqa: BLE001 - a broker's or a call's message may hold a password, its type says enough
        sys.exit(f"the batch failed: {type(error).__name__}")
    for session_id, summary in summaries.items():
        print(f"{session_id}: {summary}")
