"""Start the servers, and nginx in front of them."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from cagent_session.testing import ModelsGateway

HERE = Path(__file__).parent
# A client on a busy machine may pause for seconds. If the server closed its connection meanwhile,
# its next request could fail.
UVICORN = "uvicorn --timeout-keep-alive 60 --port {port}"
GUNICORN = "gunicorn --keep-alive 60 --bind 127.0.0.1:{port}"
SERVERS = {
    "uvicorn": f"{UVICORN} --loop asyncio",
    "uvicorn h11": f"{UVICORN} --loop asyncio --http h11",
    "uvicorn reset": f"{UVICORN} --loop asyncio --reset-contextvars",
    "uvloop": f"{UVICORN} --loop uvloop",
    "hypercorn": "hypercorn --keep-alive 60 --bind 127.0.0.1:{port}",
    "granian": "granian --interface asgi --port {port}",
    "sync": f"{GUNICORN} --worker-class sync",
    "gthread": f"{GUNICORN} --worker-class gthread --threads 8",
    "gthread 1": f"{GUNICORN} --worker-class gthread --threads 1",
    "gevent": f"{GUNICORN} --worker-class gevent",
}
ASGI_SERVERS = ["uvicorn", "uvloop", "hypercorn", "granian"]
WSGI_SERVERS = ["sync", "gthread", "gevent"]

# One process, so that all requests share its connections. Bodies stay in memory. nginx closes idle
# connections before the server does: a request that arrives at that moment would be answered 502.
NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
events {{}}
http {{
    access_log off;
    client_max_body_size 2m;
    client_body_buffer_size 2m;
    client_body_temp_path {folder};
    proxy_temp_path {folder};
    fastcgi_temp_path {folder};
    uwsgi_temp_path {folder};
    scgi_temp_path {folder};
    upstream app {{
        server 127.0.0.1:{app_port};
        keepalive 4;
        keepalive_timeout 1s;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
        }}
        location /websocket {{
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Connection upgrade;
            proxy_set_header Upgrade websocket;
        }}
    }}
}}
"""


class Server(NamedTuple):
    """A server of the application *app*, which calls *gateway*. *nginx* stands in front of it."""

    app: str
    url: str
    nginx: str
    gateway: ModelsGateway


@contextmanager
def started(name: str, app: str, folder: Path) -> Iterator[Server]:
    """Start a gateway, the server *name* with *app*, and an nginx."""
    with (
        ModelsGateway() as gateway,
        serving(name, app, gateway.url, folder) as url,
        behind_nginx(url, folder) as nginx,
    ):
        yield Server(app, url, nginx, gateway)


@contextmanager
def serving(server: str, app: str, gateway: str, folder: Path) -> Iterator[str]:
    """Serve *app*, ``module:name``, on *server*. Give its URL. It calls *gateway*."""
    port = free_port()
    command = [sys.executable, "-m", *SERVERS[server].format(port=port).split(), app]
    with running(command, port, folder / "server.log", CAGENT_MODELS_GATEWAY=gateway):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def behind_nginx(url: str, folder: Path) -> Iterator[str]:
    """Start an nginx that keeps at most four idle connections to the server at *url*. Give its URL.

    If there is no nginx, the tests skip. In CI they fail.
    """
    nginx = shutil.which("nginx", path=os.pathsep.join([os.environ["PATH"], "/usr/sbin"]))
    if nginx is None:
        reason = "there is no nginx: apt-get install nginx"
        raise RuntimeError(reason) if "CI" in os.environ else pytest.skip.Exception(reason)
    port, config = free_port(), folder / "nginx.conf"
    config.write_text(
        NGINX.format(folder=folder, port=port, app_port=url.rpartition(":")[2]), encoding="utf-8"
    )
    log = folder / "nginx.log"
    with running([nginx, "-c", str(config), "-e", str(log)], port, log):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def running(command: list[str], port: int, log: Path, **variables: str) -> Iterator[None]:
    """Run *command* until the end of the block. It must listen on *port*."""
    environment = {**os.environ, **variables}
    with (
        log.open("ab") as out,
        subprocess.Popen(command, cwd=HERE, stdout=out, stderr=out, env=environment) as process,
    ):
        try:
            deadline = time.monotonic() + 60
            while not listens(port):
                assert process.poll() is None, log.read_text(encoding="utf-8")
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def free_port() -> int:
    """Return a free port. It is in a range that Linux does not give to clients' connections."""
    while True:
        port = 20000 + secrets.randbelow(12000)  # Linux gives clients the ports from 32768
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
