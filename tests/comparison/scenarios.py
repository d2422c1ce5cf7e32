"""The rows of the table and their scenarios. A scenario is something that an agent does.

Each scenario is written once and runs with every solution. It names the session to which each of
its calls belongs: ``on.call(A)``. A row has one scenario, or several similar ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any

import botocore.session
import urllib3
from arrivals import Places
from requests.adapters import HTTPAdapter
from solutions import MALFORMED, MARKED, A, B, OnHttpx, Solution, agent
from urllib3.util import Retry

Scenario = Callable[[Solution], None]


@dataclass(frozen=True)
class Row:
    """A row of the table, with its scenarios by name."""

    name: str
    arrivals: int  # how many requests arrive in each scenario
    scenarios: Mapping[str, Scenario]
    requests_only: bool

    def can_run_with(self, solution: type[Solution]) -> bool:
        return not (self.requests_only and issubclass(solution, OnHttpx))


ROWS: list[Row] = []


def row(name: str, arrivals: int, *, requests_only: bool = False) -> Callable[[Any], None]:
    """Add a row with one scenario, or with several. The keys name the differences."""

    def add(scenarios: Scenario | Mapping[str, Scenario]) -> None:
        variants = {"": scenarios} if callable(scenarios) else scenarios
        named = {f"{name}: {variant}".rstrip(": "): run for variant, run in variants.items()}
        ROWS.append(Row(name, arrivals, named, requests_only))

    return add


@row("two sessions and none", 5)
def _(on: Solution) -> None:
    on.call(None)
    with on.scope(A):
        on.call(A)
    with on.scope(B):
        on.call(B)
        with on.scope(A):
            on.call(A)
        on.call(B)


@row("session ends, also by an error", 4)
def _(on: Solution) -> None:
    for error in (None, LookupError()):
        with contextlib.suppress(LookupError), on.scope(A):
            on.call(A)
            if error:
                raise error
        on.call(None)


def call_via(
    *places: str, status: int = 307, mounted: Callable[[Any], HTTPAdapter] | None = None
) -> Scenario:
    """Return a scenario: a call to the first place, which redirects it to the next, and so on.

    *mounted* is for an SDK: it gets the client's adapter, and returns one to mount instead.
    """

    def run(on: Solution) -> None:
        first, *others = (getattr(on.places, place) for place in places)
        on.use(on.new_client(), first)
        if mounted:
            on.client.mount("http://", mounted(on.client.get_adapter("http://")))
        target = None
        for hop, place in reversed([*enumerate(others, 1)]):
            owner = A if place == first else None
            target = on.url(owner, place, hop=hop, to=target)
        with on.scope(A):
            on.call(A, to=target, status=status)

    return run


row("redirect to other host or port", 2)({
    f"{status} to another {what}": call_via("gateway", place, status=status)
    for status in (301, 302, 303, 307, 308)
    for what, place in {"host": "localhost", "port": "other"}.items()
})  # fmt: skip
row("redirect to another scheme", 2)({
    "http to https": call_via("gateway", "other_tls"),
    "https to http": call_via("gateway_tls", "other"),
})  # fmt: skip
row("redirect within the gateway", 3)(call_via("gateway", "gateway", "gateway"))
row("redirect over several hops", 4)(call_via("gateway", "gateway", "other", "localhost"))


@row("redirect the caller follows", 2)
def _(on: Solution) -> None:
    with on.scope(A):
        response = on.send(on.url(A, to=on.url(place=on.places.other)), follow=False)
        on.client.send(getattr(response, "next_request", None) or response.next)


row("redirect away and back", 3)(call_via("gateway", "other", "gateway"))


@row("prepared request sent again", 3)
def _(on: Solution) -> None:
    """Send it in two sessions and in none. Its URL changes, because it names the owner."""
    prepared = on.prepare(on.url())
    for owner in (A, B, None):
        prepared.url = type(prepared.url)(on.url(owner))
        with on.scope(owner) if owner else contextlib.nullcontext():
            on.client.send(prepared)


@row("digest authentication", 2)
def _(on: Solution) -> None:
    with on.scope(A):
        on.send(on.url(A, digest=1), auth=on.digest("user", "password"))


def call_with_retries(on: Solution, prefix: str, fail: int) -> None:
    """Make a call that fails at first. The client retries calls to this *prefix*."""
    client = on.new_client()
    retries = Retry(3, status_forcelist=[503], allowed_methods=None, backoff_factor=0)
    client.mount(prefix.format(on.gateway), HTTPAdapter(max_retries=retries))
    on.use(client)
    with on.scope(A):
        on.call(A, fail=fail)


row("retries", 3, requests_only=True)(partial(call_with_retries, prefix="http://", fail=2))


def call_elsewhere(on: Solution, headers: Mapping[str, str]) -> None:
    with on.scope(A):
        for place in (on.places.other, on.places.localhost):
            on.send(on.url(place=place), headers=headers)


row("unmarked call to another host", 2)(partial(call_elsewhere, headers={}))
row("marked call to another host", 2)(partial(call_elsewhere, headers=MARKED))


def malformed(on: Solution, session_id: Any) -> None:
    """Make one call with this ID. If the solution refuses the ID, call in no session."""
    try:
        with on.scope(session_id):
            on.call(session_id)
    except on.refusals:
        on.call(None)


row("malformed session ID", 1)({
    name: partial(malformed, session_id=session_id) for name, session_id in MALFORMED.items()
})  # fmt: skip


def two_calls(on: Solution, owner: str) -> Generator[None, None, None]:
    for _ in range(2):
        on.call(owner)
        yield


@row("call between generator items", 4)
def _(on: Solution) -> None:
    events = on.events(A, partial(two_calls, on, A))
    next(events)
    on.call(None)
    next(events)
    on.call(None)


@row("two generators, read in turn", 5)
def _(on: Solution) -> None:
    first, second = (on.events(owner, partial(two_calls, on, owner)) for owner in (A, B))
    for events in (first, second, first, second):
        next(events)
    for events in (first, second):
        events.close()
    on.call(None)


@row("generator closed from outside", 4)
def _(on: Solution) -> None:
    def steps() -> Generator[None, None, None]:
        try:
            on.call(A)
            yield
        finally:
            on.call(A)

    events = on.events(A, steps)
    next(events)
    with on.scope(B):
        events.close()
        on.call(B)
    on.call(None)


@row("thread outlives its session", 1)
def _(on: Solution) -> None:
    session_left = threading.Event()

    def job() -> None:
        session_left.wait(30)
        on.call(A)

    with on.scope(A):
        thread = threading.Thread(target=on.to_thread(job))
        thread.start()
    session_left.set()
    thread.join()


@row("two threads with one client", 4)
def _(on: Solution) -> None:
    together = threading.Barrier(2, timeout=30)

    def work(owner: str) -> None:
        with on.scope(owner):
            for _ in range(2):
                together.wait()
                on.call(owner)
            together.wait()

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(work, (A, B)))


@row("asyncio tasks call in threads", 4)
def _(on: Solution) -> None:
    together = threading.Barrier(2, timeout=30)

    async def work(owner: str) -> None:
        with on.scope(owner):
            for _ in range(2):
                await asyncio.to_thread(together.wait)
                await asyncio.to_thread(on.call, owner)
            await asyncio.to_thread(together.wait)

    async def both() -> None:
        await asyncio.gather(work(A), work(B))

    asyncio.run(both())


@row("thread pool for two sessions", 3)
def _(on: Solution) -> None:
    all_submitted = threading.Event()

    def job(owner: str | None) -> None:
        all_submitted.wait(30)
        on.call(owner)

    with ThreadPoolExecutor(1) as threads:
        for owner in (A, B):
            with on.scope(owner):
                threads.submit(on.to_thread(partial(job, owner)))
        threads.submit(job, None)
        all_submitted.set()


def process_pool(on: Solution, method: str) -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as processes:
        for owner in (A, B):
            with on.scope(owner):
                processes.submit(on.to_process(on.job(owner))).result()
        processes.submit(on.job(None)).result()


row("process pool for two sessions", 3)({
    method: partial(process_pool, method=method)
    for method in ("fork", "spawn") if method in multiprocessing.get_all_start_methods()
})  # fmt: skip


def copied_client(on: Solution, copied: Callable[[Any], Any]) -> None:
    with on.scope(A):
        on.call(A)
        on.client = copied(on.client)
        on.clients.append(on.client)
    with on.scope(B):
        on.call(B)
    on.call(None)


row("copied or pickled client", 3, requests_only=True)({
    "copy": partial(copied_client, copied=copy.copy),
    "deepcopy": partial(copied_client, copied=copy.deepcopy),
    "pickle": partial(copied_client, copied=lambda client: pickle.loads(pickle.dumps(client))),
})  # fmt: skip
longer_prefix = partial(call_with_retries, prefix="{}/v1", fail=1)
row("SDK's adapter, longer prefix", 2, requests_only=True)(longer_prefix)


class SdksAdapter(HTTPAdapter):
    """An SDK's adapter: it copies the request, adds a header, and sends the copy by *inner*."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        request = request.copy()
        request.headers["X-SDK"] = "1"
        return self.inner.send(request, *args, **kwargs)


wrapped = partial(call_via, mounted=SdksAdapter)
row("SDK wraps the mounted adapter", 1, requests_only=True)(wrapped("gateway"))
row("wrapped, then a redirect away", 2, requests_only=True)(wrapped("gateway", "other"))
replaced = call_via("gateway", mounted=lambda _: HTTPAdapter())
row("SDK mounts its adapter later", 1, requests_only=True)(replaced)


@row("requests.post(), httpx.post()", 1)
def _(on: Solution) -> None:
    with on.scope(A):
        on.post(on.url(A), json={}, headers=on.marked, timeout=30)


@row("botocore, which boto3 uses", 1)
def _(on: Solution) -> None:
    session = botocore.session.Session()
    session.set_credentials("key", "secret")
    client = session.create_client("bedrock-runtime", "us-east-1", endpoint_url=on.url(A))
    events = client.meta.events
    events.register("before-call", lambda params, **_: params["headers"].update(on.marked))
    with on.scope(A):
        client.invoke_model(modelId="any", body=b"{}")


@row("urllib3's own pools", 1)
def _(on: Solution) -> None:
    with on.scope(A), urllib3.PoolManager() as manager:
        manager.request("POST", on.url(A), body=b"{}", headers=on.marked, timeout=30)


def run_all(name: str, places: Places) -> None:
    """Run each scenario with the named solution. It may patch the whole process."""
    os.environ["no_proxy"] = "*"
    logging.disable()  # OpenTelemetry logs an error if a scope ends in another context
    on = agent(name, places)
    for each in ROWS:
        for scenario, run in each.scenarios.items() if each.can_run_with(type(on)) else ():
            on.start(scenario)
            try:
                copy_context().run(run, on)  # so the next scenario begins in no session
            except Exception as error:
                raise RuntimeError(f"{name}: {scenario} failed") from error
