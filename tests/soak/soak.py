"""Make calls from many threads for a long time, and check every request that arrives.

The threads use every kind of client, and every way in which a session can reach a call. Two hosts
answer with redirects, errors, resets, and slow or truncated answers. There are these findings:

- wrong: a request carries a wrong ID or arrives too often, or a call ends in a way that is wrong
- leaked: an ``X-Cagent-*`` header arrives where it must not, or a scope stays open
- lost: a request arrives without its session's ID or not at all, or a call fails without a fault
- memory: the memory in use after a round grows. A round ends when all connections are closed
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import copy
import gc
import pickle
import random
import socket
import struct
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import httpx2
import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

import cagent_session as library
from cagent_session import FORWARD_HEADER, SESSION_ID_HEADER, Gateway, session_scope

RETRIES, TIMEOUT, ROUNDS, LONGEST_ROUND, ALLOWED_GROWTH = 3, 60, 12, 10, 0.005
IDENTITY = library.gateway_headers("https://api.openai.com/v1", provider="openai")
OWN_ID = {SESSION_ID_HEADER: "set-by-hand"}

# A route has a letter for each hop: g is the gateway, f is another host on another port, and a is
# the gateway under another host's name. All hops but the last one redirect.
AT_HOME = ("g", "gg", "ggg")
AWAY = ("gf", "ga", "gfg", "gag", "ggf", "gff", "gfag", "gggfg")
FROM_AWAY = ("f", "ff", "fg", "af", "ag")  # only with clients that know the gateway's URL
SENT_SHARE_OF = {"reset at once": 0, "reset in the head": 0.05, "reset": 0.7, "truncated": 0.8}
FAULTS = ["none", "slow", "503", *SENT_SHARE_OF]
CHUNKED = f"Transfer-Encoding: chunked\r\n\r\n1f4\r\n{'x' * 500}\r\n0\r\n\r\n"
NOT_CHUNKED = f"Content-Length: 500\r\n\r\n{'x' * 500}"
RETRY = Retry(RETRIES, status_forcelist=[503], allowed_methods=None)


def with_adapter(adapter: HTTPAdapter) -> requests.Session:
    session = requests.Session()
    session.mount("http://", adapter)
    return session


def with_hook(make: Callable[..., Any], gateway: Gateway) -> Any:
    hooks = {"request": [library.session_id_hook(gateway)]}
    return make(event_hooks=hooks, follow_redirects=True, timeout=TIMEOUT)


KINDS: dict[str, Callable[[Gateway], Any]] = {
    "mount": lambda gw: library.mount(requests.Session(), gw),
    "mount, retries": lambda gw: library.mount(with_adapter(HTTPAdapter(max_retries=RETRY)), gw),
    "copy": lambda gw: copy.copy(library.mount(requests.Session(), gw)),
    "deepcopy": lambda gw: copy.deepcopy(library.mount(requests.Session(), gw)),
    "pickle": lambda gw: pickle.loads(pickle.dumps(library.mount(requests.Session(), gw))),
    "adapter": lambda gw: with_adapter(library.SessionIdAdapter(gw, pool_maxsize=2)),
    "adapter, retries": lambda gw: with_adapter(library.SessionIdAdapter(gw, max_retries=RETRY)),
    "outer adapter": lambda gw: with_adapter(library.SessionIdAdapter(gw, inner=HTTPAdapter())),
    "factory": lambda gw: library.session_factory(requests.Session, gw)(),
    "factory, retries": lambda gw: library.session_factory(gateway=gw, max_retries=RETRY)(),
    "httpx": lambda gw: with_hook(httpx.Client, gw),
    "httpx2": lambda gw: with_hook(httpx2.Client, gw),
    "async httpx": lambda gw: with_hook(httpx.AsyncClient, gw),
    "async httpx2": lambda gw: with_hook(httpx2.AsyncClient, gw),
}
SYNC_KINDS, ASYNC_KINDS = list(KINDS)[:-2], list(KINDS)[-2:]


@dataclass
class Call:
    number: int
    client: Client
    session_id: str | None
    headers: dict[str, str]  # the X-Cagent-* headers that the caller sets
    route: str
    arrivals: list[tuple[int, str]] = field(default_factory=list)  # a hop and a fault each
    ended: str = "with another error"
    hops: int = 0  # how many redirects the client followed

    def url(self, hop: int) -> str:
        return f"{self.client.soak.urls[self.route[hop]]}/{self.number}/{hop}"

    def expected(self, hop: int) -> dict[str, str]:
        """Return the ``X-Cagent-*`` headers that must arrive at *hop*."""
        if FORWARD_HEADER not in self.headers or set(self.route[: hop + 1]) != {"g"}:
            return {}
        return self.headers | ({SESSION_ID_HEADER: self.session_id} if self.session_id else {})

    def check_request(self, hop: int, headers: Any) -> Iterator[str]:
        expected = self.expected(hop)
        found = [pair for pair in headers.items() if pair[0].lower().startswith("x-cagent-")]
        if sorted(found) != sorted(expected.items()):
            bound_for_it = "wrong" if SESSION_ID_HEADER in headers else "lost"
            yield f"{bound_for_it if expected else 'leaked'}: hop {hop} of {self} got {found}"
        times = [arrived for arrived, _ in self.arrivals].count(hop)
        if times > 1 + RETRIES * self.client.kind.endswith("retries"):
            yield f"wrong: hop {hop} of {self} arrived {times} times"

    def check_end(self) -> Iterator[str]:
        arrived, faults = {hop for hop, _ in self.arrivals}, {fault for _, fault in self.arrivals}
        is_missing = self.client.gateway.missing == "raise" and self.expected(0) == IDENTITY
        if (self.ended == "refused") != is_missing or (is_missing and arrived):
            yield f"wrong: refused, or should have been: {self}"
        if self.ended == "completed" and arrived != set(range(self.hops + 1)):
            yield f"{'wrong' if len(arrived) > self.hops else 'lost'}: hops {arrived} of {self}"
        if self.ended.startswith("failed") and faults <= {"none", "slow"}:
            yield f"lost: failed without a reason: {self}"


class Client:
    """A client of one kind. Methods named ``in_`` or ``one_`` are ways to call in a session."""

    def __init__(self, soak: Soak, kind: str) -> None:
        self.soak, self.kind, urls = soak, kind, random.choice([(), (soak.urls["g"],)])
        self.gateway = Gateway(*urls, missing=random.choice(["omit", "omit", "omit", "raise"]))
        self.http = KINDS[kind](self.gateway)

    def __repr__(self) -> str:
        return f"<{self.kind} for {self.gateway!r}>"

    def call(self, session_id: object, again: Any = None, **fixed: Any) -> Any:
        """Make a call that must arrive in this session. Return a request to send *again*."""
        call, request = self.plan(session_id, again, **fixed)
        with self.ending(call) as answers:
            answers.append(response := self.http.send(request, stream=True))
            read = getattr(response, "iter_content", None) or response.iter_bytes
            with contextlib.closing(response):
                any(random.random() < 0.1 for _ in read(64))  # reads all or a part
        return random.choice([request, *(answer.request for answer in answers)])

    async def call_async(self, session_id: object) -> None:
        call, request = self.plan(session_id)
        with self.ending(call) as answers:
            answers.append(await self.http.send(request))

    def plan(self, session_id: Any, again: Any = None, **fixed: Any) -> tuple[Call, Any]:
        routes = random.choice([AT_HOME, AWAY + FROM_AWAY * len(self.gateway.urls)])
        headers = random.choice([{}, OWN_ID, IDENTITY | OWN_ID, *[IDENTITY] * 20])
        plan: dict[str, Any] = {"headers": headers, "route": random.choice(routes), **fixed}
        call = Call(random.getrandbits(64), self, session_id and str(session_id), **plan)
        self.soak.calls[call.number] = call
        if again is not None:
            again.url = type(again.url)(call.url(0))
            return call, again
        what: dict[str, Any] = {"method": "POST", "url": call.url(0), "headers": call.headers}
        if isinstance(self.http, requests.Session):
            return call, self.http.prepare_request(requests.Request(**what))
        return call, self.http.build_request(**what)

    @contextlib.contextmanager
    def ending(self, call: Call) -> Iterator[list[Any]]:
        """Record how *call* ends. The caller puts the answer into the list."""
        answers: list[Any] = []
        try:
            yield answers
            call.ended, call.hops = "completed", len(answers[0].history)
        except library.MissingSessionId:
            call.ended = "refused"
        except (requests.RequestException, httpx.HTTPError, httpx2.HTTPError) as error:
            call.ended = f"failed: {error!r}"
        except Exception as error:  # noqa: BLE001 - a client must raise no other errors
            self.soak.findings.append(f"wrong: {error!r} from {call}")

    def in_scopes(self) -> None:
        outer, inner = self.soak.session(), self.soak.session()
        with session_scope(outer):
            self.call(outer)
            with session_scope(None), session_scope(inner):
                self.call(inner)
            self.call(outer)

    def one_request_again(self) -> None:
        """Send a request in several sessions: the caller's request, or that of the last answer."""
        request = None
        for session_id in (self.soak.session(), None, self.soak.session()):
            fixed = {"route": random.choice(AT_HOME), "headers": IDENTITY}
            with session_scope(session_id):
                request = self.call(session_id, request, **fixed)

    def in_generators(self) -> None:
        @library.in_session("session_id")
        def run_loop(session_id: Any) -> Iterator[None]:
            yield self.call(session_id)
            yield self.call(session_id)

        loops = [run_loop(self.soak.session()) for _ in range(3)]
        while loops:
            loop = random.choice(loops)
            if random.random() < 0.1 or next(loop, loop) is loop:
                loops.remove(loop)  # some loops are dropped before they end
            self.call(None)

    def in_pools_and_threads(self) -> None:
        session_id = self.soak.session()
        with session_scope(session_id):
            thread = threading.Thread(target=library.carry_session(self.call), args=[session_id])
            thread.start()
            jobs = [self.soak.pool.submit(self.call, session_id) for _ in range(2)]
            jobs.append(self.soak.plain_pool.submit(self.call, None))
            list(self.soak.pool.map(self.call, [session_id] * 2))
        for wait in (thread.join, *(job.result for job in jobs)):
            wait()

    def in_tasks(self) -> None:
        client = Client(self.soak, random.choice(ASYNC_KINDS))

        @library.in_session("session_id")
        async def run_loop(session_id: Any) -> AsyncIterator[None]:
            await client.call_async(session_id)
            yield
            await asyncio.to_thread(self.call, session_id)

        @library.in_session("session_id")
        async def run(session_id: Any) -> None:
            loops = [run_loop(self.soak.session()) for _ in range(3)]
            async with client.http:
                for _ in range(2):
                    steps = [anext(loop, None) for loop in loops]
                    await asyncio.gather(*steps, client.call_async(session_id))

        asyncio.run(run(self.soak.session()))


WAYS = [getattr(Client, name) for name in vars(Client) if name.startswith(("in_", "one_"))]


class Connection(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm, timeout = "HTTP/1.1", True, TIMEOUT
    soak: Soak

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # a client may hang up
            super().handle()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        number, hop = map(int, self.path.split("/")[1:])
        call, fault = self.soak.calls[number], random.choice(["none"] * 20 + FAULTS)
        call.arrivals.append((hop, fault))
        self.soak.findings += call.check_request(hop, self.headers)
        status, location = (503 if fault == "503" else 200), ""
        if status == 200 and hop + 1 < len(call.route):
            status = random.choice([301, 302, 303, 307, 308])
            location = f"Location: {call.url(hop + 1)}\r\n"
        answer = f"HTTP/1.1 {status} -\r\n{location}" + random.choice([CHUNKED, NOT_CHUNKED])
        answer = answer[: int(len(answer) * SENT_SHARE_OF.get(fault, 1))]
        for part in (answer[:100], answer[100:300], answer[300:]):
            self.wfile.write(part.encode())
            time.sleep(0.01 if fault == "slow" else 0)
        self.close_connection = fault in SENT_SHARE_OF
        if fault.startswith("reset"):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            socket.close(self.connection.detach())

    do_GET = do_POST  # noqa: N815 - http.server's name

    def log_message(self, format: str, *_: Any) -> None: ...  # noqa: A002 - the base's name


class Soak:
    def __init__(self, sessions: int) -> None:
        odd = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"  # an ID may have these, too
        self.sessions = [f"{n}{odd}" if n % 2 else uuid.uuid4() for n in range(sessions)]
        self.calls: dict[int, Call] = {}  # the calls of this round
        self.findings, self.counts, self.blocks = list[str](), Counter[str](), list[int]()
        handler = type("Handler", (Connection,), {"soak": self})
        hosts = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
        for host in hosts:
            host.socket.listen(1024)
            threading.Thread(target=host.serve_forever, daemon=True).start()
        home, away = (host.server_address[1] for host in hosts)
        self.urls = {"g": f"http://127.0.0.1:{home}", "a": f"http://localhost:{home}"}
        self.urls["f"] = f"http://localhost:{away}"
        self.plain_pool = ThreadPoolExecutor(8)
        self.pool = library.SessionExecutor(self.plain_pool)

    def session(self) -> Any:
        return random.choice([None, f"new-{uuid.uuid4()}", *random.choices(self.sessions, k=6)])

    def run(self, seconds: float, threads: int) -> None:
        rounds = max(ROUNDS, round(seconds / LONGEST_ROUND))
        with contextlib.suppress(KeyboardInterrupt), ThreadPoolExecutor(threads) as pool:
            while len(self.blocks) < rounds and not self.findings:
                self.shared = [Client(self, kind) for kind in 2 * SYNC_KINDS]
                list(pool.map(self.work, [time.monotonic() + seconds / rounds] * threads))
                self.end_round()
        quarter = len(self.blocks) // 4
        early, late = self.blocks[quarter : 2 * quarter], self.blocks[-quarter:]
        if quarter > 1 and min(late) > min(early) * (1 + ALLOWED_GROWTH):
            self.findings.append(f"memory: {min(early)} blocks early, {min(late)} late")

    def work(self, end: float) -> None:
        while time.monotonic() < end and not self.findings:
            way = random.choice(WAYS)
            way(random.choice(self.shared))
            self.counts[f"way {way.__name__}"] += 1
            if library.current_session_id() is not None:
                self.findings.append(f"leaked: {way.__name__} has left a scope open")

    def end_round(self) -> None:
        for client in self.shared:
            client.http.close()
        while any("process_request" in thread.name for thread in threading.enumerate()):
            gc.collect()  # closes the connections of answers that were not read to the end
            time.sleep(0.01)
        for call in self.calls.values():
            self.findings += call.check_end()
            self.counts.update([call.ended.split(":")[0], f"route {call.route}", call.client.kind])
            self.counts.update(f"fault {fault}" for _, fault in call.arrivals)
        self.calls.clear()
        gc.collect()
        self.blocks.append(sys.getallocatedblocks())


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    for name, default in {"minutes": 0.5, "threads": 32, "sessions": 200}.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    options = parser.parse_args()
    soak = Soak(options.sessions)
    soak.run(60 * options.minutes, options.threads)
    for name, count in sorted(soak.counts.items()):
        print(f"{count:8} {name}")
    print("blocks of memory in use after each round:", *soak.blocks)
    print(*soak.findings[:5], f"found: {len(soak.findings)}", sep="\n")
    sys.exit(bool(soak.findings))


if __name__ == "__main__":
    main()
