"""Measurements of whole requests to an nginx on loopback: single, in threads and streamed."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from sending import BODY, MARKER
from turns import Case, Turns, in_turns

from cagent_session import SESSION_ID_HEADER, current_session_id, mount, session_scope

CALLS, EVENTS = 48, 1000  # calls of all threads together; events of a stream
EVENT = 'data: {"choices": [{"index": 0, "delta": {"content": "word "}}]}\n\n'
SESSION_ID, NO_SESSION = "sess-1", "nobody"  # of equal length, so that answers have the same size


@contextlib.contextmanager
def nginx() -> Iterator[str]:
    """Run an nginx and yield its URL. It answers with the session ID that it got."""
    configuration = Path(__file__).with_name("nginx.conf").read_text("utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # if root starts nginx, another user reads it
        Path(folder, "events").write_text(EVENT * EVENTS, "utf-8")
        Path(folder, "nginx.conf").write_text(configuration.replace("PORT", str(port)), "utf-8")
        program = shutil.which("nginx") or "/usr/sbin/nginx"
        with subprocess.Popen([program, f"-p{folder}", "-cnginx.conf", "-estderr"]) as process:
            try:
                while socket.socket().connect_ex(("127.0.0.1", port)):
                    assert process.poll() is None, "nginx has ended"
                    time.sleep(0.01)
                yield f"http://127.0.0.1:{port}"
            finally:
                process.terminate()


class FloorAdapter(HTTPAdapter):
    """Does the least that can be done: it adds a fixed ID, and checks no scope or marker."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> Any:
        stamped = request.copy()
        stamped.headers[SESSION_ID_HEADER] = SESSION_ID
        return super().send(stamped, *args, **kwargs)


def call(client: requests.Session, url: str, *, is_stamped: bool) -> None:
    sent, arrived = current_session_id(), client.post(url, json=BODY).text
    assert arrived == (sent if is_stamped else NO_SESSION), f"{sent} arrived as {arrived}"


def read_events(client: requests.Session, url: str) -> None:
    with client.get(f"{url}/events", stream=True) as response:
        assert sum(line.startswith(b"data") for line in response.iter_lines()) == EVENTS


def from_threads(pool: ThreadPoolExecutor, call: Case, threads: int) -> None:
    """Make CALLS calls in all. Each thread calls in its own session."""
    together = threading.Barrier(threads)

    def one_thread(number: int) -> None:
        together.wait()
        with session_scope(f"sess-{number:x}"):
            for _ in range(CALLS // threads):
                call()

    list(pool.map(one_thread, range(threads)))


@contextlib.contextmanager
def cases() -> Iterator[dict[str, Case]]:
    """Yield calls to an nginx. Each client adds the session ID in another way."""
    with nginx() as url, ThreadPoolExecutor(16) as pool:
        cases: dict[str, Case] = {}
        clients = {way: requests.Session() for way in ("bare", "by hand", "floor", "ours")}
        for way, client in clients.items():
            client.trust_env = False  # see peers.py
            client.headers.update(MARKER)
            client.mount("http://", HTTPAdapter(pool_maxsize=16))
            cases[way] = partial(call, client, url, is_stamped=way != "bare")
            cases[f"{way}, stream"] = partial(read_events, client, url)
            for threads in (4, 16):
                calls = partial(from_threads, pool, cases[way], threads)
                cases[f"{way}, {threads} threads"] = calls
        clients["by hand"].headers[SESSION_ID_HEADER] = SESSION_ID
        clients["floor"].mount("http://", FloorAdapter())
        mount(clients["ours"], url)
        yield cases


def turns(*names: str) -> Turns:
    with cases() as by_name, session_scope(SESSION_ID):
        return in_turns(by_name, names, by_cpu=False)
