"""Requests of twenty sessions and of none, over connections that they share."""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
import requests

from cagent_session.testing import ModelsGateway

CLIENTS = 20
SESSIONS = [*(f"sess-{number}" for number in range(20)), None]
SIZES = [10] * 10 + [1_000] * 3 + [20_000] * 2 + [70_000, 100_000, 200_000, 500_000, 1_000_000]

MALFORMED = ["", "one word", "x" * 257]
REFUSED = {(400, "session ID must be 1-256 visible ASCII characters")}

Calls = Counter[tuple[str | None, str]]
"""How often the gateway has got a call, by session and prompt."""


class Job(NamedTuple):
    """A request to the server, and the call that the server makes."""

    url: str
    endpoint: str
    session_id: str | None
    prompt: str
    size: int = 10

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.session_id is None else {"Conversation-Id": self.session_id}


Send = Callable[[requests.Session, Job], object]


def client() -> requests.Session:
    http = requests.Session()
    http.trust_env = False  # no proxies
    return http


def post(http: requests.Session, job: Job) -> None:
    url, query = f"{job.url}/{job.endpoint}", {"prompt": job.prompt, "steps": "1"}
    body = b"x" * job.size
    response = http.post(url, params=query, headers=job.headers, data=body, timeout=60)
    response.raise_for_status()


def answers_to_malformed_ids(url: str, endpoint: str) -> set[tuple[int, str]]:
    """Send requests whose session IDs are malformed. Return the answers: status and text."""
    answers = set[tuple[int, str]]()
    with client() as http:
        for session_id in MALFORMED:
            with pytest.raises(requests.HTTPError) as caught:
                post(http, Job(url, endpoint, session_id, "malformed: ID"))
            response: Any = caught.value.response
            answers.add((response.status_code, response.text.partition(",")[0]))
    return answers


def send_many(number: int, send: Send, urls: Sequence[str], endpoints: Sequence[str]) -> Calls:
    """Send this *number* of requests: each session to each endpoint at each URL.

    Return the calls that the server must make.
    """
    expected, jobs = Calls(), list[Job]()
    rng = random.Random(0)
    kinds = list(itertools.product(urls, endpoints, SESSIONS))
    rng.shuffle(kinds)
    assert number >= len(kinds)
    sizes = rng.choices(SIZES, k=number)
    for index, size in enumerate(sizes):
        url, endpoint, session_id = kinds[index % len(kinds)]
        prompt = f"load: {session_id} {index}"
        jobs.append(Job(url, endpoint, session_id, prompt, size))
        expected[session_id, prompt] += 1
        if endpoint.endswith("stream"):
            expected[session_id, f"{prompt} closed"] += 1

    waiting = iter(jobs)

    def work(_: int) -> None:
        with client() as http:
            for job in waiting:
                send(http, job)

    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(work, range(CLIENTS)))
    return expected


def calls_of(gateway: ModelsGateway, kind: str) -> Calls:
    """Return the calls whose prompt begins with *kind*.

    If a caller hangs up, the server may end a call before it has sent the body. Then the call has
    no prompt.
    """
    whole = [call for call in gateway.calls if call.body]
    calls = [(call.session_id, call.json["messages"][0]["content"]) for call in whole]
    return Calls(call for call in calls if call[1].startswith(kind))


def wait_for_calls(gateway: ModelsGateway, kind: str, number: int) -> Calls:
    """Wait until *gateway* has this *number* of calls whose prompt begins with *kind*."""
    deadline = time.monotonic() + 30
    while (calls := calls_of(gateway, kind)).total() < number:
        assert time.monotonic() < deadline, calls
        time.sleep(0.02)
    return calls


def sessions_of(gateway: ModelsGateway, kind: str) -> set[str | None]:
    """Return the sessions of the calls whose prompt begins with *kind*."""
    return {session_id for session_id, _ in calls_of(gateway, kind)}


def sessions_of_a_left_stream(gateway: ModelsGateway, url: str) -> set[str | None]:
    """Leave an endless stream of the session ``sess-1``. Return the sessions of its calls."""
    query, headers = {"prompt": "left: stream", "steps": "1000000"}, {"Conversation-Id": "sess-1"}
    with (
        client() as http,
        http.post(url, params=query, data=b"x", headers=headers, stream=True, timeout=60) as body,
    ):
        assert body.raw.read(1)
    wait_for_calls(gateway, "left: stream closed", 1)
    return sessions_of(gateway, "left")
