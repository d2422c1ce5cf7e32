"""How do calls come about? Every kind of client, and every way in which a session comes to a call."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import pickle
import random
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
import httpx2
import requests
from calls import (
    ECHO_HEADER,
    FAULTS,
    GATEWAY,
    ONCE,
    READINGS,
    REDIRECTS,
    Call,
    Ended,
    Finding,
    Report,
)
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from cagent_session import (
    MissingSessionId,
    SessionExecutor,
    SessionIdAdapter,
    async_session_id_hook,
    carry_session,
    current_session_id,
    in_session,
    mount,
    session_factory,
    session_id_hook,
    session_scope,
    unmount,
)

TIMEOUT = 60
PIECE = 64
RETRIES = 3
ERRORS = (requests.RequestException, httpx.HTTPError, httpx2.HTTPError)
HARMLESS = (
    "none",
    "slow",
    "closed while idle",
    "early",
)  # a call that meets one of these is completed

AT_HOME = ["gg", "ggg"]
ABROAD = ["gf", "ga", "gfg", "gag", "ggf", "gff", "gfag", "gggfg"]
FROM_ABROAD = [
    "f",
    "ff",
    "fg",
    "af",
    "ag",
]  # with a pinned gateway only: otherwise the marker alone decides

# How many of the calls, and of the clients that are taken from a shelf
IN_NONE, IN_A_NEW_ONE, UNMARKED, WITH_OWN_ID, REDIRECTED, FAULTY, RENEWED = (
    0.1,
    0.2,
    0.1,
    0.1,
    0.4,
    0.4,
    0.03,
)

SessionId = str | uuid.UUID | None
Maker = Callable[[str], Any]  # given the gateway's URL


def session_with(adapter: HTTPAdapter | None = None) -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    if adapter is not None:
        session.mount("http://", adapter)
    return session


def retries() -> Retry:
    return Retry(RETRIES, status_forcelist=[503], allowed_methods=None, backoff_factor=0)


def copied(how: Callable[[requests.Session], requests.Session]) -> Maker:
    def make(url: str) -> requests.Session:
        with mount(session_with(), url) as original:
            return how(original)

    return make


def with_hook(make: Callable[..., Any], hook: Any) -> Any:
    return make(
        event_hooks={"request": [hook]},
        follow_redirects=True,
        trust_env=False,
        verify=False,
        timeout=TIMEOUT,
    )


@dataclass(frozen=True)
class Kind:
    """A kind of client: how it is made, and what it is known to do."""

    make: Maker
    pinned: bool = True
    most: int = 1  # as often as it sends a request
    missing: str = "omit"


KINDS = {
    "mount": Kind(lambda url: mount(session_with(), url)),
    "mount, unpinned": Kind(lambda _: mount(session_with()), pinned=False),
    "mount, insists": Kind(
        lambda url: mount(session_with(), url, missing="raise"), missing="raise"
    ),
    "mount, retries": Kind(
        lambda url: mount(session_with(HTTPAdapter(max_retries=retries())), url), most=1 + RETRIES
    ),
    "adapter": Kind(lambda url: session_with(SessionIdAdapter(url, pool_maxsize=2))),
    "adapter, unpinned": Kind(
        lambda _: session_with(SessionIdAdapter(max_retries=retries())), False, 1 + RETRIES
    ),
    "adapter, inner": Kind(
        lambda url: session_with(SessionIdAdapter(url, inner=HTTPAdapter(pool_connections=1)))
    ),
    "factory": Kind(lambda url: session_factory(session_with, url)()),
    "factory, retries": Kind(
        lambda url: session_factory(gateway=url, max_retries=retries())(), most=1 + RETRIES
    ),
    "copy": Kind(copied(copy.copy)),
    "deepcopy": Kind(copied(copy.deepcopy)),
    "pickle": Kind(copied(lambda session: pickle.loads(pickle.dumps(session)))),
    "httpx": Kind(lambda url: with_hook(httpx.Client, session_id_hook(url))),
    "httpx, unpinned": Kind(lambda _: with_hook(httpx.Client, session_id_hook()), pinned=False),
    "httpx, insists": Kind(
        lambda url: with_hook(httpx.Client, session_id_hook(url, missing="raise")), missing="raise"
    ),
    "httpx2": Kind(lambda url: with_hook(httpx2.Client, session_id_hook(url))),
}
KINDS_OF_THEIR_OWN = {
    "remounted": Kind(lambda url: mount(session_with(), url)),
    "async httpx": Kind(lambda url: with_hook(httpx.AsyncClient, async_session_id_hook(url))),
    "async httpx2": Kind(
        lambda _: with_hook(httpx2.AsyncClient, async_session_id_hook()), pinned=False
    ),
}


class Client:
    """A client of any kind, behind one face. Whoever uses it counts, and the last one closes it."""

    def __init__(self, name: str, urls: dict[str, str]) -> None:
        self.name = name
        self.kind = (KINDS | KINDS_OF_THEIR_OWN)[name]
        self.urls = urls
        self.http = self.kind.make(urls[GATEWAY])
        self.users = 1

    def address(self, call: Call) -> str:
        return f"{self.urls[call.route[0]]}/0?{call.query}"

    def prepare(self, call: Call) -> Any:
        what: dict[str, Any] = {
            "method": call.method,
            "url": self.address(call),
            "headers": call.headers,
        }
        if isinstance(self.http, requests.Session):
            return self.http.prepare_request(requests.Request(**what, data=call.body))
        return self.http.build_request(**what, content=call.body)

    def readdress(self, request: Any, call: Call) -> Any:
        """Make *request*, which may have been sent before, another call's."""
        request.url = type(request.url)(self.address(call))
        return request

    def send(self, request: Any, reading: str) -> Any:
        stream = reading != "whole"
        if isinstance(self.http, requests.Session):
            response: Any = self.http.send(request, stream=stream, timeout=TIMEOUT)
            pieces = response.iter_content(PIECE)
        else:
            response = self.http.send(request, stream=stream)
            pieces = response.iter_bytes(PIECE)
        with contextlib.closing(response):
            for _ in pieces:
                if reading == "half":
                    break
        return response

    async def send_async(self, request: Any, reading: str) -> Any:
        response = await self.http.send(request, stream=reading != "whole")
        async with (
            contextlib.aclosing(response),
            contextlib.aclosing(response.aiter_bytes(PIECE)) as pieces,
        ):
            async for _ in pieces:
                if reading == "half":
                    break
        return response

    def leave(self) -> None:
        self.users -= 1
        if not self.users:
            self.http.close()


class Shelf:
    """Places for clients that threads share. Now and then a new one takes the place of an old one."""

    def __init__(self, places: int) -> None:
        self._places: list[Client | None] = [None] * places
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def borrow(self, worker: Worker) -> Iterator[Client]:
        rng = worker.rng
        place, is_renewed, name = (
            rng.randrange(len(self._places)),
            rng.random() < RENEWED,
            rng.choice(list(KINDS)),
        )
        with self._lock:
            client = self._places[place]
            if client is not None and is_renewed:
                client.leave()
            if client is None or is_renewed:
                client = self._places[place] = worker.make_client(name)
            client.users += 1
        try:
            yield client
        finally:
            with self._lock:
                client.leave()

    def clear(self) -> None:
        for client in filter(None, self._places):
            client.leave()
        self._places = [None] * len(self._places)


@dataclass
class Stage:
    """What all threads share."""

    urls: dict[str, str]
    sessions: list[SessionId]
    tell: Callable[[Report], None]
    shelf: Shelf
    threads: ThreadPoolExecutor = field(init=False)
    pool: SessionExecutor = field(init=False)

    def set_up(self) -> None:
        self.threads = ThreadPoolExecutor(8)
        self.pool = SessionExecutor(self.threads)

    def clear(self) -> None:
        self.shelf.clear()
        self.pool.shutdown()
        del self.pool, self.threads


class Worker:
    """One thread's work. What it draws depends on the seed, its number, and the clients that it happens to share."""

    def __init__(self, number: int, seed: int, stage: Stage) -> None:
        self.rng = random.Random(f"{seed}/{number}")
        self.numbers = (f"{number}.{count}" for count in itertools.count())
        self.stage = stage
        self.shelf = Shelf(1)
        self.report = Report()
        self.way = ""

    def work(self, end: float, stop: threading.Event) -> None:
        """Call in one way after another, until it is time."""
        while time.monotonic() < end and not stop.is_set():
            self.way = self.rng.choice(list(WAYS))
            WAYS[self.way](self)
            if (left_open := current_session_id()) is not None:
                self.find("leaked", f"{self.way} has left the scope of {left_open!r} open")
            report, self.report = self.report, Report()
            self.stage.tell(report)

    def make_client(self, name: str) -> Client:
        self.report.counted.append("mounts")
        return Client(name, self.stage.urls)

    def client(self) -> contextlib.AbstractContextManager[Client]:
        """Give a client of one's own, or a shared one."""
        return self.rng.choice([self.shelf, self.stage.shelf]).borrow(self)

    def session(self) -> SessionId:
        """Draw a session: none, a new one, or one that all threads know."""
        drawn = self.rng.random()
        if drawn < IN_NONE + IN_A_NEW_ONE:
            return None if drawn < IN_NONE else f"{ONCE}{self.rng.getrandbits(64)}"
        return self.rng.choice(self.stage.sessions)

    def plan(self, client: Client, session_id: SessionId, **fixed: Any) -> Call:
        """Draw a call, to be made in a session by whatever way."""
        rng = self.rng

        def often(share: float) -> bool:
            return rng.random() < share

        routes = AT_HOME + ABROAD + FROM_ABROAD * client.kind.pinned
        plan: dict[str, Any] = {
            "marked": not often(UNMARKED),
            "own_id": "set-by-hand" if often(WITH_OWN_ID) else None,
            "route": rng.choice(routes) if often(REDIRECTED) else GATEWAY,
            "redirect": rng.choice(REDIRECTS),
            "fault": rng.choice(list(FAULTS)) if often(FAULTY) else "none",
            "fault_times": rng.randint(1, RETRIES + 1),
            "reading": rng.choice(READINGS),
            "method": rng.choice(["GET", "POST"]),
            "chunked": often(0.3),
        } | fixed
        return Call(
            number=next(self.numbers),
            kind=client.name,
            way=self.way,
            session_id=None if session_id is None else str(session_id),
            most=client.kind.most,
            fault_at=rng.randrange(len(plan["route"])),
            **plan,
        )

    def perform(self, client: Client, call: Call, request: Any = None) -> Any:
        """Make a call, maybe with a request that was sent before; return the answer, if there is one."""
        with self.ending(client, call) as answers:
            answers.append(
                client.send(client.prepare(call) if request is None else request, call.reading)
            )
        return answers[0] if answers else None

    async def perform_async(self, client: Client, call: Call) -> None:
        with self.ending(client, call) as answers:
            answers.append(await client.send_async(client.prepare(call), call.reading))

    def call(self, client: Client, session_id: SessionId) -> None:
        self.perform(client, self.plan(client, session_id))

    @contextlib.contextmanager
    def ending(self, client: Client, call: Call) -> Iterator[list[Any]]:
        """Write down how a call ends."""
        answers: list[Any] = []
        ended = Ended(call.number, "failed")
        try:
            yield answers
        except MissingSessionId:
            ended.how = "refused"
        except ERRORS as error:
            ended.error = repr(error) if call.fault in HARMLESS else ""
        except Exception as error:  # noqa: BLE001 - nothing else may come out of a client
            self.find("wrong", f"{error!r} from {call}")
        else:
            ended.how, ended.hops = "completed", len(answers[0].history)
            if answers[0].headers.get(ECHO_HEADER) != call.number:
                self.find("wrong", f"the answer to another call, {answers[0].headers}, to {call}")
        if (ended.how == "refused") != call.is_refused_by(client.kind.missing):
            self.find("wrong", f"{ended.how}: {call}")
        self.report.ended.append(ended)

    def find(self, what: Any, text: str) -> None:
        self.report.findings.append(Finding(what, text))


def in_a_scope(worker: Worker) -> None:
    session_id = worker.session()
    with worker.client() as client, session_scope(session_id):
        worker.call(client, session_id)


def in_nested_scopes(worker: Worker) -> None:
    outer, inner = worker.session(), worker.session()
    with worker.client() as client, session_scope(outer):
        worker.call(client, outer)
        with session_scope(None):
            worker.call(client, None)
            with session_scope(inner):
                worker.call(client, inner)
        worker.call(client, outer)


def sent_again(worker: Worker) -> None:
    """Send one request in several sessions: the caller's own, or the one that the answer names."""
    with worker.client() as client:
        first = worker.plan(client, None, route=GATEWAY)
        request = client.prepare(first)
        for session_id in (worker.session(), worker.session(), None, worker.session()):
            kept = {"marked": first.marked, "own_id": first.own_id, "method": first.method}
            call = worker.plan(
                client, session_id, route=worker.rng.choice([GATEWAY, *AT_HOME]), **kept
            )
            with session_scope(session_id):
                answer = worker.perform(client, call, client.readdress(request, call))
            if answer is not None and worker.rng.random() < 0.5:
                request = answer.request


def in_generators(worker: Worker) -> None:
    """Take turns with several run loops, and call between them; abandon some."""

    @in_session("session_id")
    def run_loop(
        session_id: SessionId, client: Client, calls: list[Call]
    ) -> Generator[str, None, None]:
        for call in calls:
            worker.perform(client, call)
            yield call.number

    with worker.client() as client:
        sessions = [worker.session() for _ in range(3)]
        loops = [
            run_loop(each, client, [worker.plan(client, each) for _ in range(2)])
            for each in sessions
        ]
        while loops:
            loop = worker.rng.choice(loops)
            if next(loop, None) is None:
                loops.remove(loop)
            elif worker.rng.random() < 0.2:
                loop.close()
            if worker.rng.random() < 0.3:
                worker.call(client, None)


def in_a_pool(worker: Worker) -> None:
    session_id = worker.session()
    with worker.client() as client, session_scope(session_id):
        calls = [worker.plan(client, session_id) for _ in range(4)]
        jobs = [worker.stage.pool.submit(worker.perform, client, call) for call in calls[:2]]
        jobs.append(worker.stage.threads.submit(worker.perform, client, worker.plan(client, None)))
        list(worker.stage.pool.map(worker.perform, itertools.repeat(client), calls[2:]))
        for job in jobs:
            job.result()


def in_a_thread(worker: Worker) -> None:
    session_id = worker.session()
    with worker.client() as client, session_scope(session_id):
        carried = threading.Thread(
            target=carry_session(worker.perform), args=(client, worker.plan(client, session_id))
        )
        bare = threading.Thread(target=worker.perform, args=(client, worker.plan(client, None)))
        for thread in (carried, bare):
            thread.start()
        for thread in (carried, bare):
            thread.join()


def in_tasks(worker: Worker) -> None:
    @in_session("session_id")
    async def task(session_id: SessionId, client: Client, call: Call) -> None:
        await worker.perform_async(client, call)

    @in_session("session_id")
    async def run_loop(
        session_id: SessionId, client: Client, calls: list[Call]
    ) -> AsyncIterator[None]:
        for call in calls:
            await worker.perform_async(client, call)
            yield

    async def burst(client: Client, blocking: Client, session_id: SessionId) -> None:
        def plan(session_id: SessionId) -> Call:
            return worker.plan(client, session_id)

        sessions = [worker.session() for _ in range(3)]
        async with client.http:
            jobs = [task(each, client, plan(each)) for each in sessions]
            jobs.append(
                asyncio.to_thread(worker.perform, blocking, worker.plan(blocking, session_id))
            )
            jobs.append(worker.perform_async(client, plan(session_id)))
            await asyncio.gather(*jobs)
            async for _ in run_loop(sessions[0], client, [plan(sessions[0]), plan(sessions[0])]):
                await worker.perform_async(client, plan(session_id))

    session_id = worker.session()
    client = worker.make_client(worker.rng.choice(["async httpx", "async httpx2"]))
    with worker.client() as blocking, session_scope(session_id):
        asyncio.run(burst(client, blocking, session_id))


def while_remounting(worker: Worker) -> None:
    """Call with a client that is mounted, unmounted, and mounted again; unmounted, it knows of no session."""
    session_id = worker.session()
    client = worker.make_client("remounted")
    with client.http, session_scope(session_id):
        worker.call(client, session_id)
        unmount(client.http)
        worker.perform(
            client,
            worker.plan(client, None, route=worker.rng.choice([GATEWAY, *AT_HOME]), marked=True),
        )
        mount(client.http, worker.stage.urls[GATEWAY])
        worker.call(client, session_id)


WAYS: dict[str, Callable[[Worker], None]] = {
    "scope": in_a_scope,
    "nested scopes": in_nested_scopes,
    "sent again": sent_again,
    "generators": in_generators,
    "pool": in_a_pool,
    "thread": in_a_thread,
    "tasks": in_tasks,
    "remounting": while_remounting,
}
