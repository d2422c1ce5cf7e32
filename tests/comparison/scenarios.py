"""What can befall the session on its way? One body of scenarios; ``scenarios.py NAME`` runs it with a solution."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import multiprocessing
import pickle
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any

import urllib3
from arrivals import Places, url_at
from requests.adapters import HTTPAdapter
from solutions import MARKED, OnHttpx, Solution, call_in_process, set_up
from urllib3.util import Retry

A, B = "sess-a", "sess-b"
MALFORMED: dict[str, Any] = {
    "empty": "",
    "a space at its end": "sess-a ",
    "CR LF and a header": "sess-a\r\nX-Injected: 1",
    "LF and a header": "sess-a\nX-Injected: 1",
    "CR LF and a fold": "sess-a\r\n 1",
    "NUL": "sess\0a",
    "a tab": "sess\ta",
    "DEL": "sess\x7fa",
    "Latin-1": "sess-\xe9",
    "beyond Latin-1": "sess-\u65e5\u672c",
    "10,000 characters": "s" * 10_000,
    "an int": 42,
}


class NotApplicable(Exception):  # noqa: N818 - no error
    """A solution's client can't do this at all."""


class Stage:
    """A scenario's view of a solution: one client for all sessions, and calls that say whose they are."""

    def __init__(self, solution: Solution, name: str) -> None:
        self.solution = solution
        self.name = name
        self.places = solution.places
        self.transport = solution.transport

    def url(self, owner: object = None, place: str | None = None, **plan: object) -> str:
        return url_at(place or self.places.gateway, self.name, owner, **plan)

    def client(self, gateway: str | None = None) -> Any:
        return self.solution.client(gateway or self.places.gateway)

    def call(
        self, owner: object = None, place: str | None = None, *, client: Any = None, **plan: object
    ) -> Any:
        """Make a marked call, which belongs to *owner*'s session."""
        return self.transport.send(
            client or self.client(), self.url(owner, place, **plan), headers=MARKED
        )

    def scope(self, session_id: object) -> Any:
        self.client()
        return self.solution.scope(session_id)

    def calling(self, *owners: object) -> Callable[[], Iterator[Any]]:
        """Return a generator function that makes a call a step."""

        def events() -> Iterator[Any]:
            for owner in owners:
                yield self.call(owner)

        return events

    def job(self, owner: object) -> Callable[[], None]:
        return partial(call_in_process, self.solution.name, self.places, self.url(owner))

    def only_on_requests(self, reason: str) -> None:
        if isinstance(self.transport, OnHttpx):
            raise NotApplicable(reason)


@dataclass(frozen=True)
class Scenario:
    """One scenario: its row of the table, and how many requests arrive; ``None`` where a refusal is as good."""

    name: str
    row: str
    arrivals: int | None
    run: Callable[[Stage], None]


SCENARIOS: dict[str, Scenario] = {}


def scenario(
    row: str, arrivals: int | None, *, each: Mapping[str, Any] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a row to the table: one scenario, or one for *each* variant, whose value the function gets first."""

    def add(run: Callable[..., None]) -> Callable[..., None]:
        variants = (
            {row: run}
            if each is None
            else {f"{row}: {name}": partial(run, each[name]) for name in each}
        )
        SCENARIOS.update(
            {name: Scenario(name, row, arrivals, variant) for name, variant in variants.items()}
        )
        return run

    return add


@scenario("calls in two sessions and in none", 5)
def in_turn(on: Stage) -> None:
    on.call(None)
    with on.scope(A):
        on.call(A)
    with on.scope(B):
        on.call(B)
        with on.scope(A):
            on.call(A)
        on.call(B)


@scenario("session that ends, also by an error", 4)
def ends(on: Stage) -> None:
    for error in (None, LookupError()):
        with contextlib.suppress(LookupError), on.scope(A):
            on.call(A)
            if error:
                raise error
        on.call(None)


@scenario("redirect to another host or port", 2, each={
    f"{status} to another {what}": (status, place)
    for status in (301, 302, 303, 307, 308) for what, place in {"host": "localhost", "port": "other"}.items()
})  # fmt: skip
def redirect_away(how: tuple[int, str], on: Stage) -> None:
    status, place = how
    with on.scope(A):
        on.call(A, status=status, to=on.url(place=getattr(on.places, place)))


@scenario("redirect to another scheme", 2, each={
    "http to https": ("gateway", "other_tls"), "https to http": ("gateway_tls", "other"),
})  # fmt: skip
def redirect_scheme(how: tuple[str, str], on: Stage) -> None:
    gateway, other = (getattr(on.places, place) for place in how)
    client = on.client(gateway)
    with on.scope(A):
        on.call(A, gateway, client=client, to=on.url(place=other))


@scenario("redirect within the gateway", 3)
def redirect_within(on: Stage) -> None:
    with on.scope(A):
        on.call(A, to=on.url(A, hop=1, to=on.url(A, hop=2)))


@scenario("redirect over several hops", 4)
def redirect_hops(on: Stage) -> None:
    elsewhere = on.url(place=on.places.other, to=on.url(place=on.places.localhost))
    with on.scope(A):
        on.call(A, to=on.url(A, to=elsewhere))


@scenario("redirect followed by hand", 2)
def redirect_by_hand(on: Stage) -> None:
    with on.scope(A):
        url = on.url(A, to=on.url(place=on.places.other))
        response = on.transport.send(on.client(), url, follow=False, headers=MARKED)
        on.transport.resend(on.client(), on.transport.next_of(response))


@scenario("redirect away and back to the gateway", 3)
def redirect_back(on: Stage) -> None:
    with on.scope(A):
        on.call(A, to=on.url(place=on.places.other, to=on.url(A, hop=2)))


@scenario("prepared request sent again", 3)
def sent_again(on: Stage) -> None:
    """In the next session, and in none: each sending has its own URL, so that it says whose it is."""
    prepared = on.transport.prepare(on.client(), on.url())
    for owner in (A, B, None):
        prepared.url = _url_like(prepared, on.url(owner))
        with on.scope(owner) if owner else contextlib.nullcontext():
            on.transport.resend(on.client(), prepared)


def _url_like(prepared: Any, url: str) -> Any:
    return type(prepared.url)(url)


@scenario("digest authentication", 2)
def digest(on: Stage) -> None:
    with on.scope(A):
        auth = on.transport.digest("user", "password")
        on.transport.send(on.client(), on.url(A, digest=1), headers=MARKED, auth=auth)


@scenario("retries", 3)
def retries(on: Stage) -> None:
    on.only_on_requests("httpx retries connecting alone, when nothing has been sent")
    client = on.transport.make(on.places)
    client.mount("http://", _retrying())
    client = on.solution.adopt(client, on.places.gateway)
    on.solution.also(client)
    with on.scope(A):
        on.call(A, client=client, fail=2)


def _retrying() -> HTTPAdapter:
    return HTTPAdapter(
        max_retries=Retry(3, status_forcelist=[503], allowed_methods=None, backoff_factor=0)
    )


@scenario("unmarked call to another host", 2)
def unmarked(on: Stage) -> None:
    with on.scope(A):
        for place in (on.places.other, on.places.localhost):
            on.transport.send(on.client(), on.url(place=place))


@scenario("marked call to another host", 2)
def marked(on: Stage) -> None:
    with on.scope(A):
        for place in (on.places.other, on.places.localhost):
            on.call(None, place)


@scenario("malformed ID", None, each=MALFORMED)
def malformed(session_id: Any, on: Stage) -> None:
    with on.scope(session_id):
        on.call(session_id)


@scenario("call between two events of a generator", 4)
def consumer(on: Stage) -> None:
    on.client()
    events = on.solution.events(A, on.calling(A, A))
    next(events)
    on.call(None)
    next(events)
    on.call(None)
    events.close()


@scenario("two generators in turn", 5)
def two_generators(on: Stage) -> None:
    on.client()
    first, second = on.solution.events(A, on.calling(A, A)), on.solution.events(B, on.calling(B, B))
    for events in (first, second, first, second):
        next(events)
    first.close()
    second.close()
    on.call(None)


@scenario("generator closed in another session", 4)
def closed_late(on: Stage) -> None:
    def body() -> Iterator[Any]:
        try:
            yield on.call(A)
        finally:
            on.call(A)

    on.client()
    events = on.solution.events(A, body)
    next(events)
    with on.scope(B):
        events.close()
        on.call(B)
    on.call(None)


@scenario("thread that outlives the scope", 1)
def thread(on: Stage) -> None:
    left = threading.Event()

    def job() -> None:
        left.wait(30)
        on.call(A)

    with on.scope(A):
        worker = threading.Thread(target=on.solution.to_thread(job))
        worker.start()
    left.set()
    worker.join()


@scenario("two threads, two sessions, one client", 4)
def two_threads(on: Stage) -> None:
    together = threading.Barrier(2)

    def agent(owner: str) -> None:
        with on.scope(owner):
            for _ in range(2):
                together.wait(30)
                on.call(owner)
            together.wait(30)

    on.client()
    threads = [threading.Thread(target=agent, args=[owner]) for owner in (A, B)]
    for worker in threads:
        worker.start()
    for worker in threads:
        worker.join()


@scenario("two tasks of asyncio, calling in threads", 4)
def two_tasks(on: Stage) -> None:
    together = threading.Barrier(2)

    async def agent(owner: str) -> None:
        with on.scope(owner):
            for _ in range(2):
                await asyncio.to_thread(together.wait, 30)
                await asyncio.to_thread(on.call, owner)
            await asyncio.to_thread(together.wait, 30)

    async def both() -> None:
        await asyncio.gather(agent(A), agent(B))

    on.client()
    asyncio.run(both())


@scenario("thread pool that two sessions share", 3)
def pool(on: Stage) -> None:
    submitted = threading.Event()

    def job(owner: str | None) -> None:
        submitted.wait(30)
        on.call(owner)

    with ThreadPoolExecutor(1) as workers:
        jobs = []
        for owner in (A, B):
            with on.scope(owner):
                jobs.append(workers.submit(on.solution.to_thread(partial(job, owner))))
        jobs.append(workers.submit(job, None))
        submitted.set()
        for done in jobs:
            done.result()


@scenario(
    "process pool made in a session", 3, each={method: method for method in ("fork", "spawn")}
)
def processes(method: str, on: Stage) -> None:
    if method not in multiprocessing.get_all_start_methods():
        raise NotApplicable(f"there is no {method} here")
    on.client()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as workers:
        for owner in (A, B):
            with on.scope(owner):
                workers.submit(on.solution.to_process(on.job(owner))).result()
        workers.submit(on.job(None)).result()


@scenario("copy or pickle of a client", 3, each={
    "copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": lambda client: pickle.loads(pickle.dumps(client)),
})  # fmt: skip
def copies(make: Callable[[Any], Any], on: Stage) -> None:
    on.only_on_requests("a client of httpx isn't made to be copied")
    with on.scope(A):
        on.call(A)
        copied = make(on.client())
    on.solution.also(copied)
    with on.scope(B):
        on.call(B, client=copied)
    on.call(None, client=copied)


@scenario("SDK's own adapter on a longer prefix", 2)
def longer_prefix(on: Stage) -> None:
    on.only_on_requests("httpx has no adapters")
    client = on.transport.make(on.places)
    client.mount(f"{on.places.gateway}/v1", _retrying())
    on.solution.also(on.solution.adopt(client, on.places.gateway))
    with on.scope(A):
        on.call(A, client=client, fail=1)


class Around(HTTPAdapter):
    """An SDK's adapter around whatever was mounted; it sends a copy of the request, with a header more."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        request = request.copy()
        request.headers["X-SDK"] = "1"
        return self.inner.send(request, *args, **kwargs)


@scenario("SDK's adapter around the mounted one", 1)
def around(on: Stage) -> None:
    wrap(on)
    with on.scope(A):
        on.call(A)


@scenario("the same, and a redirect elsewhere", 2)
def around_and_away(on: Stage) -> None:
    wrap(on)
    with on.scope(A):
        on.call(A, to=on.url(place=on.places.other))


def wrap(on: Stage) -> None:
    on.only_on_requests("httpx has no adapters")
    on.client().mount("http://", Around(on.client().get_adapter("http://")))


@scenario("SDK that mounts an adapter afterwards", 1)
def afterwards(on: Stage) -> None:
    on.only_on_requests("httpx has no adapters")
    on.client().mount("http://", HTTPAdapter())
    with on.scope(A):
        on.call(A)


@scenario("requests.post() or httpx.post()", 1)
def past_the_client(on: Stage) -> None:
    with on.scope(A):
        on.transport.post(on.url(A), json={}, headers=MARKED, timeout=30)


@scenario("urllib3, as boto3 calls it", 1)
def past_the_library(on: Stage) -> None:
    with on.scope(A), urllib3.PoolManager() as manager:
        manager.request("POST", on.url(A), body=b"{}", headers=MARKED, timeout=30)


def report_on(scenario: Scenario, solution: Solution) -> dict[str, str]:
    """Run a scenario with a solution, and tell whether it ran, was refused, or can't be."""
    try:
        copy_context().run(
            scenario.run, Stage(solution, scenario.name)
        )  # what it leaves behind is nothing to the next
    except NotApplicable as reason:
        return {"not applicable": str(reason)}
    except Exception as error:  # noqa: BLE001 - whatever it is, it goes into the report
        is_refusal = scenario.arrivals is None and isinstance(error, solution.refusals)
        return {"refused": repr(error)} if is_refusal else {"broke": traceback.format_exc()}
    finally:
        solution.renew()
    return {}


def main() -> None:
    solution = set_up(sys.argv[1], Places(**json.load(sys.stdin)))
    reports = {name: report_on(scenario, solution) for name, scenario in SCENARIOS.items()}
    sys.stdout.write(json.dumps(reports))


if __name__ == "__main__":
    main()
