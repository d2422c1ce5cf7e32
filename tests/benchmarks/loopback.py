"""What does it cost on the wire? Whole requests to an nginx on loopback, from several threads, and a stream."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import timeit
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from rounds import Row, Times, compared, paired
from sending import BODY, MARKER

from cagent_session import SESSION_ID_HEADER, mount, session_scope

THREADS = (1, 4, 16)
CALLS = 48  # of all threads together, each time
EVENTS = 1000
NOBODY = "nobody"  # as long as the IDs of sessions, so that the answers are as long
SECONDS = 0.02
LIMIT = 1.05  # 1.01 is wanted, which a stamp by the floor misses, too: ours is held to 1.02 of that
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])
CONFIGURATION = """
daemon off;
worker_processes 1;
error_log stderr;
pid "FOLDER/nginx.pid";
USER
events {}
http {
    access_log off;
    keepalive_requests 100000000;
    client_body_temp_path "FOLDER/1"; proxy_temp_path "FOLDER/2"; fastcgi_temp_path "FOLDER/3";
    uwsgi_temp_path "FOLDER/4"; scgi_temp_path "FOLDER/5";
    map $http_x_cagent_session_id $session { "" "nobody"; default $http_x_cagent_session_id; }
    server {
        listen 127.0.0.1:PORT;
        location = /events { root "FOLDER"; default_type text/event-stream; }
        location / { return 200 "$session"; }
    }
}
"""
EVENT = (
    'data: {"choices": [{"index": 0, "delta": {"content": "word "}, "finish_reason": null}]}\n\n'
)


class NotInstalled(Exception):  # noqa: N818 - reads as what it is
    """There is no nginx."""


class Wrong(Exception):  # noqa: N818 - reads as what it is
    """A request arrived in another session than it was sent in."""


class Floor(HTTPAdapter):
    """The least that can be done, as in sending.py, and no more: it asks for no scope, and looks for no marker."""

    def send(
        self, request: requests.PreparedRequest, *args: Any, **kwargs: Any
    ) -> requests.Response:
        stamped = request.copy()
        stamped.headers[SESSION_ID_HEADER] = "sess-1"
        return super().send(stamped, *args, **kwargs)


@contextlib.contextmanager
def nginx() -> Iterator[str]:
    """Run one that answers with the session ID that it got, and yield its URL.

    :raises NotInstalled: where there is none.
    """
    executable = shutil.which("nginx", path=PATH)
    if executable is None:
        raise NotInstalled("there is no nginx: apt-get install nginx")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "events").write_text(EVENT * EVENTS, "utf-8")
        configuration = Path(folder, "nginx.conf")
        user = "user root;" if os.geteuid() == 0 else ""  # or it reads the folder as another one
        text = (
            CONFIGURATION.replace("FOLDER", folder).replace("PORT", str(port)).replace("USER", user)
        )
        configuration.write_text(text, "utf-8")
        with subprocess.Popen([executable, "-c", str(configuration), "-e", "stderr"]) as process:
            try:
                await_listening(port, process)
                yield f"http://127.0.0.1:{port}"
            finally:
                process.terminate()


def await_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.01)
    raise RuntimeError("nginx has ended")


def client() -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # as in sending.py
    session.headers.update(MARKER)
    session.mount("http://", HTTPAdapter(pool_maxsize=max(THREADS)))
    return session


def call(session: requests.Session, url: str, expected: str) -> None:
    """Make one call, and look whose it was when it arrived."""
    arrived = session.post(url, json=BODY).text
    if arrived != expected:
        raise Wrong(f"a call of {expected!r} arrived as one of {arrived!r}")


def calls(
    pool: Executor, session: requests.Session, url: str, session_ids: list[str]
) -> Callable[[], object]:
    """Return what makes all calls at once, each thread's in the session of its own that *session_ids* names."""
    together = threading.Barrier(len(session_ids))

    def one_thread(session_id: str) -> None:
        together.wait()
        with session_scope(None if session_id == NOBODY else session_id):
            for _ in range(CALLS // len(session_ids)):
                call(session, url, session_id)

    return lambda: list(pool.map(one_thread, session_ids))


def stream(session: requests.Session, url: str) -> Callable[[], object]:
    def read() -> None:
        with session_scope("sess-1"), session.get(f"{url}/events", stream=True) as response:
            if sum(line.startswith(b"data") for line in response.iter_lines()) != EVENTS:
                raise Wrong("the stream is not whole")

    return read


def rows(rounds: int) -> tuple[Times, list[Row]]:
    with (
        nginx() as url,
        ThreadPoolExecutor(max(THREADS)) as pool,
        client() as bare,
        client() as by_hand,
        client() as floor,
        client() as ours,
    ):
        mount(ours, url)
        by_hand.headers[SESSION_ID_HEADER] = "sess-1"
        floor.mount("http://", Floor())
        with session_scope("sess-1"):
            whole = {
                "request, bare": timeit.Timer(lambda: call(bare, url, NOBODY)),
                "by hand": timeit.Timer(lambda: call(by_hand, url, "sess-1")),
                "floor on the wire": timeit.Timer(lambda: call(floor, url, "sess-1")),
                "request": timeit.Timer(lambda: call(ours, url, "sess-1")),
                "stream, bare": timeit.Timer(stream(bare, url)),
                "stream": timeit.Timer(stream(ours, url)),
            }
            times = paired(whole, rounds, SECONDS)
        for threads in THREADS[1:]:
            nobodys, own = [NOBODY] * threads, [f"sess-{number:x}" for number in range(threads)]
            threaded = {
                f"{threads} threads, bare": timeit.Timer(calls(pool, bare, url, nobodys)),
                f"{threads} threads": timeit.Timer(calls(pool, ours, url, own)),
            }
            times |= paired(threaded, rounds, SECONDS)
    measured = {
        "a request, ours": "request",
        **{
            f"{CALLS} requests from {threads} threads, ours": f"{threads} threads"
            for threads in THREADS[1:]
        },
        f"a streamed answer of {EVENTS:,} events, ours": "stream",
    }
    return times, [
        compared("a request, the header set by hand", times, "by hand", "request, bare"),
        compared("a request, stamped by the floor", times, "floor on the wire", "request, bare"),
        compared(
            "a request, ours, of one stamped by the floor",
            times,
            "request",
            "floor on the wire",
            1.02,
        ),
        *(compared(what, times, case, f"{case}, bare", LIMIT) for what, case in measured.items()),
    ]
